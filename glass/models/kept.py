"""What follows from a module's weights alone, kept until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

ModuleT = TypeVar("ModuleT", bound=nn.Module)
MadeT = TypeVar("MadeT")
Holder = Mapping[str, Tensor | None]

_version = attrgetter("_version")


class Kept(Generic[ModuleT, MadeT]):
    """Makes something of a module; anew once a parameter was changed, replaced or moved.

    With `buffers`, also once a buffer was.
    """

    def __init__(self, make: Callable[[ModuleT], MadeT], *, buffers: bool = False) -> None:
        self._make = make
        self._buffers = buffers
        self._held: WeakKeyDictionary[ModuleT, tuple[_Marks, MadeT]] = WeakKeyDictionary()

    def __call__(self, module: ModuleT) -> MadeT:
        """What it makes of `module` with the weights as they are now."""
        held = self._held.get(module)
        if held is not None and held[0].are_current():
            return held[1]
        # Ordinary tensors, so that generation in and out of inference mode may use them.
        with torch.inference_mode(False), torch.no_grad():
            marks = _Marks.of([h for child in module.modules() for h in self._holders(child)])
            made = self._make(module)
        self._held[module] = (marks, made)
        return made

    def _holders(self, module: nn.Module) -> list[Holder]:
        held: list[Holder] = [module._parameters]
        return [*held, module._buffers] if self._buffers else held


@dataclass(frozen=True)
class _Marks:
    """Tensors and what shows that they were changed; side by side, as a call looks at them all."""

    holders: list[Holder]
    names: list[str]
    tensors: list[Tensor]
    pointers: list[int]
    versions: list[int] | None  # changes in place; None where torch does not count them

    @classmethod
    def of(cls, holders: list[Holder]) -> _Marks:
        """Of all tensors in `holders`, as they are now."""
        held = [(h, name, t) for h in holders for name, t in h.items() if t is not None]
        tensors = [tensor for _, _, tensor in held]
        return cls(
            [holder for holder, _, _ in held],
            [name for _, name, _ in held],
            tensors,
            list(map(Tensor.data_ptr, tensors)),
            _versions(tensors),
        )

    def are_current(self) -> bool:
        """Whether nothing was changed, replaced or moved since."""
        return (
            self.versions is not None
            and all(map(is_, map(_get, self.holders, self.names), self.tensors))
            and list(map(Tensor.data_ptr, self.tensors)) == self.pointers
            and _versions(self.tensors) == self.versions
        )


def _get(holder: Holder, name: str) -> Tensor | None:
    return holder.get(name)


def _count(optimizer: Optimizer, *_: object) -> None:
    """torch does not count what its fused optimizers write: every step of every optimizer is."""
    written = [p for group in optimizer.param_groups for p in group["params"]]
    increment_version([p for p in written if not p.is_inference()])


register_optimizer_step_post_hook(_count)


def _versions(tensors: list[Tensor]) -> list[int] | None:
    try:
        return list(map(_version, tensors))
    except RuntimeError:  # of inference mode: torch does not count
        return None
