"""Times and visit numbers of events that come in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from glass.serving.history import Longs
from glass.serving.items import ServingSettings


def check_count(times: int | Sequence[int] | None, count: int) -> None:
    """Raises ValueError unless there is one time, or none, or one for each of `count` events."""
    if times is not None and not isinstance(times, int) and len(times) != count:
        raise ValueError(
            f"times holds {len(times)} numbers for {count} items; give one for each, one for all, "
            "or None for now"
        )


def times_and_visits(
    times: int | Sequence[int] | None,
    count: int,
    settings: ServingSettings,
    last: tuple[int | None, int],
) -> tuple[Longs, Longs]:
    """Times int64 [E] and visit numbers int64 [E] of new events, as the data sets have them.

    Args:
        times: as in `Recommender.observe`.
        count: E.
        settings: what a time is, and what a visit.
        last: time (None: no event yet) and visit number of the user's newest event.

    Raises:
        ValueError: another number of times, or times that fall.
    """
    check_count(times, count)
    last_time, last_visit = last
    if times is None:
        now = int(time.time()) if settings.time_unit == "seconds" else (last_time or 0) + 1
        times = now if last_time is None else max(now, last_time)
    told = np.full(count, times, np.int64) if isinstance(times, int) else np.array(times, np.int64)
    before = np.concatenate((told[:1] if last_time is None else [last_time], told))[:count]
    if (told < before).any():
        at = int(np.argmax(told < before))
        raise ValueError(
            f"times[{at}] is {told[at]}, earlier than {before[at]} of the event before it; observe "
            "events in the order of time"
        )
    opens = told > before if settings.target_group == "timestamp" else np.ones(count, bool)
    return told, last_visit + np.cumsum(opens)
