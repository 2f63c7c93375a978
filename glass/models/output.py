"""What every model's training forward pass gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A summand of a loss."""

    value: Tensor
    """A mean times its weight in the loss; scalar with gradient."""
    count: Tensor | int
    """Of how many things it is the mean."""


@dataclass(frozen=True)
class Output:
    """Of a training forward pass."""

    loss: Tensor
    """What is minimised: the mean cross-entropy over all levels of all targets, and whatever a
    model adds to it; scalar."""
    hits: Tensor
    """Teacher-forced hits per level: bool [B, S, L]; false where there is no target."""
    present: Tensor
    """Where there is a target and not padding: bool [B, S]."""
    retrieved: Tensor | None
    """Items that the hard search found: int32 [B, S]; None without it."""
    terms: Mapping[str, Term]
    """Summands of the loss by name: several processes weight each by its own count."""
    parts: Mapping[str, Tensor] | None = None
    """What the loss is made of, by name: detached scalars; None where it is one thing."""

    @property
    def correct(self) -> Tensor:
        """Hits of the targets alone: bool [targets, L], a shape that depends on the data."""
        return self.hits[self.present]
