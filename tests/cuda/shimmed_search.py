"""The CUDA kernels of hard search compiled with g++ and shim.h, called with NumPy arrays.

No torch here: this file runs by itself under sanitizers, `python shimmed_search.py LIBRARY`.
"""

from __future__ import annotations

import ctypes
import sys
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from shimmed import LaunchError


class _BucketCall(ctypes.Structure):
    """BucketHistoryCall of csrc/cuda/hard_search.h."""

    _fields_ = (
        ("sid1", ctypes.c_void_p),
        ("wide_codes", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("num_users", ctypes.c_int64),
        ("total", ctypes.c_int64),
        ("num_codes", ctypes.c_int64),
        ("order", ctypes.c_void_p),
        ("bucket_offsets", ctypes.c_void_p),
    )


class _SearchCall(ctypes.Structure):
    """HardSearchCall of csrc/cuda/hard_search.h."""

    _fields_ = (
        ("order", ctypes.c_void_p),
        ("total", ctypes.c_int64),
        ("bucket_offsets", ctypes.c_void_p),
        ("num_users", ctypes.c_int64),
        ("num_codes", ctypes.c_int64),
        ("query_sid1", ctypes.c_void_p),
        ("wide_queries", ctypes.c_int64),
        ("num_queries", ctypes.c_int64),
        ("neighbours", ctypes.c_void_p),
        ("wide_neighbours", ctypes.c_int64),
        ("num_neighbours", ctypes.c_int64),
        ("max_items", ctypes.c_int64),
        ("min_items", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
    )


UNWRITTEN = -0x32323233
"""What int32 results hold before a call."""


class HardSearch:
    """`glass_bucket_history` and `glass_hard_search` of a compiled library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.shim_error.restype = ctypes.c_char_p

    def shared_bytes(self) -> int:
        """Shared memory of a block of the last call."""
        return int(self._library.shim_shared_bytes())

    def _run(self, function: str, call: ctypes.Structure, seed: int) -> None:
        self._library.shim_seed(seed)
        if getattr(self._library, function)(ctypes.byref(call), None):
            raise LaunchError(self._library.shim_error().decode())

    def bucket(
        self, sid1: np.ndarray, offsets: np.ndarray, num_codes: int, *, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(order [T], bucket_offsets [B, K+1])"""
        users = len(offsets) - 1
        order = np.full(len(sid1), UNWRITTEN, dtype=np.int32)
        starts = np.full((users, num_codes + 1), UNWRITTEN, dtype=np.int32)
        call = _BucketCall(
            *(sid1.ctypes.data, sid1.dtype == np.int64, offsets.ctypes.data, users, len(sid1)),
            *(num_codes, order.ctypes.data, starts.ctypes.data),
        )
        self._run("glass_bucket_history", call, seed)
        return order, starts

    def search(
        self,
        order: np.ndarray,
        starts: np.ndarray,
        query: np.ndarray,
        neighbours: np.ndarray | None,
        max_items: int,
        min_items: int,
        *,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(positions [B, S, M], lengths [B, S])"""
        users, width = query.shape
        positions = np.full((users, width, max_items), UNWRITTEN, dtype=np.int32)
        lengths = np.full((users, width), UNWRITTEN, dtype=np.int32)
        near = query if neighbours is None else neighbours
        call = _SearchCall(
            *(order.ctypes.data, len(order), starts.ctypes.data, users, starts.shape[1] - 1),
            *(query.ctypes.data, query.dtype == np.int64, width),
            *(near.ctypes.data, near.dtype == np.int64),
            *(0 if neighbours is None else near.shape[1], max_items, min(min_items, max_items)),
            *(positions.ctypes.data, lengths.ctypes.data),
        )
        self._run("glass_hard_search", call, seed)
        return positions, lengths


def problem(
    lengths: list[int], codes: int, width: int, near: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(sid1, offsets, query, neighbours) with codes that are absent, negative or repeated."""
    rng = np.random.default_rng(seed)
    sid1 = (codes * rng.random(sum(lengths)) ** 2).astype(np.int64)
    sid1[::9] = min(1024, codes - 1)  # the last of its block, or the first of the next
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    query = rng.integers(-1, codes, (len(lengths), width), dtype=np.int64)
    neighbours = rng.integers(-1, codes, (codes, near), dtype=np.int64)
    return sid1, offsets, query, neighbours


# lengths, codes, width, near, most, least: warps from 1 to 32, several ranges of codes, n > 32
CASES = (
    ([0, 1, 5, 0, 300], 7, 3, 2, 9, 5),
    ([40, 33, 0], 130, 2, 4, 20, 40),
    ([1500, 3], 300, 3, 5, 30, 25),
    ([5000], 40, 2, 0, 50, 3),
    ([700], 3000, 1, 3, 4, 4),
    ([60, 9], 8200, 2, 1, 3, 2),
    ([90], 50, 2, 70, 70, 64),
    ([64], 1, 1, 1, 100, 100),
)


def brute_bucket(sid1: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """order [T]"""
    parts = [begin + np.argsort(sid1[begin:end], kind="stable") for begin, end in pairwise(offsets)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def brute_search(
    sid1: np.ndarray,
    offsets: np.ndarray,
    query: np.ndarray,
    neighbours: np.ndarray,
    most: int,
    least: int,
) -> list[list[list[int]]]:
    """What each query finds."""
    found = []
    for user, (begin, end) in enumerate(pairwise(offsets)):
        newest = range(end - 1, begin - 1, -1)
        rows = []
        for code in query[user]:
            row = [i for i in newest if sid1[i] == code][:most]
            for near in dict.fromkeys(neighbours[code] if code >= 0 else ()):
                if near not in (-1, code):
                    room = max(min(least, most) - len(row), 0)
                    row += [i for i in newest if sid1[i] == near][:room]
            rows.append(row)
        found.append(rows)
    return found


def main(library: str) -> None:
    run = HardSearch(Path(library))
    for lengths, codes, width, near, most, least in CASES:
        sid1, offsets, query, neighbours = problem(lengths, codes, width, near)
        wanted = brute_search(sid1, offsets, query, neighbours, most, least)
        for dtype in (np.int32, np.int64):
            order, starts = run.bucket(sid1.astype(dtype), offsets, codes, seed=1)
            np.testing.assert_array_equal(order, brute_bucket(sid1, offsets))
            positions, found = run.search(
                order, starts, query.astype(dtype), neighbours.astype(dtype), most, least, seed=1
            )
            for row, slots, length in zip(
                chain.from_iterable(wanted), positions.reshape(-1, most), found.ravel(), strict=True
            ):
                assert slots.tolist() == row + [-1] * (most - len(row))
                assert length == len(row)
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1])
