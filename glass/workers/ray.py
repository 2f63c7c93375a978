"""Parts as tasks of Ray Data, which does those of a worker that died again."""

from __future__ import annotations

import logging
import pickle
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

from glass.config import RayConfig
from glass.workers.base import Part, Result, Workers

TASKS_A_CPU = 8
"""So many that the CPUs end at about the same time."""
_SETTINGS = {
    "enable_progress_bars": False,  # each step has a bar of its own
    "op_resource_reservation_enabled": False,  # half of the CPUs, for operators that are not there
}
"""Of Ray Data, while its workers are ours."""
_PATIENCE = 10
"""Seconds."""
RETRIES = 3
"""Times that a part is done again whose worker died; one that kills every worker ends the job."""


class RayWorkers(Workers):
    """Does parts in the processes of the cluster that this process is connected to."""

    several = True

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        count = len(parts)
        if count <= 1:  # nobody to share it with, and a worker would take seconds to start
            yield from map(work, parts)
            return
        # Neighbours are one task: to start one takes longer than a small part does.
        resources: Any = ray.cluster_resources
        tasks = TASKS_A_CPU * int(resources().get("CPU", 1))
        numbers = ray.data.range(count, override_num_blocks=min(count, tasks))
        with warnings.catch_warnings():  # Ray 2.60 deprecates it and offers nothing in its place
            warnings.simplefilter("ignore", DeprecationWarning)
            rows = numbers.map(_Task(work, parts), ray_remote_args_fn=_retries)
        early: dict[int, Any] = {}
        wanted = 0
        try:
            for row in rows.iter_rows():
                number = int(row["number"])
                if number < wanted or number in early:
                    raise RuntimeError(f"part {number} of {count} came twice from Ray")
                early[number] = row["answer"]
                while wanted in early:
                    yield _opened(early.pop(wanted))
                    wanted += 1
        except ray.exceptions.RayTaskError:
            raise  # what was sent cannot be read, or cannot be sent: a bug
        except ray.exceptions.RayError as error:
            raise ValueError(
                f"part {wanted} of {count} could not be done: its worker died {RETRIES + 1} times, "
                "or all of the cluster did. Look for what killed it (memory?) in Ray's log, then "
                f"start the same command again ({str(error).strip().splitlines()[0]})"
            ) from error
        if wanted != count:
            raise RuntimeError(f"only {wanted} of {count} parts came back from Ray")


def _retries() -> dict[str, int]:
    return {"max_retries": RETRIES}


class _Task:
    """Does the part of a row; an exception is a result too: Ray would wrap and repeat it."""

    def __init__(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        self._work, self._parts = work, parts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["id"])
        try:
            answer = (True, self._work(self._parts[number]))
        except Exception as error:
            answer = (False, (error, traceback.format_exc()))
        return {"number": number, "answer": pickle.dumps(answer)}


class RaisedThereError(Exception):
    """Shows where in a worker an error was raised."""


def _opened(answer: bytes) -> Any:
    done, value = pickle.loads(answer)
    if not done:
        error, trace = value
        raise error from RaisedThereError(f"in a worker:\n{trace}")
    return value


def _reach(address: str) -> None:
    """Raises OSError or ValueError where nobody listens: Ray would try for minutes, then exit."""
    if address not in ("local", "auto"):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


@contextmanager
def ray_workers(config: RayConfig) -> Iterator[RayWorkers]:
    """Connects to the cluster of the settings, or starts one on this machine for the block.

    Raises ValueError when there is none at the address.
    """
    began = not ray.is_initialized()
    if began:
        own: dict[str, Any] = {"num_cpus": config.num_cpus, "include_dashboard": False}
        try:
            _reach(config.address)
            ray.init(
                address=config.address,
                logging_level=logging.WARNING,
                **(own if config.address == "local" else {}),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"ray.address is {config.address!r}, and no cluster answers there ({error}); start "
                "one with `ray start --head`, or set ray.address to 'local'"
            ) from error
    context = ray.data.DataContext.get_current()
    before = {name: getattr(context, name) for name in _SETTINGS}
    for name, value in _SETTINGS.items():
        setattr(context, name, value)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # bars are off: yes
    try:
        yield RayWorkers()
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        if began:
            ray.shutdown()
