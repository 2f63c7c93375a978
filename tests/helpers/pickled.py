"""Workers in this process that are told all they know as those of another are: pickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from glass.data import preparation
from glass.workers import Workers


class PickledWorkers(Workers):
    """Passes work, parts and results as bytes, and does the parts in any order."""

    several = True

    def map(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        sent = pickle.dumps((work, list(parts)))
        answers: dict[int, bytes] = {}
        for number in sorted(range(len(parts)), key=lambda number: (number % 3, -number)):
            own, own_parts = pickle.loads(sent)
            answers[number] = pickle.dumps(own(own_parts[number]))
        for number in range(len(parts)):
            yield pickle.loads(answers[number])


def use_pickled_workers(patch: pytest.MonkeyPatch) -> None:
    """Let `prepare` have them."""

    @contextmanager
    def started(config: Any) -> Iterator[Workers]:
        yield PickledWorkers()

    patch.setattr(preparation, "started", started)
