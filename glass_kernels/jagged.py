"""Jagged batches: flat `values` [T] and `offsets` [B+1] int64, row b is values[o[b]:o[b+1]]."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.checks import INTEGERS, check_ids, check_tensor


def lengths_to_offsets(lengths: Tensor) -> Tensor:
    """Running sum of `lengths` int [B] with a leading 0: int64 [B+1].

    Raises ValueError if `lengths` is not an integer vector or holds a negative number.
    """
    check_tensor("lengths", lengths, ndim=1, dtypes=INTEGERS)
    check_ids("lengths", lengths, 0, 2**63 - 1)
    offsets = torch.zeros(lengths.shape[0] + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, dtype=torch.int64, out=offsets[1:])
    return offsets


def pad_to_jagged(
    padded: Tensor, lengths: Tensor, *, left_padded: bool = False
) -> tuple[Tensor, Tensor]:
    """Drops the padding of `padded` [B, L, ...]: (values [T, ...], offsets int64 [B+1]).

    Args:
        padded: [B, L, ...]; row b holds `lengths[b]` entries, then padding.
        lengths: int [B], each in [0, L].
        left_padded: the padding comes before the entries instead.

    Raises ValueError for wrong shapes or lengths outside [0, L].
    """
    check_tensor("padded", padded)
    if padded.ndim < 2:
        raise ValueError(f"padded must be [B, L, ...], had shape {list(padded.shape)}")
    width = padded.shape[1]
    check_tensor("lengths", lengths, shape=(padded.shape[0],), device=padded.device)
    check_ids("lengths", lengths, 0, width + 1)
    column = torch.arange(width, device=padded.device)
    size = lengths.to(torch.int64)[:, None]
    kept = column >= width - size if left_padded else column < size
    return padded[kept], lengths_to_offsets(lengths)


def offsets_to_segments(offsets: Tensor, total: int | None = None) -> Tensor:
    """Row of each value: int64 [T], for `offsets` int64 [B+1].

    `total` is T if the caller knows it; without it, a GPU has to be waited for.
    """
    check_tensor("offsets", offsets, ndim=1, dtypes=(torch.int64,))
    rows = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=total)
