"""Batches of samples: short history, jagged long history, targets; built by index arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from glass.data import Dataset, Samples
    from glass_kernels import HistoryIndex

IntArray = np.ndarray
SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Kept:
    """What a server keeps current of B searched histories, so that a model need not read them."""

    tiers: Tensor | None = None
    """float32 [B, K, N] fractions of SID-Tier; None: counted from `Batch.long_items`."""
    index: HistoryIndex | None = None
    """Events by sid_1; None: made from `Batch.long_items`."""
    tokens: Tensor | None = None
    """int [R, L] token ids that `index.order` holds the rows of; given just if `index` is."""

    def to(self, device: torch.device | str) -> Kept:
        """The same on another device."""
        index = self.index
        if index is not None:
            index = type(index)(*(part.to(device, non_blocking=True) for part in index))
        tiers, tokens = (
            None if part is None else part.to(device, non_blocking=True)
            for part in (self.tiers, self.tokens)
        )
        return Kept(tiers, index, tokens)

    def part(self, rows: Tensor) -> Kept:
        """What it keeps of the users `rows` int64 [b]."""
        index = self.index
        if index is not None:
            index = type(index)(index.order, index.bucket_offsets[rows])
        return Kept(None if self.tiers is None else self.tiers[rows], index, self.tokens)


@dataclass(frozen=True)
class Batch:
    """B histories and their targets. Items are dense ids; -1 pads."""

    rows: Tensor
    """int64 [B] row of each sample in its `Samples`."""
    short_items: Tensor
    """int64 [B, N] newest events, oldest first; N is the longest of the batch."""
    long_items: Tensor
    """int64 [T] searched histories, one after another, oldest first."""
    long_offsets: Tensor
    """int64 [B+1]"""
    long_visits: Tensor
    """int64 [T] visits (target groups) from the event to the target; 1: the visit before it."""
    long_days: Tensor
    """float32 [T] days from the event to the newest one of its history; 0 without clock times."""
    targets: Tensor
    """int64 [B, S] items of the target group."""
    padded: bool
    """Whether any short history is shorter than N; without padding no mask is needed."""
    kept: Kept | None = None
    """What need not be made from `long_items`, which may be empty where nothing is."""
    distinct: Tensor | None = None
    """int64 [U] different items of the short histories, rising; None: not looked up. Its size
    depends on what is in the batch: a GPU would have to be waited for."""
    place: Tensor | None = None
    """int64 [B, N] of each item in `distinct`; anything where there is none."""

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.short_items.device

    @property
    def lengths(self) -> Tensor:
        """Events of each short history: int64 [B]."""
        return (self.short_items >= 0).sum(1)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        moved["kept"] = None if self.kept is None else self.kept.to(device)
        return Batch(**moved)

    def part(self, rows: Tensor) -> Batch:
        """The batch of the samples `rows` int64 [b], without columns that are padding alone."""
        short = self.short_items[rows]
        present = short >= 0
        short = short[:, present.any(0)]
        starts, stops = self.long_offsets[rows], self.long_offsets[rows + 1]
        lengths = stops - starts
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        place = torch.arange(int(offsets[-1]), device=rows.device)
        place += torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=len(place))
        return Batch(
            rows=self.rows[rows],
            short_items=short,
            long_items=self.long_items[place],
            long_offsets=offsets,
            long_visits=self.long_visits[place],
            long_days=self.long_days[place],
            targets=self.targets[rows],
            padded=self.padded and bool((short < 0).any()),
            kept=None if self.kept is None else self.kept.part(rows),
        )

    def __len__(self) -> int:
        return self.rows.shape[0]


def distinct_items(items: Tensor) -> tuple[Tensor, Tensor]:
    """Different items int64 [U] of `items` int [...], rising, and the place of each in them.

    Padding, which is negative, counts as item 0.
    """
    different, place = torch.unique(items.clamp(min=0), return_inverse=True)
    return different, place


def concatenated_ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """start, start+1, .. for each (start, length), one after another: int64 [sum(lengths)]."""
    ends = np.cumsum(lengths)
    first = np.repeat(starts - (ends - lengths), lengths)
    index: IntArray = first + np.arange(int(ends[-1]) if len(ends) else 0)
    return index


def padded_targets(
    items: IntArray,
    start: IntArray,
    stop: IntArray,
    max_targets: int | None,
    rng: np.random.Generator | None,
) -> Tensor:
    """items[start : stop] of each (start, stop), padded by -1: int64 [P, S].

    With `max_targets`, that many of longer ranges are drawn.
    """
    count = stop - start
    column = np.arange(int(count.max(initial=0)))[None, :]
    keep = column < count[:, None]
    found = np.where(keep, items[np.where(keep, start[:, None] + column, 0)], -1)
    if max_targets is not None and found.shape[1] > max_targets:
        assert rng is not None
        # The smallest of random keys are a uniform draw without replacement.
        keys = np.where(keep, rng.random(found.shape), 2.0)
        chosen = np.argsort(keys, axis=1)[:, :max_targets]
        found = np.take_along_axis(found, chosen, axis=1)
    return torch.from_numpy(found.astype(np.int64))


class Collator:
    """Turns rows of `Samples` into a `Batch`.

    Args:
        dataset, samples: where the rows point to.
        short_length: newest events that form the short history.
        long_history: "older" than the short history, or "all" events.
        pad_left: pad the short history on the left, so that its newest event comes last.
        distinct: look up the different items of the short histories too, for a model with one token
            an item.
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: Samples,
        *,
        short_length: int,
        long_history: Literal["older", "all"] = "older",
        pad_left: bool = True,
        distinct: bool = False,
    ) -> None:
        self.items = dataset.items
        self.times = dataset.times
        self.groups = dataset.groups
        self.has_clock = dataset.manifest.get("time_unit", "seconds") == "seconds"
        self.samples = samples
        self.short_length = short_length
        self.long_history = long_history
        self.pad_left = pad_left
        self.distinct = distinct

    def __call__(
        self,
        rows: IntArray,
        *,
        max_targets: int | None = None,
        rng: np.random.Generator | None = None,
        part: IntArray | None = None,
    ) -> Batch:
        """Batch of `rows`; with `max_targets`, that many targets of larger groups are drawn.

        With `part`, of the rows at these positions alone, and their targets are those that they
        have in the whole batch.
        """
        stop = self.samples.target_end[rows]
        targets = padded_targets(self.items, self.samples.history_end[rows], stop, max_targets, rng)
        if part is not None:
            rows, targets = np.asarray(rows)[part], targets[torch.from_numpy(part)]
        start, end = self.samples.history_start[rows], self.samples.history_end[rows]
        short = np.minimum(end - start, self.short_length)
        long_end = end - short if self.long_history == "older" else end
        events = concatenated_ranges(start, long_end - start)
        long_items = self.items[events]
        offsets = np.concatenate(([0], np.cumsum(long_end - start)))
        newest = np.repeat(end - 1, long_end - start)
        visits = self.groups[newest] + 1 - self.groups[events]
        seconds = (self.times[newest] - self.times[events]) * self.has_clock
        short_items = self._short(end, short)
        different, place = distinct_items(short_items) if self.distinct else (None, None)
        return Batch(
            rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
            short_items=short_items,
            long_items=torch.from_numpy(long_items.astype(np.int64)),
            long_offsets=torch.from_numpy(offsets.astype(np.int64)),
            long_visits=torch.from_numpy(visits.astype(np.int64)),
            long_days=torch.from_numpy((seconds / SECONDS_A_DAY).astype(np.float32)),
            targets=targets,
            padded=bool((short < short.max(initial=0)).any()),
            distinct=different,
            place=place,
        )

    def _short(self, end: IntArray, short: IntArray) -> Tensor:
        column = np.arange(int(short.max(initial=0)))[None, :]
        offset = column - column.size if self.pad_left else column - short[:, None]
        keep = offset >= -short[:, None] if self.pad_left else offset < 0
        items = np.where(keep, self.items[np.where(keep, end[:, None] + offset, 0)], -1)
        return torch.from_numpy(items.astype(np.int64))


def epoch_batches(
    short_lengths: IntArray, batch_size: int, *, seed: int, epoch: int, pool: int = 64
) -> list[IntArray]:
    """Rows of every batch of an epoch: shuffled, then sorted by length within pools of batches.

    A function of its arguments alone, so that a resumed run continues with the same batches.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(short_lengths))
    batches: list[IntArray] = []
    for first in range(0, len(order), batch_size * pool):
        part = order[first : first + batch_size * pool]
        part = part[np.argsort(short_lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def sequential_batches(num_rows: int, batch_size: int) -> Iterator[IntArray]:
    """Rows in order, for evaluation."""
    for first in range(0, num_rows, batch_size):
        yield np.arange(first, min(first + batch_size, num_rows))
