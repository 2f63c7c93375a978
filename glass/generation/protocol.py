"""What a model has to offer so that `generate` can search with it."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

HistoriesT = TypeVar("HistoriesT", bound="Histories")


class Histories(Protocol):
    """A batch of B histories; `glass.data.batches.Batch` is one, and `SequenceBatch`."""

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""

    @property
    def lengths(self) -> Tensor:
        """What the model reads of each history, for searching like with like: int64 [B]."""

    def part(self: HistoriesT, rows: Tensor) -> HistoriesT:
        """The histories `rows` int64 [b]."""

    def __len__(self) -> int: ...


HistoriesT_contra = TypeVar("HistoriesT_contra", bound=Histories, contravariant=True)


class Steps(Protocol):
    """Decoding of a batch of B users, level by level; holds their caches.

    A call of `first`, then one of `next` for each further level.
    """

    def first(self) -> Tensor:
        """Logits float [B, 1, K_0] of the first codes."""

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits float [B, W, K_l] after each beam was extended by one code.

        Args:
            parents: int [B, W], the beam of the level before that each beam extends.
            codes: int [B, W], its newest code; 0 for a beam that is dead or whose SID has ended,
                of which the logits are not looked at.
        """


class Generative(Protocol[HistoriesT_contra]):
    """A model over semantic IDs. `glass.models.Glass` is one.

    No user's logits may depend on the other users of the batch.
    """

    training: bool

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of each level."""

    def steps(self, batch: HistoriesT_contra) -> Steps:
        """Reads the histories (the encoder's pass) and begins a decoding."""
