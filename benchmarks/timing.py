"""Times sides in turn, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Side = Callable[[int], object]
"""Does the work once; gets the number of the round, by which it picks its input."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
"""`cpu` leaves out the time in which others had the core: for one thread, on a busy machine.
Long calls are interrupted more often than short ones, so wall time would flatter ours there."""

_EVICTED_BYTES = 96 << 20  # three times the last-level cache of the machines this was made on


class Clock:
    """The clock in use, one for the process."""

    name = "wall"

    @classmethod
    def use(cls, name: str, threads: int) -> None:
        """The CPU clock sees the calling thread alone: with more threads it is the wall's."""
        cls.name = name if threads == 1 else "wall"

    @classmethod
    def now(cls) -> float:
        return CLOCKS[cls.name]()


@dataclass(frozen=True)
class Timing:
    """Median and quartiles of one call, in milliseconds."""

    ms: float
    q1: float
    q3: float

    def of_one(self, calls: int) -> Timing:
        """Of one of `calls` that were timed together."""
        return Timing(self.ms / calls, self.q1 / calls, self.q3 / calls)

    def columns(self, name: str) -> dict[str, float]:
        return {f"{name} ms": self.ms, f"{name} ms q1": self.q1, f"{name} ms q3": self.q3}


def _summary(seconds: list[float]) -> Timing:
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(1e3 * median, 1e3 * q1, 1e3 * q3)


def interleaved(
    sides: Mapping[str, Side],
    *,
    seconds: float,
    least: int = 5,
    most: int = 60,
    evict: bool = True,
    rotate: bool = True,
) -> dict[str, Timing]:
    """Calls every side once a round.

    Args:
        sides: name -> side. One call of each is not timed.
        seconds: no round begins after this time, once there were `least`.
        least: rounds at least; 2 or more.
        most: rounds at most.
        evict: empty the caches before every call, so that no side finds its input there.
        rotate: start each round with another side; otherwise keep their order.
    """
    rubbish = torch.zeros(_EVICTED_BYTES if evict else 0, dtype=torch.uint8)
    names = list(sides)
    for run in sides.values():
        run(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    begin = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - begin > seconds:
            break
        first = number % len(names) if rotate else 0
        for name in names[first:] + names[:first]:
            rubbish.add_(1)
            start = Clock.now()
            sides[name](number)
            times[name].append(Clock.now() - start)
    return {name: _summary(taken) for name, taken in times.items()}


def fastest(sides: Mapping[str, Side], rounds: int = 2) -> str:
    """Name of the side with the shortest call; to pick the opponent's best form."""
    times = {name: float("inf") for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            start = Clock.now()
            run(number)
            times[name] = min(times[name], Clock.now() - start)
    return min(times, key=times.__getitem__)
