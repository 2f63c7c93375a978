"""Splits of a partition's events: from its users alone, or at times that hold for all users."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.assembly.users import SortedUsers
from glass.data.order import IntArray, assign_splits, split_at, time_cuts

Split = Callable[[pl.DataFrame], NDArray[np.int8]]
"""int8 [T] split of each event of a partition's table."""


def make_split(users: SortedUsers, config: DataConfig) -> Split:
    """How events are split; a source that says it itself is believed."""
    if users.split_given:
        return lambda events: events["split"].to_numpy()
    if config.split == "time":
        parts = users.events

        def times() -> Iterator[IntArray]:
            return (parts.get(number)["time"].to_numpy() for number in parts.numbers())

        cuts = time_cuts(times, config.test_share, config.valid_share)
        return lambda events: split_at(events["time"].to_numpy(), cuts)

    def by_user(events: pl.DataFrame) -> NDArray[np.int8]:
        users, times, groups = (events[name].to_numpy() for name in ("user", "time", "group"))
        return assign_splits(users, times, groups, config)

    return by_user
