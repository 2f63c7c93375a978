"""Jagged helpers and the checks of arguments."""

from __future__ import annotations

import pytest
import torch

from glass_kernels import lengths_to_offsets, offsets_to_segments, pad_to_jagged
from glass_kernels.checks import check_ids, check_offsets, check_tensor


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lengths_to_offsets(dtype: torch.dtype) -> None:
    offsets = lengths_to_offsets(torch.tensor([2, 0, 3], dtype=dtype))
    assert offsets.dtype == torch.int64
    assert offsets.tolist() == [0, 2, 2, 5]
    assert lengths_to_offsets(torch.zeros(0, dtype=dtype)).tolist() == [0]


def test_offsets_pass_32_bits() -> None:
    lengths = torch.tensor([2**31 - 1, 2**31 - 1], dtype=torch.int32)
    assert lengths_to_offsets(lengths)[-1].item() == 2**32 - 2


def test_pad_to_jagged_right_and_left() -> None:
    padded = torch.tensor([[1, 2, 0], [0, 0, 0], [3, 4, 5]])
    lengths = torch.tensor([2, 0, 3])
    values, offsets = pad_to_jagged(padded, lengths)
    assert values.tolist() == [1, 2, 3, 4, 5]
    assert offsets.tolist() == [0, 2, 2, 5]
    values, _ = pad_to_jagged(padded.flip(1), lengths, left_padded=True)
    assert values.tolist() == [2, 1, 5, 4, 3]


def test_pad_to_jagged_keeps_trailing_dimensions() -> None:
    values, offsets = pad_to_jagged(torch.arange(12.0).view(2, 2, 3), torch.tensor([1, 2]))
    assert values.shape == (3, 3)
    assert values[1].tolist() == [6, 7, 8]
    assert offsets.tolist() == [0, 1, 3]


def test_segments() -> None:
    offsets = torch.tensor([0, 2, 2, 5])
    assert offsets_to_segments(offsets).tolist() == [0, 0, 2, 2, 2]
    assert offsets_to_segments(offsets, 5).tolist() == [0, 0, 2, 2, 2]
    assert offsets_to_segments(torch.tensor([0])).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lengths_to_offsets(torch.tensor([1, -1])), r"lengths must be in .* held -1"),
        (lambda: lengths_to_offsets(torch.tensor([1.0])), "lengths must be int32 or int64"),
        (
            lambda: pad_to_jagged(torch.zeros(2, 3), torch.tensor([1, 4])),
            r"lengths must be in \[0, 4\), held 4",
        ),
        (
            lambda: pad_to_jagged(torch.zeros(2, 3), torch.tensor([1])),
            r"lengths must have shape \[2\]",
        ),
        (lambda: pad_to_jagged(torch.zeros(2), torch.tensor([1, 1])), r"padded must be \[B, L"),
        (lambda: check_offsets("o", torch.tensor([1, 3]), 3), "o must start at 0, started at 1"),
        (lambda: check_offsets("o", torch.tensor([0, 2]), 3), "end at the number of values 3"),
        (lambda: check_offsets("o", torch.tensor([0, 2, 1, 3]), 3), "from 2 to 1 at row 1"),
        (lambda: check_offsets("o", torch.tensor([], dtype=torch.int64), 0), "o must have B"),
        (lambda: check_offsets("o", torch.tensor([0], dtype=torch.int32), 0), "o must be int64"),
        (lambda: check_ids("ids", torch.tensor([0, 7]), 0, 7), r"ids must be in \[0, 7\), held 7"),
        (lambda: check_ids("ids", torch.tensor([-2, 3]), 0, 7), "held -2"),
        (lambda: check_tensor("x", [1]), "x must be a tensor, was list"),
        (lambda: check_tensor("x", torch.zeros(2, 3), shape=(None, 4)), r"shape \[any, 4\], had"),
        (lambda: check_tensor("x", torch.zeros(2), ndim=2), "x must have 2 dimensions"),
        (
            lambda: check_tensor("x", torch.zeros(2), device=torch.device("meta")),
            "x must be on meta",
        ),
    ],
)
def test_mistakes_name_the_argument(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_helpers_compile_without_a_graph_break() -> None:
    def both(lengths: torch.Tensor) -> torch.Tensor:
        return offsets_to_segments(lengths_to_offsets(lengths), 5)

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    assert compiled(torch.tensor([2, 0, 3])).tolist() == [0, 0, 2, 2, 2]
