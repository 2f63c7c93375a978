"""What a model has to offer so that `generate` can search with it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from glass.data.batches import Batch


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


class Generative(Protocol):
    """A model over semantic IDs. `glass.models.Glass` is one.

    No user's logits may depend on the other users of the batch.
    """

    training: bool

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of each level."""

    def steps(self, batch: Batch) -> Steps:
        """Reads the histories (the encoder's pass) and begins a decoding."""
