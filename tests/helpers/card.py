"""A card that is not there: models and batches of fake tensors on it, traced and never run.

Without CUDA, torch has no autograd for tensors that say they are on a CUDA device. The device that
it keeps for backends of others stands in, in a process of its own, and passes for CUDA where a
backend is picked. Nothing else in the models asks what kind of device they are on.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import glass_kernels.backend
from glass.models.kept import Kept

NAME = "card"
_runs_on = glass_kernels.backend.runs_on


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16, torch.float32]


def _as_on_cuda(backend: str, device: torch.device, *, named: bool = True) -> bool:
    there = torch.device("cuda") if device.type == NAME else device
    return _runs_on(backend, there, named=named)


def set_up() -> None:
    """For the rest of the process."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    patch.object(glass_kernels.backend, "runs_on", _as_on_cuda).start()
    # it knows tensors by their addresses, which these do not have
    patch.object(Kept, "__call__", lambda kept, module: kept._make(module)).start()


class Card:
    """A mode of fake tensors, and what was moved into it."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode()

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        """A fake one on the card."""
        with self.mode:
            return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=NAME)

    def moved(self, given: Any) -> Any:
        """The same with all its tensors on the card; a module is changed in place."""
        if isinstance(given, torch.Tensor):
            return self.tensor(given)
        if isinstance(given, nn.Module):
            for module in given.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        fake = self.tensor(parameter)
                        module._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = self.tensor(buffer)
            return given
        if isinstance(given, tuple):
            return tuple(map(self.moved, given))
        if dataclasses.is_dataclass(given) and not isinstance(given, type):
            fields = (field.name for field in dataclasses.fields(given) if field.init)
            return dataclasses.replace(
                given, **{name: self.moved(getattr(given, name)) for name in fields}
            )
        return given


class Tracer:
    """A backend of torch.compile that keeps the graphs of autograd's tracing."""

    def __init__(self) -> None:
        self.forward: list[torch.fx.GraphModule] = []
        self.backward: list[torch.fx.GraphModule] = []
        self.backend = aot_autograd(
            fw_compiler=partial(_keep, self.forward), bw_compiler=partial(_keep, self.backward)
        )

    def devices(self) -> list[str]:
        """Where the tensors of the graphs are."""
        graphs = self.forward + self.backward
        values = [node.meta.get("val") for graph in graphs for node in graph.graph.nodes]
        leaves = torch.utils._pytree.tree_leaves(values)
        return sorted({x.device.type for x in leaves if isinstance(x, torch.Tensor)})


def _keep(graphs: list[torch.fx.GraphModule], graph: torch.fx.GraphModule, _: Any) -> Any:
    graphs.append(graph)
    return make_boxed_func(graph.forward)


def ops(graphs: list[torch.fx.GraphModule]) -> list[str]:
    """The library's operators in the graphs, in order."""
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    return [name.split(".")[1] for name in targets if name.startswith("glass.")]
