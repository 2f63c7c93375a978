"""The card: what it is, how fast it copies and multiplies, and how long a call keeps it busy."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.machine import Floors
from benchmarks.timing import Side

GIB = 1 << 30
_FLUSHED_BYTES = 256 << 20  # above the L2 of any card so far
_PACKAGES = ("torch", "triton", "numpy")


def _tool(*command: str) -> str:
    """Last line of what a program prints, or why there is none."""
    if shutil.which(command[0]) is None:
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1].strip() if lines else f"exit status {done.returncode}"


def describe(device: str) -> dict[str, str]:
    """What goes above every number."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["CUDA of torch"] = torch.version.cuda or "none"
    found["nvcc"] = _tool("nvcc", "--version")
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found["card"] = f"{card.name}, sm_{card.major}{card.minor}"
        found["memory"] = f"{card.total_memory / GIB:.0f} GiB"
        found["multiprocessors"] = str(card.multi_processor_count)
        query = ("--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv,noheader")
        found["driver, highest clocks"] = _tool("nvidia-smi", *query)
    else:
        found["card"] = "none: no CUDA device is visible to torch"
    return found


@dataclass(frozen=True)
class Taken:
    """Medians of one call."""

    ms: float
    """Of the device: between two events around the call."""
    host_ms: float
    """Until the call returns: what the host needs to put its work in the queue."""
    extra_mib: float | None
    """Peak of the device's memory above that before the call."""


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _extra_mib(run: Side, device: str) -> float | None:
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run(0)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return (peak - before) / 2**20


def _timed(run: Side, number: int, device: str, rubbish: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of device and host; a pass over `rubbish` empties the caches first.

    It also keeps the device busy while the host puts the call's kernels in the queue.
    """
    rubbish.add_(1)
    if device != "cuda":
        start = time.perf_counter()
        run(number)
        taken = 1e3 * (time.perf_counter() - start)
        return taken, taken
    event = partial(torch.cuda.Event, enable_timing=True)
    first, last = event(), event()
    first.record()
    start = time.perf_counter()
    run(number)
    host = 1e3 * (time.perf_counter() - start)
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last), host


def take(
    sides: Mapping[str, Side], device: str, *, seconds: float, least: int = 10, most: int = 200
) -> dict[str, Taken]:
    """Calls the sides in turn, as often as fits into `seconds` a side.

    Args:
        sides: name -> side, which picks its input by the number of the round.
        device: "cuda", or "cpu" to try the program without a card.
        seconds: no round begins after this time for each side, once there were `least`.
        least, most: rounds.
    """
    rubbish = torch.zeros(_FLUSHED_BYTES if device == "cuda" else 0, dtype=torch.uint8)
    rubbish = rubbish.to(device)
    memory = {}
    for name, run in sides.items():
        for number in range(2):  # compiles, tunes, and fills the caches of allocators
            run(number)
        memory[name] = _extra_mib(run, device)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    begin = _now(device)
    for number in range(most):
        if number >= least and _now(device) - begin > seconds * len(sides):
            break
        for name, run in sides.items():
            times[name].append(_timed(run, number, device, rubbish))
    found = {}
    for name, pairs in times.items():
        device_ms, host_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[name] = Taken(device_ms, host_ms, memory[name])
    return found


def _rate(run: Callable[[], object], work: float, device: str) -> float:
    """Units of `work` a second, by the median of some calls."""
    sides: dict[str, Side] = {"": lambda _: run()}
    return 1e3 * work / take(sides, device, seconds=0.3)[""].ms


def measure_ceilings(device: str) -> tuple[Floors, dict[str, float]]:
    """Copy and float32 products as `Floors`; and GFLOP/s of products by dtype."""
    big = device == "cuda"
    source = torch.ones((GIB if big else 1 << 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _rate(partial(target.copy_, source), 2.0 * source.numel(), device)
    size = 8192 if big else 256
    rates = {}
    allowed = torch.backends.cuda.matmul.allow_tf32
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        rates[name] = _rate(partial(torch.mm, a, b, out=out), 2.0 * size**3, device) / 1e9
    torch.backends.cuda.matmul.allow_tf32 = allowed
    if device == "cuda":
        del source, target, a, b, out
        torch.cuda.empty_cache()  # other processes want the card's memory
    return Floors(copy, rates["float32"] * 1e9), rates
