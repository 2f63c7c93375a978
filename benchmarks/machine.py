"""The machine: what it is, how fast it copies and multiplies, and what memory a call takes."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.timing import Clock

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def describe() -> dict[str, str]:
    """Columns that go beside every number."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found[1] if found else model
    return {
        "machine": f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@dataclass(frozen=True)
class Floors:
    """Rates of this machine, measured: no op that has to move or multiply so much is faster."""

    copy_bytes: float
    """Bytes read plus bytes written, a second, of one large copy."""
    gemm_flops: float
    """Floating-point operations a second of a float32 matrix product."""

    def ms(self, *, num_bytes: float, flops: float = 0.0) -> float:
        return 1e3 * max(num_bytes / self.copy_bytes, flops / self.gemm_flops)

    def __str__(self) -> str:
        copy, gemm = self.copy_bytes / 1e9, self.gemm_flops / 1e9
        return f"copy {copy:.1f} GB/s, fp32 GEMM {gemm:.0f} GFLOP/s"


def _shortest(run: Callable[[], object], rounds: int) -> float:
    run()
    times = []
    for _ in range(rounds):
        start = Clock.now()
        run()
        times.append(Clock.now() - start)
    return min(times)


def measure_floors(rounds: int = 15) -> Floors:
    """Best of `rounds`, with the present number of threads.

    The product is measured at two shapes, square and that of 64,000 events by 128 codes, and the
    better counts: a floor that is too low flatters nobody.
    """
    source = torch.ones(128 << 20, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / _shortest(lambda: target.copy_(source), rounds)
    rates = []
    for rows, inner, columns in ((1536, 1536, 1536), (64_000, 128, 128)):
        a, b, c = torch.rand(rows, inner), torch.rand(inner, columns), torch.empty(rows, columns)
        seconds = _shortest(partial(torch.mm, a, b, out=c), rounds)
        rates.append(2 * rows * inner * columns / seconds)
    return Floors(copy, max(rates))


@contextmanager
def pages_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process (glibc), and large temporaries fault no pages.

    As MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=... would do for a whole process: plain PyTorch
    gains much from it, so both are reported.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:  # where malloc's own adjustment ends in a process that frees large blocks
        mallopt(_M_MMAP_MAX, 65_536)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        _trim()


def _trim() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_kib(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def peak_extra_mib(run: Callable[[], object]) -> float | None:
    """Peak resident memory during `run` above that before, in MiB; None where Linux cannot say.

    Of the whole process, so that what C++ and libraries allocate counts too. Freed memory is
    returned to the system first: a temporary that reuses it would not show.
    """
    if not _CLEAR_REFS.exists():
        return None
    _trim()
    _CLEAR_REFS.write_text("5")  # makes the peak the present value
    before = _status_kib("VmRSS")
    result = run()
    peak = _status_kib("VmHWM")
    del result
    return (peak - before) / 1024
