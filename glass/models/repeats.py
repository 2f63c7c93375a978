"""How often and how lately each semantic ID occurred in a history; read by the copy head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass.data.batches import Batch

EVENT_HALF_LIVES = (8.0, 32.0, 128.0, 512.0)
VISIT_HALF_LIVES = (2.0, 8.0, 32.0)
DAY_HALF_LIVES = (7.0, 28.0, 84.0)
"""How fast the recency-weighted counts forget."""
NUM_FEATURES = len(EVENT_HALF_LIVES) + len(VISIT_HALF_LIVES) + len(DAY_HALF_LIVES) + 4
_FIRST_GAP = 10.0
"""A SID seen in one visit alone: its gap is this many visits longer than its absence."""


@dataclass(frozen=True)
class SearchedHistory:
    """Searched histories of B users, one after another, oldest event first."""

    items: Tensor
    """int64 [T]"""
    offsets: Tensor
    """int64 [B+1]"""
    visits: Tensor
    """int64 [T] visits (target groups) from the event to the target; 1: the visit before it."""
    days: Tensor
    """float32 [T] days from the event to the newest one of the user's history."""

    @classmethod
    def of(cls, batch: Batch) -> SearchedHistory:
        """What the hard search of a batch looks at."""
        return cls(batch.long_items, batch.long_offsets, batch.long_visits, batch.long_days)

    def users(self) -> Tensor:
        """int64 [T] row of each event."""
        size, device = self.offsets.numel() - 1, self.items.device
        rows = torch.arange(size, device=device)
        return torch.repeat_interleave(rows, self.offsets.diff(), output_size=self.items.shape[0])


def repeat_features(history: SearchedHistory, sids: Tensor, num_sids: int) -> tuple[Tensor, Tensor]:
    """Features of every SID of every history, at the SID's newest event.

    Per SID: log of the number of events, of the counts that forget with the half-lives above (by
    events, visits, days) and of the number of visits; log of the visits since the last one; log of
    the mean gap between its visits. Shapes depend on T alone, for compilers.

    Args:
        history: T events.
        sids: int64 [T] SID number of each event.
        num_sids: above every number.

    Returns float32 [T, NUM_FEATURES] and bool [T]: which events are the newest of their SID and
    history. The rows of other events mean nothing.
    """
    total, device = sids.shape[0], sids.device
    place = torch.arange(total, device=device)
    user = history.users()
    # A stable sort: the events of a SID, now side by side, stay in the order of time.
    key, order = torch.sort(user * num_sids + sids, stable=True)
    begins = torch.ones(total, dtype=torch.bool, device=device)
    begins[1:] = key[1:] != key[:-1]
    newest = torch.ones_like(begins)
    newest[:-1] = begins[1:]
    visits, days = history.visits[order], history.days[order]
    age = (history.offsets[1:][user] - 1 - place)[order].float()
    new_visit = begins.clone()
    new_visit[1:] |= visits[1:] != visits[:-1]
    weights = [
        torch.ones_like(age),
        *(torch.exp2(-age / half_life) for half_life in EVENT_HALF_LIVES),
        *(torch.exp2(-(visits - 1) / half_life) for half_life in VISIT_HALF_LIVES),
        *(torch.exp2(-days / half_life) for half_life in DAY_HALF_LIVES),
        new_visit.float(),
    ]
    run = begins.cumsum(0) - 1
    counts = torch.stack(weights, dim=1)
    counts = torch.zeros_like(counts).index_add_(0, run, counts)[run]
    oldest = torch.where(begins, place, 0).cummax(0).values
    num_visits = counts[:, -1]
    gap = (visits[oldest] - visits) / (num_visits - 1).clamp(min=1)
    gap = torch.where(num_visits > 1, gap, visits + _FIRST_GAP)
    lately = torch.stack((visits.float().log(), gap.log1p()), dim=1)
    features = torch.cat((torch.log(counts + 1e-2), lately), dim=1)
    back = torch.empty_like(order).scatter_(0, order, place)
    return features[back], newest[back]
