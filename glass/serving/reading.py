"""What each class of models reads of users' histories, and the batches that it takes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glass.data.sequences import SequenceBatch
from glass.models import SearchingModel
from glass.models.sequence import SequenceModel
from glass.serving.batch import make_batch
from glass.serving.reads import Bucketed, Reads
from glass_kernels.modules import TierHistogram

if TYPE_CHECKING:
    from glass.serving.histories import Snapshot
    from glass.systems import Model


class Reading(ABC):
    """Of one model."""

    reads: Reads

    @abstractmethod
    def batch(self, snapshots: Sequence[Snapshot], *, has_clock: bool) -> Any:
        """The model's batch of B users; `has_clock`: times are seconds."""


class _SearchingReading(Reading):
    def __init__(self, model: SearchingModel) -> None:
        config = model.config
        tiers: TierHistogram | None = model.tier
        if model.tier is not None and model.tier.edges.device.type != "cpu":
            tiers = copy.deepcopy(model.tier).cpu()
        copies = model.copy_head is not None
        searches = model.hard_search is not None and not copies  # else it reads the events
        self.reads = Reads(
            short_length=config.short_length,
            older=config.long_history == "older",
            tiers=tiers,
            buckets=_bucketed(model) if searches else None,
            searched_events=copies,
        )
        self._pad_left = config.tier_token_last
        self._tokens: Tensor | None = None
        if searches:
            self._tokens = (model.codes + model.level_start).to(torch.int32)

    def batch(self, snapshots: Sequence[Snapshot], *, has_clock: bool) -> Any:
        return make_batch(snapshots, self._tokens, pad_left=self._pad_left, has_clock=has_clock)


def _bucketed(model: SearchingModel) -> Bucketed:
    sid1 = model.codes[:, 0].cpu().numpy()
    return Bucketed(sid1, model.codebook_sizes[0], model.config.search_max_items)


class _SequenceReading(Reading):
    def __init__(self, model: SequenceModel) -> None:
        timed = model.reads_times
        self.reads = Reads(short_length=model.config.max_items, short_times=timed)

    def batch(self, snapshots: Sequence[Snapshot], *, has_clock: bool) -> SequenceBatch:
        offsets = np.cumsum([0, *(len(user.short) for user in snapshots)])
        items = np.concatenate([np.zeros(0, np.int64), *(user.short for user in snapshots)])
        times = None
        if self.reads.short_times and has_clock:
            known = [user.short_times for user in snapshots if user.short_times is not None]
            times = torch.from_numpy(np.concatenate(known))
        return SequenceBatch.of_histories(torch.from_numpy(items), torch.from_numpy(offsets), times)


def reading(model: Model) -> Reading:
    """How users become batches of `model`."""
    if isinstance(model, SequenceModel):
        return _SequenceReading(model)
    return _SearchingReading(model)
