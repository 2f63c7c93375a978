"""Splits of a partition's events: from its users alone, or at times that hold for all users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.assembly.users import SortedUsers
from glass.data.order import IntArray, assign_splits, split_at, time_cuts

Split = Callable[[pl.DataFrame], NDArray[np.int8]]
"""int8 [T] split of each event of a partition's table; can be pickled."""


def make_split(users: SortedUsers, config: DataConfig) -> Split:
    """How events are split; a source that says it itself is believed."""
    if users.split_given:
        return given_split
    if config.split == "time":

        def times() -> Iterator[IntArray]:
            return (users.events.get(number)["time"].to_numpy() for number in users.numbers)

        return TimeSplit(time_cuts(times, config.test_share, config.valid_share))
    return UserSplit(config)


def given_split(events: pl.DataFrame) -> NDArray[np.int8]:
    """What the source says."""
    return events["split"].to_numpy()


@dataclass(frozen=True)
class TimeSplit:
    """The same times for all users."""

    cuts: tuple[int | None, int | None]

    def __call__(self, events: pl.DataFrame) -> NDArray[np.int8]:
        return split_at(events["time"].to_numpy(), self.cuts)


@dataclass(frozen=True)
class UserSplit:
    """Each user's newest groups."""

    config: DataConfig

    def __call__(self, events: pl.DataFrame) -> NDArray[np.int8]:
        users, times, groups = (events[name].to_numpy() for name in ("user", "time", "group"))
        return assign_splits(users, times, groups, self.config)
