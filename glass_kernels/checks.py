"""Argument checks: each raises ValueError naming the argument, what it was and what it must be."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

INTEGERS = (torch.int32, torch.int64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _shape_matches(actual: Sequence[int], wanted: Sequence[int | None]) -> bool:
    if len(actual) != len(wanted):
        return False
    return all(w is None or a == w for a, w in zip(actual, wanted, strict=True))


def check_tensor(
    name: str,
    value: Tensor,
    *,
    ndim: int | None = None,
    shape: Sequence[int | None] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    device: torch.device | None = None,
) -> None:
    """Checks type, number of dimensions, shape (None: any size), dtype and device of a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, was {type(value).__name__}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, had shape {tuple(value.shape)}")
    if shape is not None and not _shape_matches(value.shape, shape):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted}], had {list(value.shape)}")
    if dtypes is not None and value.dtype not in dtypes:
        raise ValueError(f"{name} must be {_names(dtypes)}, was {_names((value.dtype,))}")
    if device is not None and value.device != device:
        raise ValueError(
            f"{name} must be on {device} like the other tensors, was on {value.device}"
        )


def checks_values(value: Tensor) -> bool:
    """Whether to look at values: on CPU, or on a GPU (it synchronises) under GLASS_CHECK=1.

    Never while `torch.compile` or `torch.export` traces.
    """
    if torch.compiler.is_compiling():
        return False
    return value.device.type == "cpu" or os.environ.get("GLASS_CHECK", "0") == "1"


def check_offsets(name: str, offsets: Tensor, total: int) -> None:
    """Checks that `offsets` is int64 [B+1], starts at 0, never falls and ends at `total`."""
    check_tensor(name, offsets, ndim=1, dtypes=(torch.int64,))
    if offsets.shape[0] < 1:
        raise ValueError(f"{name} must have B + 1 >= 1 entries, was empty")
    if not checks_values(offsets):
        return
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0:
        raise ValueError(f"{name} must start at 0, started at {first}")
    if last != total:
        raise ValueError(f"{name} must end at the number of values {total}, ended at {last}")
    falls = offsets[1:] < offsets[:-1]
    if bool(falls.any()):
        where = int(falls.nonzero()[0])
        raise ValueError(
            f"{name} must not fall, went from {int(offsets[where])} to "
            f"{int(offsets[where + 1])} at row {where}"
        )


def check_ids(name: str, ids: Tensor, low: int, high: int) -> None:
    """Checks that `ids` is int32 or int64 with every value in [low, high)."""
    check_tensor(name, ids, dtypes=INTEGERS)
    if ids.numel() == 0 or not checks_values(ids):
        return
    smallest, largest = (int(bound) for bound in torch.aminmax(ids))
    if smallest < low or largest >= high:
        wrong = smallest if smallest < low else largest
        raise ValueError(f"{name} must be in [{low}, {high}), held {wrong}")
