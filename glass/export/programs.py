"""`torch.export` of a model's graphs, with every size that a server varies left open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from glass.export.graphs import EncoderForExport, StepForExport
from glass.models import Glass

FEWEST_EVENTS = 3
"""T of a call, of all users together: torch takes smaller sizes for constants."""
FEWEST_BEAMS = 2
"""W, for the same reason; one of two beams may be dead."""
MOST_EVENTS = 2**31 - 1
_SIZES: Mapping[str, tuple[str | None, ...]] = {
    "short_items": ("users", "items"),
    "long_items": ("events",),
    "long_offsets": ("users + 1",),
    "long_visits": ("events",),
    "long_days": ("events",),
    "mask": ("users", None, None, "positions"),
    "memory": ("users", None, "positions", None),
    "order": ("events",),
    "bucket_offsets": ("users", None),
    "tokens": ("events", None),
    "copied_share": ("events",),
    "copied_first": ("users", None),
    "copied_events": ("users",),
    "codes": ("users", "beams", None),
    "parents": ("users", "beams"),
    "past": ("users", "parents", None, None, None),
}
"""What the dimensions of every input are; None: a number that follows from the model."""


@dataclass(frozen=True)
class Limits:
    """Largest sizes that the graphs of a model take; ValueError for one below 1."""

    max_batch: int = 256
    """Users."""
    max_beams: int = 512
    """Beams of a user."""

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, was {size}")

    def sizes(self, short_length: int) -> dict[str, Any]:
        """The open sizes, for `torch.export`; never below those of the example."""
        users = Dim("users", max=self.max_batch + 1)  # a caller may add one to reach FEWEST_EVENTS
        beams = max(self.max_beams, 3)
        return {
            "users": users,
            "users + 1": users + 1,
            "items": Dim("items", max=max(short_length, 2)),
            "events": Dim("events", min=FEWEST_EVENTS, max=MOST_EVENTS),
            "positions": Dim("positions"),
            "beams": Dim("beams", min=FEWEST_BEAMS, max=beams),
            "parents": Dim("parents", min=FEWEST_BEAMS, max=beams),
        }


@dataclass(frozen=True)
class Graph:
    """One graph of a model and its program."""

    name: str
    """"encoder" or "decoder_step_<level>"."""
    module: EncoderForExport | StepForExport
    program: ExportedProgram

    def describe(self) -> dict[str, list[str]]:
        """Names of inputs and outputs, in order."""
        return {"inputs": self.module.inputs, "outputs": self.module.outputs}


@torch.no_grad()
def export_graphs(model: Glass, limits: Limits) -> Iterator[Graph]:
    """The encoder, then the decoder step of every level.

    Args:
        model: in eval mode; its weights are shared with the programs, not copied.
    """
    encoder = EncoderForExport(model).eval()
    histories = _example_histories(model)
    arguments = {name: histories[name] for name in encoder.inputs}
    yield Graph("encoder", encoder, _export(encoder, arguments, limits))
    memory = dict(zip(encoder.outputs, encoder(*arguments.values()), strict=True))
    for level in range(model.num_levels):
        step = StepForExport(model, level).eval()
        program = _export(step, _example_beams(step, memory), limits)
        yield Graph(f"decoder_step_{level}", step, program)


def _export(
    module: EncoderForExport | StepForExport, arguments: Mapping[str, Tensor], limits: Limits
) -> ExportedProgram:
    sizes = limits.sizes(module.model.config.short_length)
    open_sizes = tuple(
        # What is 1 in the example, the parents of the first beams, is 1 always.
        {i: sizes[size] for i, size in enumerate(_sizes_of(name)) if size and tensor.shape[i] > 1}
        for name, tensor in arguments.items()
    )
    with open_to_one_user():
        return torch.export.export(module, tuple(arguments.values()), dynamic_shapes=(open_sizes,))


def open_to_one_user() -> AbstractContextManager[None]:
    """Else what is compiled for two users may assume that there is never one alone."""
    patched: AbstractContextManager[None]
    patched = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patched


def _sizes_of(name: str) -> tuple[str | None, ...]:
    """`memory_keys.0` is one of `memory`, and so on."""
    return _SIZES[name.partition("_")[0] if "." in name else name]


def _example_histories(model: Glass) -> dict[str, Tensor]:
    """Two users; sizes of 0 and 1 would be taken for constants, shared memory for a rule."""
    items = torch.zeros(5, dtype=torch.int64, device=model.token_table.device)
    return {
        "short_items": items.new_zeros(2, 2),
        "long_items": items,
        "long_offsets": torch.tensor([0, 3, 5], device=items.device),
        "long_visits": items + 1,
        "long_days": items.float(),
    }


def _example_beams(step: StepForExport, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Three beams a user, gone on from one (at level 1) or three."""
    keys = memory["memory_keys.0"]
    users, heads, _, width = keys.shape
    parents = 1 if step.level == 1 else 3
    given = {
        "codes": keys.new_zeros(users, 3, step.level, dtype=torch.int64),
        "parents": keys.new_zeros(users, 3, dtype=torch.int32),
        **memory,
    }
    past = (users, parents, heads, step.level, width)
    return {n: given[n] if n in given else keys.new_zeros(past) for n in step.inputs}
