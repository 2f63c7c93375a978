"""CUDA kernels compiled with g++ and shim.h, called with NumPy arrays.

No torch here: this file runs by itself under sanitizers, `python shimmed.py LIBRARY`.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
CUDA = HERE.parents[1] / "csrc" / "cuda"
FLAGS = ("-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-Wno-unknown-pragmas", "-Wno-attributes")


def build(op: str, folder: Path, *flags: str, source: str | None = None) -> Path:
    """Compiles csrc/cuda/<op>.cu, or `source` in its place, into a library for the CPU."""
    file = folder / f"{op}.cu"
    file.write_text(source if source is not None else (CUDA / f"{op}.cu").read_text())
    library = folder / f"{op}.so"
    command = ["g++", *FLAGS, *flags, f"-I{CUDA}", "-include", str(HERE / "shim.h")]
    subprocess.run([*command, "-x", "c++", str(file), "-o", str(library)], check=True)
    return library


_BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")


def barriers(source: str) -> list[int]:
    """The line of each barrier."""
    return [source.count("\n", 0, found.start()) + 1 for found in _BARRIER.finditer(source)]


def numbered(source: str) -> str:
    """The same, but a kernel leaves out the barrier whose number is in SHIM_LEAVE_OUT."""
    numbers = itertools.count()
    return _BARRIER.sub(lambda found: f"if (shim::keeps({next(numbers)})) {found[0]}", source)


class _Call(ctypes.Structure):
    """SidTierCall of csrc/cuda/sid_tier.h."""

    _fields_ = (
        ("item_ids", ctypes.c_void_p),
        ("wide_ids", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("num_users", ctypes.c_int64),
        ("total", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("num_items", ctypes.c_int64),
        ("num_codes", ctypes.c_int64),
        ("num_tiers", ctypes.c_int64),
        ("normalize", ctypes.c_int64),
        ("part", ctypes.c_int64),
        ("partial", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


class LaunchError(Exception):
    pass


class SidTier:
    """`glass_sid_tier` of a compiled library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.glass_cuda_error.restype = ctypes.c_char_p
        self._library.glass_sid_tier_part.restype = ctypes.c_int64

    def part(self, total: int, num_codes: int, num_tiers: int, processors: int) -> int:
        wide = ctypes.c_int64
        part = self._library.glass_sid_tier_part(
            wide(total), wide(num_codes), num_tiers, processors
        )
        return int(part)

    def shared_bytes(self) -> int:
        """Shared memory of a block of the last call."""
        return int(self._library.shim_shared_bytes())

    def __call__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        table: np.ndarray,
        num_tiers: int,
        *,
        normalize: bool = False,
        part: int = 1024,
        seed: int = 0,
    ) -> np.ndarray:
        users, (items, codes) = len(offsets) - 1, table.shape
        out = np.full((users, codes, num_tiers), np.nan, dtype=np.float32)
        cuts = max(len(ids) - 1, 0) // part
        partial = np.full((cuts, codes, num_tiers), 0xCDCDCDCD, dtype=np.uint32)
        call = _Call(
            *(ids.ctypes.data, ids.dtype == np.int64, offsets.ctypes.data, users, len(ids)),
            *(table.ctypes.data, items, codes, num_tiers, normalize, part),
            *(partial.ctypes.data, out.ctypes.data),
        )
        self._library.shim_seed(seed)
        error = self._library.glass_sid_tier(ctypes.byref(call), None)
        if error:
            raise LaunchError(self._library.glass_cuda_error(error).decode())
        return out


def history(
    lengths: list[int], items: int, codes: int, tiers: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, items, sum(lengths), dtype=np.int64)
    table = rng.integers(0, tiers, (items, codes), dtype=np.uint8)
    return ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), table


def brute_force(ids: np.ndarray, offsets: np.ndarray, table: np.ndarray, tiers: int) -> np.ndarray:
    """Counts [B, K, N]; ids out of range and bytes >= N count nowhere."""
    out = np.zeros((len(offsets) - 1, table.shape[1], tiers), dtype=np.float32)
    for user, (begin, end) in enumerate(pairwise(offsets)):
        mine = ids[begin:end]
        rows = table[mine[(mine >= 0) & (mine < len(table))]]
        for tier in range(tiers):
            out[user, :, tier] = (rows == tier).sum(0)
    return out


# lengths, codes, tiers, part: each path, odd sizes, cut and whole histories
CASES = (
    ([0, 1, 5, 0, 300], 128, 4, 1024),
    ([700, 3], 64, 20, 1024),
    ([90, 0, 260, 7], 100, 20, 40),
    ([33, 5], 130, 3, 1024),
    ([64, 200], 7, 9, 32),
    ([1500], 1, 1, 64),
    ([120, 40], 36, 255, 50),
    ([9, 70], 1100, 5, 16),
    ([3], 2052, 2, 1024),
)


def main(library: str) -> None:
    run = SidTier(Path(library))
    for lengths, codes, tiers, part in CASES:
        ids, offsets, table = history(lengths, 11, codes, tiers + 1)
        ids[::5] += 7  # some past the end
        ids[::7] = -1
        for dtype in (np.int32, np.int64):
            counts = run(ids.astype(dtype), offsets, table, tiers, part=part, seed=1)
            np.testing.assert_array_equal(counts, brute_force(ids, offsets, table, tiers))
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1])
