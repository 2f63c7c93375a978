"""Residual quantisation in C++: the codes of the reference, whatever is near what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glass_kernels import residual_quantize
from glass_kernels.residual_quantize.library import AVAILABLE
from tests.helpers.residual_cases import near_cases

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(params=["", "avx2", "base"], ids=["best", "avx2", "base"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GLASS_CPU_SIMD", request.param)
    return request.param


def assert_equal(x: Tensor, codebooks: Tensor | list[Tensor]) -> Tensor:
    for normalize in (True, False):
        ours = residual_quantize(x, codebooks, normalize_residual=normalize, backend="cpp")
        theirs = residual_quantize(x, codebooks, normalize_residual=normalize, backend="reference")
        assert ours.dtype == torch.int32
        assert torch.equal(ours, theirs)
    return ours


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [1, 7, 16, 300])
def test_equals_reference(dim: int, dtype: torch.dtype) -> None:
    # fewer rows than are worth packing for, some, and more than a block
    for rows in (0, 1, 7, 8, 203):
        for sizes in ((1,), (5, 3), (2,) * 8, (300,)):
            codebooks = [torch.randn(k, dim).mul(0.5**i).to(dtype) for i, k in enumerate(sizes)]
            assert_equal(torch.randn(rows, dim).to(dtype), codebooks)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", near_cases(270, torch.float32))
def test_near_and_extreme(case: str, dtype: torch.dtype) -> None:
    assert_equal(*near_cases(270, dtype)[case])


def test_ties_far_apart_take_the_lowest_code() -> None:
    # in blocks of keys of their own, and the first of them not the first code
    codebook = torch.randn(700, 5)
    codebook[[3, 299, 690]] = torch.tensor([9.0, 0, 0, 0, 0])
    x = codebook[3] + 0.01 * torch.randn(20, 5)
    assert assert_equal(x, codebook[None]).eq(3).all()


def test_views() -> None:
    x, codebooks = torch.randn(6, 50).T[::2], torch.randn(6, 40, 3).permute(2, 1, 0)[:, ::2]
    assert not x.is_contiguous()
    assert_equal(x, codebooks)
    assert_equal(torch.randn(6).expand(30, 6), codebooks)


def test_no_columns() -> None:
    assert assert_equal(torch.zeros(20, 0), torch.zeros(2, 3, 0)).eq(0).all()


def test_threads_do_not_change_the_codes() -> None:
    x, codebooks = torch.randn(900, 20), torch.randn(2, 70, 20)
    one = residual_quantize(x, codebooks, backend="cpp")
    torch.set_num_threads(3)
    try:
        many = residual_quantize(x, codebooks, backend="cpp")
        x[[880, 400, 650], 3] = float("nan")
        with pytest.raises(ValueError, match=r"x must be finite.* in row 400$"):
            residual_quantize(x, codebooks, backend="cpp")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, many)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", [4, 60])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(value: float, rows: int, normalize: bool) -> None:
    x, codebooks = torch.randn(rows, 5), torch.randn(2, 6, 5)
    x[3, 4] = value
    with pytest.raises(ValueError, match=r"x must be finite, held NaN or infinity in row 3$"):
        residual_quantize(x, codebooks, normalize_residual=normalize, backend="cpp")
    codebooks[1, 5, 0] = value
    with pytest.raises(ValueError, match=r"codebooks\[1\] must be finite.* in row 5$"):
        residual_quantize(x, codebooks, normalize_residual=normalize, backend="cpp")


@pytest.mark.parametrize(
    ("x", "codebooks", "message"),
    [
        (torch.zeros(3), [torch.zeros(5, 4)], "x must have 2 dimensions"),
        (torch.zeros(3, 4), [], "codebooks must have at least one level"),
        (torch.zeros(3, 4), [torch.zeros(4)], "codebooks must have 2 dimensions"),
        (torch.zeros(3, 4), [torch.zeros(5, 3)], "codebooks must have 4 columns"),
        (torch.zeros(3, 4), [torch.zeros(0, 4)], "codebooks must have at least one centroid"),
        (torch.zeros(3, 4), [torch.zeros(5, 4).double()], "codebooks must have the dtype of x"),
        (torch.zeros(3, 4).int(), [torch.zeros(5, 4).int()], "x must be float32"),
    ],
)
def test_kernel_checks_what_keeps_memory_safe(x, codebooks, message) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.glass.residual_quantize(x, codebooks, False)


def test_registered_as_an_operator() -> None:
    codebooks = [torch.randn(5, 4), torch.randn(3, 4)]
    op = torch.ops.glass.residual_quantize.default
    torch.library.opcheck(op, (torch.randn(9, 4), codebooks, True))
    compiled = torch.compile(residual_quantize, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (9, 20):
        x = torch.randn(rows, 4)
        assert torch.equal(compiled(x, codebooks), residual_quantize(x, codebooks))
