"""Batches of jagged histories for models that read a history causally, one state an event.

A causal model learns every prefix of a history in one pass: `Windows` cuts the training events of
each user so that every target group is predicted once, from the event before it. For validation,
test and serving there is one state a history: its newest event.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glass.data.batches import IntArray, concatenated_ranges, distinct_items, padded_targets

if TYPE_CHECKING:
    from glass.data import Dataset, Samples


@dataclass(frozen=True)
class SequenceBatch:
    """B histories, the states that predict, and their targets. Items are dense ids."""

    rows: Tensor
    """int64 [B] row of each history in its `Samples` or `Windows`."""
    items: Tensor
    """int64 [T] histories, one after another, oldest first."""
    offsets: Tensor
    """int64 [B+1]"""
    times: Tensor
    """int64 [T] seconds; zeros without clock times."""
    states: Tensor
    """int64 [P] place in `items` of the event whose state predicts; -1: of an empty history."""
    owners: Tensor
    """int64 [P] history of each state."""
    targets: Tensor
    """int64 [P, S] items of the group that follows; -1 pads."""
    longest: int
    """Items of the longest history."""
    distinct: Tensor | None = None
    """int64 [U] different items of the histories, rising; None: not looked up, nor `place`."""
    place: Tensor | None = None
    """int64 [T] of each item in `distinct`."""
    present: Tensor | None = None
    """int64 [2, R] rows and columns of the targets that are none of the padding; None: not looked
    up. That and `distinct` are found where a batch is made: their sizes depend on what is in it, so
    that a GPU would have to be waited for, and compilers cannot follow."""

    @classmethod
    def of_histories(
        cls, items: Tensor, offsets: Tensor, times: Tensor | None = None, rows: Tensor | None = None
    ) -> SequenceBatch:
        """Histories without targets, whose newest events predict: a batch for serving.

        Args:
            items: int [T], oldest first.
            offsets: int64 [B+1].
            times: int64 [T] seconds; None: zeros.
            rows: int64 [B]; None: 0 .. B-1.
        """
        lengths = offsets.diff()
        owners = torch.arange(len(lengths), device=offsets.device)
        return cls(
            rows=owners if rows is None else rows,
            items=items.long(),
            offsets=offsets,
            times=torch.zeros_like(items, dtype=torch.int64) if times is None else times,
            states=torch.where(lengths > 0, offsets[1:] - 1, -1),
            owners=owners,
            targets=offsets.new_zeros(len(lengths), 0),
            longest=int(lengths.max()) if len(lengths) else 0,
        )

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.items.device

    @property
    def lengths(self) -> Tensor:
        """Items of each history: int64 [B]."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> SequenceBatch:
        """The batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        return SequenceBatch(**moved)

    def part(self, rows: Tensor) -> SequenceBatch:
        """The histories `rows` int64 [b] of a batch with one state each."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        place = torch.arange(int(offsets[-1]), device=rows.device)
        place += torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=len(place))
        chosen = SequenceBatch.of_histories(
            self.items[place], offsets, self.times[place], self.rows[rows]
        )
        values = {f.name: getattr(chosen, f.name) for f in fields(chosen)}
        return SequenceBatch(**{**values, "targets": self.targets[rows]})

    def __len__(self) -> int:
        return self.rows.shape[0]


@dataclass(frozen=True)
class Windows:
    """Pieces of the users' training events that together predict every target group once.

    Row w reads the events `[start[w], stop[w])` and predicts the groups of its samples, rows
    `[first_sample[w], last_sample[w])` of `samples`.
    """

    samples: Samples
    """The training samples; each belongs to one window."""
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    first_sample: NDArray[np.int64]
    last_sample: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, max_items: int) -> Windows:
        """Windows of at most `max_items` training events.

        A user's first window predicts from each of its events; later ones move on by half their
        length and predict from their newer half, so that there a context has at least half of
        `max_items` items.

        Raises ValueError for `max_items` below 1.
        """
        if max_items < 1:
            raise ValueError(f"max_items must be at least 1, was {max_items}")
        samples = dataset.samples("train")
        context = samples.history_end - samples.history_start
        stride = max(1, max_items // 2)
        number = -(-np.maximum(context - max_items, 0) // stride)
        new = np.ones(len(samples), dtype=bool)
        new[1:] = (samples.users[1:] != samples.users[:-1]) | (number[1:] != number[:-1])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(samples))[: len(first)]
        stop = samples.history_end[last - 1]
        start = np.maximum(samples.history_start[first], stop - max_items)
        return cls(samples, start, stop, first, last)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events that each window reads: int64 [W]."""
        return self.stop - self.start

    def __len__(self) -> int:
        return len(self.start)


class SequenceCollator:
    """Turns rows of `Samples` into a `SequenceBatch`: the newest events, one state a history.

    Args:
        dataset, samples: where the rows point to.
        max_items: newest events that are read.
    """

    def __init__(self, dataset: Dataset, samples: Samples, *, max_items: int) -> None:
        self._events = _Events(dataset)
        self.samples = samples
        self.max_items = max_items

    def __call__(
        self,
        rows: IntArray,
        *,
        max_targets: int | None = None,
        rng: np.random.Generator | None = None,
        part: IntArray | None = None,
    ) -> SequenceBatch:
        """Batch of `rows`; with `max_targets`, that many targets of larger groups are drawn.

        With `part`, of the rows at these positions alone, and their targets are those that they
        have in the whole batch.
        """
        stop = self.samples.history_end[rows]
        start = np.maximum(self.samples.history_start[rows], stop - self.max_items)
        samples = _Predicted(stop, self.samples.target_end[rows], np.arange(len(rows)))
        return self._events.batch(rows, start, stop, samples, max_targets, rng, part)


class WindowCollator:
    """Turns rows of `Windows` into a `SequenceBatch` with every target group of the windows."""

    def __init__(self, dataset: Dataset, windows: Windows) -> None:
        self._events = _Events(dataset)
        self.windows = windows

    def __call__(
        self,
        rows: IntArray,
        *,
        max_targets: int | None = None,
        rng: np.random.Generator | None = None,
        part: IntArray | None = None,
    ) -> SequenceBatch:
        """Batch of `rows`; with `max_targets`, that many targets of larger groups are drawn.

        With `part`, of the rows at these positions alone, and their targets are those that they
        have in the whole batch.
        """
        windows = self.windows
        first = windows.first_sample[rows]
        count = windows.last_sample[rows] - first
        sample = concatenated_ranges(first, count)
        predicted = _Predicted(
            windows.samples.history_end[sample],
            windows.samples.target_end[sample],
            np.repeat(np.arange(len(rows)), count),
        )
        start, stop = windows.start[rows], windows.stop[rows]
        return self._events.batch(rows, start, stop, predicted, max_targets, rng, part)


@dataclass(frozen=True)
class _Predicted:
    """Target groups: from which event they start, where they end, and whose they are."""

    start: IntArray  # [P], the event after the one that predicts
    stop: IntArray  # [P]
    owners: IntArray  # [P]

    def of(self, rows: IntArray) -> tuple[_Predicted, IntArray]:
        """Those of some owners, who are numbered anew, and which they are."""
        number = np.full(int(self.owners.max(initial=-1)) + 1, -1)
        inside = rows < len(number)
        number[rows[inside]] = np.flatnonzero(inside)
        kept = np.flatnonzero(number[self.owners] >= 0)
        return _Predicted(self.start[kept], self.stop[kept], number[self.owners[kept]]), kept


class _Events:
    """Items and times of a data set."""

    def __init__(self, dataset: Dataset) -> None:
        self.items = dataset.items
        clock = dataset.manifest.get("time_unit", "seconds") == "seconds"
        self.times = dataset.times if clock else None

    def batch(
        self,
        rows: IntArray,
        start: IntArray,
        stop: IntArray,
        predicted: _Predicted,
        max_targets: int | None,
        rng: np.random.Generator | None,
        part: IntArray | None,
    ) -> SequenceBatch:
        targets = padded_targets(self.items, predicted.start, predicted.stop, max_targets, rng)
        if part is not None:
            rows, start, stop = rows[part], start[part], stop[part]
            predicted, kept = predicted.of(part)
            targets = targets[torch.from_numpy(kept)]
        lengths = stop - start
        events = concatenated_ranges(start, lengths)
        items = torch.from_numpy(self.items[events].astype(np.int64))
        distinct, place = distinct_items(items)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        states = offsets[predicted.owners] + (predicted.start - 1 - start[predicted.owners])
        times = np.zeros(len(events), np.int64) if self.times is None else self.times[events]
        return SequenceBatch(
            rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
            items=items,
            offsets=torch.from_numpy(offsets),
            times=torch.from_numpy(times),
            states=torch.from_numpy(states.astype(np.int64)),
            owners=torch.from_numpy(predicted.owners.astype(np.int64)),
            targets=targets,
            longest=int(lengths.max(initial=0)),
            distinct=distinct,
            place=place,
            present=(targets >= 0).nonzero().T.contiguous(),
        )
