"""Inputs of benchmarks on another device."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def moved(value: T, device: str) -> T:
    """The same on `device`: tensors in data classes, tuples and lists, leaves as leaves.

    What has a `to` of its own is asked for it.
    """
    result: Any = value
    if isinstance(value, Tensor):
        result = value.detach().to(device).requires_grad_(value.requires_grad)
    elif hasattr(value, "to"):
        result = value.to(device)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: moved(getattr(value, f.name), device) for f in fields(value)}
        result = type(value)(**parts)
    elif isinstance(value, tuple | list):
        result = type(value)(moved(part, device) for part in value)
    return result  # type: ignore[no-any-return]
