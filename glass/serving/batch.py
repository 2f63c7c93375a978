"""Snapshots of users as a batch for the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glass.data.batches import SECONDS_A_DAY, Batch, Kept
from glass.serving.histories import Snapshot
from glass.serving.history import Ints
from glass_kernels import HistoryIndex


def make_batch(
    snapshots: Sequence[Snapshot], tokens: Tensor | None, *, pad_left: bool, has_clock: bool
) -> Batch:
    """What `glass.data.Collator` makes of the same histories, in another form.

    SID-Tier comes as fractions and the hard search as the newest events of each code. No event
    of the searched history is looked at, unless the model reads them all (`Snapshot.events`).

    Args:
        snapshots: B users.
        tokens: int [V, L] token ids of every item; of a model with a hard search.
        pad_left: pad the short history on the left.
        has_clock: times are seconds.
    """
    size = len(snapshots)
    lengths = np.array([len(user.short) for user in snapshots], np.int64)
    items, visits, days, offsets = _events(snapshots, has_clock)
    return Batch(
        rows=torch.arange(size),
        short_items=_short(snapshots, int(lengths.max(initial=0)), pad_left),
        long_items=torch.from_numpy(items.astype(np.int64)),
        long_offsets=torch.from_numpy(offsets),
        long_visits=torch.from_numpy(visits),
        long_days=torch.from_numpy(days.astype(np.float32)),
        targets=torch.full((size, 0), -1, dtype=torch.int64),
        padded=bool((lengths < lengths.max(initial=0)).any()),
        kept=_kept(snapshots, tokens),
    )


def _short(snapshots: Sequence[Snapshot], width: int, pad_left: bool) -> Tensor:
    short = np.full((len(snapshots), width), -1, np.int64)
    for row, user in zip(short, snapshots, strict=True):
        count = len(user.short)
        row[width - count if pad_left else 0 :][:count] = user.short
    return torch.from_numpy(short)


def _events(
    snapshots: Sequence[Snapshot], has_clock: bool
) -> tuple[Ints, np.ndarray, np.ndarray, np.ndarray]:
    """Items, visits and days of the searched events [T], and offsets [B+1]."""
    none = np.zeros(0, np.int64)
    items, visits, days, lengths = [none.astype(np.int32)], [none], [none.astype(float)], [0]
    for user in snapshots:
        lengths.append(0 if user.events is None else user.searched)
        if user.events is None or not user.searched:
            continue
        item, time, visit = user.events
        assert user.newest is not None
        newest_time, newest_visit = user.newest
        items.append(item)
        visits.append(newest_visit + 1 - visit)
        days.append((newest_time - time) * has_clock / SECONDS_A_DAY)
    return (
        np.concatenate(items),
        np.concatenate(visits),
        np.concatenate(days),
        np.cumsum(lengths),
    )


def _kept(snapshots: Sequence[Snapshot], tokens: Tensor | None) -> Kept:
    tiers = index = None
    counts = [user.tiers for user in snapshots if user.tiers is not None]
    if counts:
        searched = np.array([max(user.searched, 1) for user in snapshots], np.float64)
        fractions = np.stack(counts) / searched[:, None, None]
        tiers = torch.from_numpy(fractions.astype(np.float32))
    buckets = [user.buckets for user in snapshots if user.buckets is not None]
    if buckets:
        first = np.cumsum([0, *(len(items) for items, _ in buckets)])[:-1].astype(np.int32)
        order = np.concatenate([items for items, _ in buckets])
        bounds = np.stack([bounds for _, bounds in buckets]) + first[:, None]
        index = HistoryIndex(torch.from_numpy(order), torch.from_numpy(bounds))
    return Kept(tiers, index, None if index is None else tokens)
