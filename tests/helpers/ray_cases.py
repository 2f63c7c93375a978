"""Two workers of Ray, and work for them that fails or kills its worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from glass.config import RayConfig
from glass.data.assembly.gather import CollisionError
from glass.workers import Workers, started

RAY = RayConfig(enabled=True, num_cpus=2)


@contextmanager
def two_workers() -> Iterator[Workers]:
    """They can import this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with started(RAY) as workers:
            yield workers


def squared(part: int) -> tuple[int, int]:
    """The square, and who found it."""
    return part * part, os.getpid()


def failing(part: int) -> int:
    """Fails at one part."""
    if part == 3:
        raise CollisionError(f"part {part}")
    return part


def unsendable(part: int) -> Any:
    """What no other process can be given."""
    return lambda: part


class Deadly:
    """Kills its process at one part, every time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, part: int) -> int:
        if part == 5:
            (self.folder / f"death {len(list(self.folder.iterdir()))}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part


class Killing:
    """Kills its process once before one part, and once after another."""

    def __init__(self, work: Any, before: Any, after: Any, markers: Path) -> None:
        self.work, self.before, self.after, self.markers = work, before, after, markers

    def __call__(self, part: Any) -> Any:
        if part == self.before:
            self._kill("before")
        answer = self.work(part)
        if part == self.after:
            self._kill("after")
        return answer

    def _kill(self, when: str) -> None:
        marker = self.markers / f"{type(self.work).__name__} {when}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
