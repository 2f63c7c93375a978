"""Where a training's batches come from: each is a function of seed and step alone.

So a run goes on at any step with just the batches that it would have had, whatever the number of
processes that train or of workers that make the batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from glass import distributed
from glass.config import TrainConfig
from glass.data.batches import epoch_batches
from glass.data.dataset import Dataset
from glass.data.shards import Shards
from glass.systems import TrainingRows

AHEAD = 4
"""Batches that a worker makes ahead of the training."""


@dataclass(frozen=True)
class Step:
    """What one process trains on in a step."""

    batch: Any
    counts: bool
    """False: the whole batch has fewer rows than there are processes, and this one's row is
    another's."""


class Feed(ABC):
    """Batches by the number of their step."""

    def __init__(self, config: TrainConfig, num_rows: int, per_epoch: int) -> None:
        self.config, self.num_rows, self.per_epoch = config, num_rows, per_epoch

    @abstractmethod
    def rows(self, step: int) -> tuple[NDArray[np.int64], TrainingRows]:
        """Rows of the batch of a step, and what they are rows of."""

    def made_with(self) -> dict[str, Any]:
        """What decides the batches besides rows and settings."""
        return {}

    def step(self, number: int) -> Step:
        """This process's part of a batch."""
        rows, source = self.rows(number)
        rng = np.random.default_rng([self.config.seed, 1, number])
        part, counts = None, True
        if distributed.count() > 1:
            part = distributed.own_part(np.arange(len(rows)))
            counts = len(part) > 0
            part = part if counts else np.zeros(1, dtype=np.int64)
        batch = source.collate(rows, max_targets=self.config.max_targets, rng=rng, part=part)
        return Step(batch, counts)

    def steps(self, first: int, end: int) -> Iterator[Step]:
        """Steps from `first` below `end`; `TrainConfig.workers` processes make them ahead.

        Raises ValueError when a worker process was ended from outside.
        """
        if not self.config.workers:
            yield from map(self.step, range(first, end))
            return
        loader = DataLoader(
            _Numbered(self, first, end),
            batch_size=None,
            num_workers=self.config.workers,
            prefetch_factor=AHEAD,
            multiprocessing_context="fork",  # the data are shared, not copied
            worker_init_fn=_of_one_thread,
            generator=torch.Generator(),  # leaves alone the stream that dropout draws from
        )
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ValueError(
                f"a process that makes batches was ended ({str(error).splitlines()[0]}); with too "
                "little memory lower train.workers or train.shuffle_events. The last checkpoint is "
                "whole: start again to go on"
            ) from error


class MemoryFeed(Feed):
    """All rows are in memory, and shuffled as a whole."""

    def __init__(self, rows: TrainingRows, config: TrainConfig) -> None:
        super().__init__(config, len(rows), math.ceil(len(rows) / config.batch_size))
        self._rows = rows
        self._epoch: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def rows(self, step: int) -> tuple[NDArray[np.int64], TrainingRows]:
        epoch, position = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            config = self.config
            batches = epoch_batches(
                self._rows.lengths, config.batch_size, seed=config.seed, epoch=epoch
            )
            self._epoch = (epoch, batches)
        return self._epoch[1][position], self._rows


class ShardFeed(Feed):
    """Rows of a window of row groups at a time, drawn from all files.

    The windows hold about `TrainConfig.shuffle_events` events each, of row groups that a draw by
    the seed puts together; users are spread over the files by a hash of their ids already. An epoch
    goes through the windows in an order of its own, and through the rows of a window in an order of
    its own. A data set of one window is shuffled just as one in memory.

    Args:
        shards: the events.
        rows_of: training rows of some users.
        config: settings.
        progress: show a bar while the rows are counted.
    """

    def __init__(
        self,
        shards: Shards,
        rows_of: Callable[[Dataset], TrainingRows],
        config: TrainConfig,
        *,
        progress: bool = True,
    ) -> None:
        self._shards, self._rows_of = shards, rows_of
        self._windows = windows(shards.num_events, config.shuffle_events, config.seed)
        counts = np.array(distributed.from_first(self._counted(progress=progress)))
        steps = -(-counts // config.batch_size)
        super().__init__(config, int(counts.sum()), int(steps.sum()))
        self._steps = steps
        self._order: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._window: tuple[int, int, TrainingRows, list[NDArray[np.int64]]] | None = None

    def _counted(self, *, progress: bool) -> list[int]:
        """Rows of each window; one process reads them for all."""
        if not distributed.is_first():
            return []
        bar = tqdm(self._windows, desc="count rows", unit="window", disable=not progress)
        return [len(self._rows_of(self._shards.load(window))) for window in bar]

    def made_with(self) -> dict[str, Any]:
        if len(self._windows) == 1:
            return {}
        return {"windows": [window.tolist() for window in self._windows]}

    def rows(self, step: int) -> tuple[NDArray[np.int64], TrainingRows]:
        epoch, position = divmod(step, self.per_epoch)
        order, ends = self._in_epoch(epoch)
        place = int(np.searchsorted(ends, position, side="right"))
        window = int(order[place])
        rows, batches = self._in_window(epoch, window)
        return batches[position - int(ends[place]) + int(self._steps[window])], rows

    def _in_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.config.seed, 3, epoch])
            order = rng.permutation(len(self._windows))
            self._order = (epoch, order, np.cumsum(self._steps[order]))
        return self._order[1], self._order[2]

    def _in_window(self, epoch: int, window: int) -> tuple[TrainingRows, list[NDArray[np.int64]]]:
        if self._window is None or self._window[:2] != (epoch, window):
            self._window = None  # frees the last one before the next is read
            rows = self._rows_of(self._shards.load(self._windows[window]))
            # One window: as in memory.
            number = epoch * len(self._windows) + window
            config = self.config
            batches = epoch_batches(rows.lengths, config.batch_size, seed=config.seed, epoch=number)
            self._window = (epoch, window, rows, batches)
        return self._window[2], self._window[3]


def windows(num_events: NDArray[np.int64], most: int, seed: int) -> list[NDArray[np.int64]]:
    """Row groups that are read together: drawn by `seed`, of about `most` events or fewer.

    One window holds its row groups in the order of the files.
    """
    count = max(1, math.ceil(int(num_events.sum()) / most))
    if count == 1:
        return [np.arange(len(num_events))]
    order = np.random.default_rng([seed, 4]).permutation(len(num_events))
    bounds = np.arange(1, count) * num_events.sum() / count
    parts = np.split(order, np.searchsorted(num_events[order].cumsum(), bounds))
    return [part for part in parts if len(part)]


class _Numbered(TorchDataset[Step]):
    """Steps as the items of a map-style data set, which a loader hands to workers in turn."""

    def __init__(self, feed: Feed, first: int, end: int) -> None:
        self._feed, self._first, self._count = feed, first, end - first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Step:
        if place >= self._count:
            raise IndexError(place)
        return self._feed.step(self._first + place)


def _of_one_thread(_: int) -> None:
    torch.set_num_threads(1)
