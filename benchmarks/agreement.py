"""When a side's result counts as the reference's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.histories import Batch

Agree = Callable[[str, Any, Any, Any], None]
"""Of a side's name, its result, the reference's and the batch; raises DiffersError."""


class DiffersError(RuntimeError):
    """A side's result is not the reference's: its time would mean nothing."""


def check_equal(name: str, got: Tensor, truth: Tensor) -> None:
    if got.shape != truth.shape or not torch.equal(got, truth):
        raise DiffersError(f"{name} differs from the reference")


def parts(result: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (result,) if isinstance(result, Tensor) else result


def exactly(name: str, got: Any, truth: Any, _: object) -> None:
    """Bit for bit; a tensor, or as many of them."""
    for one, other in zip(parts(got), parts(truth), strict=True):
        check_equal(name, one, other)


def tiers_close(share: float) -> Agree:
    """At most `share` of all (event, code) pairs may be in another tier than in the reference.

    And a millionth, since plain forms divide in float32, which rounds once more.
    """

    def agree(name: str, got: Tensor, truth: Tensor, batch: Batch) -> None:
        _check_shape(name, got, truth)
        moved = (got.double() - truth.double()).abs_().sum((1, 2)) @ batch.lengths.double() / 2
        pairs = int(batch.lengths.sum()) * truth.shape[1]
        if not moved <= (share + 1e-6) * pairs:  # also where it is not a number
            raise DiffersError(f"{name}: {moved:.0f} of {pairs} pairs differ from the reference")

    return agree


FLOAT32 = 2e-5
"""Largest error that float32 may make, as a share of a tensor's largest value.

A sum of n products rounds n times by at most 6e-8 of its terms; in random directions that makes
6e-8 sqrt(n). The longest sums here, weight gradients over some 10^5 tokens, come to 2e-5.
"""


def float32_close(name: str, got: Any, truth: Any, _: object) -> None:
    """Tensors in float32 against as many in float64: `FLOAT32` of the tensor's largest value."""
    for i, (one, other) in enumerate(zip(parts(got), parts(truth), strict=True)):
        _check_shape(name, one, other)
        error, largest = error_of(one, other), float(other.abs().max())
        if not error <= FLOAT32 * largest:  # also where it is not a number
            raise DiffersError(
                f"{name}: result {i} differs from the reference by {error:.1e}, "
                f"its largest value is {largest:.1e}"
            )


def error_of(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth).abs().max())


def _check_shape(name: str, got: Tensor, truth: Tensor) -> None:
    if got.shape != truth.shape:
        raise DiffersError(f"{name}: shape {list(got.shape)}, the reference {list(truth.shape)}")
