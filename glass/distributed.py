"""The processes of one job, as `torchrun` starts them; without it there is one.

`torchrun --nproc-per-node 2 -m glass run CONFIG`: every process goes through the same steps. What
cannot be divided is done by the first, while the others wait; run folder and prepared data lie
where all see them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")
WAIT_HOURS = 12
"""How long a process waits for the others: data and semantic IDs are made by the first alone."""


def requested() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def job() -> Iterator[None]:
    """Joins the other processes for the block, where `torchrun` started several.

    NCCL with a GPU for each process of a machine, gloo for what lies on the CPU.

    Raises:
        ValueError: a machine has fewer GPUs than processes.
    """
    if not requested() or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"torchrun started process {local + 1} on a machine with {gpus} GPUs; lower "
                "--nproc-per-node"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # sums of the log and random states lie on the CPU
    dist.init_process_group(backend, timeout=timedelta(hours=WAIT_HOURS))
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def wait_for_all() -> None:
    """Goes on when every process is here."""
    if count() > 1:
        dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The block is done by the first process, then by the others, who find its results ready."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def from_first(value: T) -> T:
    """The value that the first process has."""
    if count() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[no-any-return]


def gathered(value: T) -> list[T]:
    """The value of every process, in the order of their numbers."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def summed(values: Tensor) -> Tensor:
    """Sum over the processes; the tensor itself where there is one."""
    if count() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def own_part(rows: NDArray[Any]) -> NDArray[Any]:
    """This process's share: every so many-th row, so that neighbours are spread."""
    return rows[rank() :: count()]


def interleaved(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows [n, ...] of every process in the order that `own_part` took them from, each once."""
    parts = gathered(rows)
    whole = np.empty((sum(map(len, parts)), *rows.shape[1:]), dtype=rows.dtype)
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the job is gone."""
    if not dist.is_available() or not requested():
        return False
    known = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    text = str(error)
    gloo = "gloo" in text or "onnection" in text or "NCCL" in text
    return isinstance(error, known) or (isinstance(error, RuntimeError) and gloo)
