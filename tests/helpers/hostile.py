"""Damaged bytes, pickles that would run code, and what a reader makes of them."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")
PICKLES = ("pickle 0", "pickle 2", "pickle 4", "array of objects", "torch", "legacy torch")


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """What it gives, or None and what its ValueError says."""
    try:
        return read(), ""
    except ValueError as error:
        return None, str(error) or "an empty message"


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def trap(kind: str, path: Path) -> bytes:
    """A file of one of the kinds of `PICKLES` that makes `path` when it is unpickled."""
    name, _, protocol = kind.partition(" ")
    if name == "pickle":
        return pickle.dumps(Trap(path), protocol=int(protocol))
    file = io.BytesIO()
    if name == "array":
        np.save(file, np.array([Trap(path)], object), allow_pickle=True)
    else:
        torch.save({"codes": Trap(path)}, file, _use_new_zipfile_serialization=name == "torch")
    return file.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """With some bytes changed, added or missing; in one of five cases cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(len(changed))
        changed[place : place + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.2 else changed)


def one_bit_changed(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
