"""What follows from a module's weights alone, kept until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
MadeT = TypeVar("MadeT")
Mark = tuple[Mapping[str, Tensor | None], str, Tensor, int, int | None]


class Kept(Generic[ModuleT, MadeT]):
    """Makes something of a module; anew once a parameter was changed, replaced or moved.

    With `buffers`, also once a buffer was.
    """

    def __init__(self, make: Callable[[ModuleT], MadeT], *, buffers: bool = False) -> None:
        self._make = make
        self._buffers = buffers
        self._held: WeakKeyDictionary[ModuleT, tuple[list[Mark], MadeT]] = WeakKeyDictionary()

    def __call__(self, module: ModuleT) -> MadeT:
        """What it makes of `module` with the weights as they are now."""
        held = self._held.get(module)
        if held is not None and all(map(_is_current, held[0])):
            return held[1]
        # Ordinary tensors, so that generation in and out of inference mode may use them.
        with torch.inference_mode(False), torch.no_grad():
            marks: list[Mark] = [
                (held_by, name, tensor, tensor.data_ptr(), _version(tensor))
                for child in module.modules()
                for held_by in self._holders(child)
                for name, tensor in held_by.items()
                if tensor is not None
            ]
            made = self._make(module)
        self._held[module] = (marks, made)
        return made

    def _holders(self, module: nn.Module) -> list[Mapping[str, Tensor | None]]:
        held: list[Mapping[str, Tensor | None]] = [module._parameters]
        return [*held, module._buffers] if self._buffers else held


def _version(tensor: Tensor) -> int | None:
    """Counts changes in place; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def _is_current(mark: Mark) -> bool:
    holder, name, parameter, pointer, version = mark
    return (
        holder.get(name) is parameter
        and parameter.data_ptr() == pointer
        and version is not None
        and _version(parameter) == version
    )
