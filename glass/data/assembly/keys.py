"""Raw ids as 64-bit keys: what a data set larger than memory is partitioned, sorted and joined by.

A key is a hash of the text alone, the same on every machine and in every version of the libraries.
Two texts with one key are found (`Names` keeps both texts) and the keys made anew from another
seed: no event can ever be counted for another's user or item.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.data.order import mixed

Keys = NDArray[np.uint64]
PARTITION_BITS = 8
"""A partition is the keys that share their highest bits."""
_FACTOR = np.uint64(0xD1342543DE82EF95)


def keys_of(texts: pl.Series, seed: int = 0) -> Keys:
    """uint64 [T] key of each text (no nulls), from its UTF-8 bytes and `seed`.

    Eight bytes at a time, over all texts at once: a text of n bytes takes part in n/8 rounds.
    """
    data, starts, lengths = _buffers(texts)
    start = np.uint64((seed * 0xA0761D6478BD642F + 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over="ignore"):
        keys = mixed(lengths.astype(np.uint64) + start)
        words = np.ndarray(len(data) - 7, dtype="<u8", buffer=data, strides=(1,))
        longest = int(lengths.max(initial=0))
        going = np.arange(len(lengths))
        for place in range(0, longest, 8):
            going = going[lengths[going] > place]
            left = np.minimum(lengths[going] - place, 8).astype(np.uint64)
            mask = ~np.uint64(0) >> (np.uint64(64) - 8 * left)
            word = words[starts[going] + place] & mask
            keys[going] = mixed((keys[going] ^ word) * _FACTOR)
    return keys


def partition_of(keys: Keys) -> NDArray[np.int64]:
    """int64 [T] partition of each key, below `1 << PARTITION_BITS`."""
    numbers: NDArray[np.int64] = (keys >> np.uint64(64 - PARTITION_BITS)).astype(np.int64)
    return numbers


def _buffers(texts: pl.Series) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
    """UTF-8 of all texts with eight bytes after it, and start and length of each."""
    array: Any = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset :][: len(array) + 1]
    content = array.buffers()[2]
    data = (b"" if content is None else content.to_pybytes()) + bytes(8)
    return data, offsets[:-1], np.diff(offsets)
