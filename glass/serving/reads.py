"""What a model reads of a user's history: all that `Histories` keeps beside the events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glass_kernels.modules import TierHistogram


@dataclass(frozen=True)
class Bucketed:
    """The newest searched events of each first code, all that a hard search can find."""

    sid1: NDArray[np.int32]
    """int32 [V] first code of each item."""
    num_codes: int
    most: int
    """Events of a code, at most."""


@dataclass(frozen=True)
class Reads:
    """The parts of a history that a model looks at."""

    short_length: int
    """Newest events that it reads one by one."""
    short_times: bool = False
    """Their times too."""
    older: bool = True
    """The searched history is the events before those; false: all events."""
    tiers: TierHistogram | None = None
    """Counts of SID-Tier over the searched history; on the CPU."""
    buckets: Bucketed | None = None
    """For a hard search."""
    searched_events: bool = False
    """Every searched event with its time and visit, for a copy head."""

    @property
    def timed(self) -> bool:
        """Whether times of events matter."""
        return self.short_times or self.searched_events
