"""Rows of several users, one after another, and the same padded: attention alone needs the second.

Projections, norms and feed-forward layers run on the rows there are. Padding comes after a user's
rows, where a causal mask hides it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Jagged:
    """Where the T rows of B users lie in [B, N]."""

    size: int  # B
    longest: int  # N
    slots: Tensor | None  # int64 [T], place in [B*N]; None: nothing is padded

    @classmethod
    def of(cls, offsets: Tensor, longest: int, total: int) -> Jagged:
        """Users with the rows between int64 `offsets` [B+1], of which `total` = T."""
        size = offsets.shape[0] - 1
        if total == size * longest:
            return cls(size, longest, None)
        shift = torch.arange(0, size * longest, longest, device=offsets.device) - offsets[:-1]
        slots = torch.arange(total, device=offsets.device)
        slots += shift.repeat_interleave(offsets.diff(), output_size=total)
        return cls(size, longest, slots)

    @classmethod
    def of_owners(cls, owners: Tensor, size: int) -> Jagged:
        """Rows whose users are `owners` int64 [T], which do not fall."""
        counts = torch.bincount(owners, minlength=size)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return cls.of(offsets, int(counts.max()) if size else 0, owners.shape[0])

    def pad(self, rows: Tensor) -> Tensor:
        """[T, ...] -> [B, N, ...], zeros after a user's rows."""
        shape = (self.size, self.longest, *rows.shape[1:])
        if self.slots is None:
            return rows.reshape(shape)
        padded = rows.new_zeros(self.size * self.longest, *rows.shape[1:])
        return padded.index_copy(0, self.slots, rows).view(shape)

    def flat(self, padded: Tensor) -> Tensor:
        """[B, N, ...] -> [T, ...]."""
        rows = padded.reshape(self.size * self.longest, *padded.shape[2:])
        return rows if self.slots is None else rows.index_select(0, self.slots)
