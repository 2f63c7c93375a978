"""Set-up of all tests: one thread, fixed seeds, and fresh buffers that are not zero by luck."""

from __future__ import annotations

import ctypes
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


_M_PERTURB, _COMPLEMENT_OF_0X7F = -6, 0x80  # of glibc's malloc.h: what is fresh holds 0x7f7f..


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fresh buffers (torch.empty and friends) start as NaN, so that an unwritten output shows.

    Only with it: deterministic mode also changes which kernels torch picks.
    """
    fill = torch.utils.deterministic.fill_uninitialized_memory
    was, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    perturb = getattr(ctypes.CDLL(None), "mallopt", None)  # for what C++ kernels allocate
    if perturb is not None:
        perturb(_M_PERTURB, _COMPLEMENT_OF_0X7F)
    yield
    if perturb is not None:
        perturb(_M_PERTURB, 0)
    torch.use_deterministic_algorithms(was, warn_only=warn)
    torch.utils.deterministic.fill_uninitialized_memory = fill
