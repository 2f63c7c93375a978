"""How the processes of a job share a training step.

The rows of a batch are divided among the processes. A loss is a sum of means, each over things of
which every process has its own number; weighted by that number, the mean of the processes'
gradients is the gradient of the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from glass import distributed
from glass.models import Output

Mode = Literal["ddp", "fsdp2"]


class OneProcess:
    """A model that one process trains; also what the others build upon.

    Attributes:
        model: what the steps change.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def forward(self, batch: Any) -> Output:
        """Training forward pass."""
        output: Output = self.model(batch)
        return output

    def loss(self, output: Output, *, counts: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """What the backward pass starts from, and the share of each term where it has one: by it
        the mean over the processes is that over the batch. Without `counts` this process's row is
        another's."""
        return output.loss, {}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The model has all of its weights for the block, for what is no training step."""
        yield

    def weights(self) -> dict[str, Tensor]:
        """State of the model, whole; every process must ask."""
        return self.model.state_dict()

    def load(self, weights: dict[str, Tensor]) -> None:
        """The inverse of `weights`."""
        self.model.load_state_dict(weights)

    def end(self, weights: dict[str, Tensor]) -> None:
        """After the last step: the model that was given takes these weights."""
        self.model.load_state_dict(weights)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """State of the optimiser, whole; every process must ask."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """The inverse of `optimizer_state`."""
        optimizer.load_state_dict(state)


class Replicas(OneProcess):
    """Every process holds the model; gradients are averaged while they are made (DDP)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._net: Callable[[Any], Output] = self._wrapped(model)

    def _wrapped(self, model: nn.Module) -> Callable[[Any], Output]:
        # A batch without retrieval leaves parameters without a gradient.
        return nn.parallel.DistributedDataParallel(
            model,
            find_unused_parameters=True,
            broadcast_buffers=False,  # tables that no step changes
            gradient_as_bucket_view=True,
        )

    def forward(self, batch: Any) -> Output:
        return self._net(batch)

    def loss(self, output: Output, *, counts: bool) -> tuple[Tensor, dict[str, Tensor]]:
        device = output.loss.device
        own = torch.stack(
            [
                torch.as_tensor(term.count, dtype=torch.float64, device=device)
                for term in output.terms.values()
            ]
        )
        own = own * counts
        shares = own * distributed.count() / distributed.summed(own).clamp(min=1)
        named = dict(zip(output.terms, shares, strict=True))
        weighted = [
            term.value * named[name].to(term.value.dtype) for name, term in output.terms.items()
        ]
        return torch.stack(weighted).sum(), named


class _Terms(nn.Module):
    """Gives tensors alone, which FSDP2 can hang its hooks on, and keeps the output they are of."""

    output: Output

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> tuple[Tensor, ...]:
        self.output = self.model(batch)
        return tuple(term.value for term in self.output.terms.values())


class Shards(Replicas):
    """Every process holds a part of each weight and of the optimiser's state (FSDP2).

    The weights of the whole model are gathered for a step: memory is saved between steps and for
    the optimiser.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(copy.deepcopy(model))
        # A sharded model keeps its hooks for good: the one that was given waits, off the card.
        self._device = next(model.parameters()).device
        self._given = model.to("cpu")

    def _wrapped(self, model: nn.Module) -> Callable[[Any], Output]:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(model.parameters()).device.type
        mesh = init_device_mesh(device, (distributed.count(),))
        self._sharded: Any = fully_shard(_Terms(model), mesh=mesh)
        return self._through

    def _through(self, batch: Any) -> Output:
        self._sharded(batch)
        output: Output = self._sharded.output
        return output

    def loss(self, output: Output, *, counts: bool) -> tuple[Tensor, dict[str, Tensor]]:
        loss, shares = super().loss(output, counts=counts)
        # Processes exchange the gradients of all parameters, also of those without one.
        touched = [_plain(parameter.sum()) for parameter in self.model.parameters()]
        return loss + torch.stack(touched).sum() * 0.0, shares

    @contextmanager
    def whole(self) -> Iterator[None]:
        self._sharded.unshard()
        try:
            yield
        finally:
            self._sharded.reshard()

    def weights(self) -> dict[str, Tensor]:
        return {name: _plain(value) for name, value in self.model.state_dict().items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        own = self.model.state_dict()
        self.model.load_state_dict({name: _like(own[name], weights[name]) for name in own})

    def end(self, weights: dict[str, Tensor]) -> None:
        self._given.to(self._device).load_state_dict(weights)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = tree_map(_plain, optimizer.state_dict())
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        parts = {
            number: {
                name: _like(parameters[number], value) if value.dim() else value
                for name, value in entries.items()
            }
            for number, entries in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": parts})


def shared(model: nn.Module, mode: Mode) -> OneProcess:
    """The model as the processes of this job train it."""
    if distributed.count() == 1:
        return OneProcess(model)
    return Shards(model) if mode == "fsdp2" else Replicas(model)


def _plain(value: Any) -> Any:
    """A tensor that is spread over the processes, gathered; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _like(own: Tensor, value: Tensor) -> Tensor:
    """A whole tensor spread over the processes as `own` is."""
    # Imported here: it takes longer than all the rest of this package.
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
