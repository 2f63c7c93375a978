"""Wall time and peak memory of each step of a run, kept in `steps.json`."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from glass import distributed
from glass.evaluation import write_json_atomic

log = logging.getLogger(__name__)


@dataclass
class Step:
    """A step that is being measured."""

    worked: bool = True
    """False: the result was there already."""


class StepClock:
    """Measures steps and keeps the last measurement of each in `path`.

    A step that found its result ready and did no work keeps the figures of the run that did it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[tuple[str, float, float | None]]:
        """(name, seconds, peak resident MB) of every step, in the order they first ran."""
        if not self.path.exists():
            return []
        rows = json.loads(self.path.read_text())
        return [(row["name"], row["seconds"], row["peak_mb"]) for row in rows]

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Measures the block; if it clears `worked`, the earlier figure is kept if there is one."""
        step = Step()
        stop = threading.Event()
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(stop, peak), daemon=True)
        started = time.monotonic()
        log.info("%s ...", name)
        watcher.start()
        try:
            yield step
        finally:
            stop.set()
            watcher.join()
        seconds = round(time.monotonic() - started, 2)
        log.info("%s: %s", name, f"done in {seconds:.1f} s" if step.worked else "up to date")
        if not distributed.is_first():
            return
        rows = {row[0]: row for row in self.steps()}
        if step.worked or name not in rows:
            rows[name] = (name, seconds, round(peak[0], 1))
        keys = ("name", "seconds", "peak_mb")
        write_json_atomic(self.path, [dict(zip(keys, row, strict=True)) for row in rows.values()])


def _watch(stop: threading.Event, peak: list[float]) -> None:
    process = psutil.Process()
    while True:
        peak[0] = max(peak[0], process.memory_info().rss / 2**20)
        if stop.wait(0.1):
            return
