"""Finds tensors that code makes on the CPU because it names no device: on a card they would meet
tensors of the card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint",
        "randn", "randperm", "scalar_tensor", "tensor", "zeros",
    )
)  # fmt: skip


class NamesDevices(TorchFunctionMode):
    """Inside, a factory function that names no device raises AssertionError."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in _FACTORIES and given.get("device") is None:
            raise AssertionError(f"torch.{func.__name__} without a device: on a card it is the CPU")
        return func(*args, **given)
