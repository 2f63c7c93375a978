"""Residual quantisation in Triton: the codes of the reference, whatever is near what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glass_kernels import residual_quantize
from glass_kernels.residual_quantize import triton_kernel
from tests.helpers.residual_cases import near_cases

# numbers that are too large are part of the cases; NumPy, which interprets, says so
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]


def assert_equal(
    x: Tensor, codebooks: Tensor | list[Tensor], *, normalize: tuple[bool, ...] = (False, True)
) -> Tensor:
    for flag in normalize:
        ours = residual_quantize(x, codebooks, normalize_residual=flag, backend="triton")
        theirs = residual_quantize(x, codebooks, normalize_residual=flag, backend="reference")
        assert ours.dtype == torch.int32
        assert torch.equal(ours, theirs)
    return ours


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "dim"), [(0, 5), (1, 1), (67, 7), (20, 33)])
def test_equals_reference(rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
    for sizes in ((1,), (5, 3, 70)):
        books = [torch.randn(k, dim).mul(0.5**i) for i, k in enumerate(sizes)]
        x = torch.randn(rows, dim).to(device, dtype)
        assert_equal(x, [book.to(device, dtype) for book in books])


@pytest.mark.parametrize("case", near_cases(10, torch.float32))
def test_near_and_extreme(case: str, device: torch.device) -> None:
    x, codebooks = near_cases(10, torch.float32)[case]
    levels = 2 if case == "whole numbers" else 1  # each centroid takes a second, interpreted
    assert_equal(x[:60].to(device), codebooks[:levels].to(device), normalize=(levels == 2,))


def test_more_blocks_than_programs(device: torch.device) -> None:
    most = triton_kernel.MOST_ROWS
    x = torch.randn(3 * most + 5, 3, device=device)
    assert_equal(x, torch.randn(2, 4, 3, device=device), normalize=(False,))


def test_views(device: torch.device) -> None:
    x = torch.randn(6, 50, device=device).T[::2]
    assert_equal(x, torch.randn(6, 9, 2, device=device).permute(2, 1, 0), normalize=(False,))


def test_wrong_values_lead_nowhere(device: torch.device) -> None:
    # unchecked on a card: any code, but a code
    x = torch.randn(20, 5, device=device)
    x[3, 1], x[7, 2] = float("nan"), float("inf")
    books = torch.randn(2, 6, 5, device=device)
    books[0, 2, 3] = float("nan")
    codes = torch.ops.glass.residual_quantize_triton(x, list(books), False)
    assert codes.ge(0).all()
    assert codes.lt(6).all()


def test_registered_as_an_operator(device: torch.device) -> None:
    x, books = torch.randn(9, 4, device=device), [torch.randn(5, 4, device=device)] * 2
    op = torch.ops.glass.residual_quantize_triton
    torch.library.opcheck(op.default, (x, books, True))

    def quantize(x: Tensor) -> Tensor:
        return residual_quantize(x, books, backend="triton")

    compiled = torch.compile(quantize, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), quantize(x))


def test_float64_has_no_kernel() -> None:
    with pytest.raises(RuntimeError, match=r"residual_quantize of float64.*'triton'"):
        residual_quantize(
            torch.zeros(2, 3).double(), torch.zeros(1, 2, 3).double(), backend="triton"
        )
