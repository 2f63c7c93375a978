"""Traces training and decoding of models for Triton; prints as JSON what the graphs hold.

`python traced_models.py NAME...`: a process of its own, since it gives torch a device for good.
Not with fullgraph, which would capture what depends on the data too.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import card
import torch
from compile_cases import CASES, decoded, first_step, next_step
from torch.utils._python_dispatch import TorchDispatchMode

import glass_kernels
from glass.generation import generate
from glass_kernels import SidTrie

Found = dict[str, Any]


class Log(TorchDispatchMode):
    """The library's operators as they are called, and where all results are."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "glass":
            self.ops.append(func._schema.name.removeprefix("glass::"))
        leaves = torch.utils._pytree.tree_leaves(result)
        self.devices.update(x.device.type for x in leaves if isinstance(x, torch.Tensor))
        return result


def found_by(tracer: card.Tracer) -> Found:
    graphs = tracer.forward, tracer.backward
    return {
        "graphs": list(map(len, graphs)),
        "ops": list(map(card.ops, graphs)),
        "devices": tracer.devices(),
    }


def training(name: str, here: card.Card) -> Found:
    """Forward and backward; `without`: parameters that get no gradient on the card."""
    model, batch = here.moved(CASES[name].model().train()), here.moved(CASES[name].training())
    tracer = card.Tracer()
    with here.mode:
        torch.compile(model, backend=tracer.backend)(batch).loss.backward()
    grads = {key: p.grad for key, p in model.named_parameters()}
    without = [key for key, grad in grads.items() if grad is None or grad.device.type != card.NAME]
    return {**found_by(tracer), "without": without}


def steps(name: str, here: card.Card) -> Found:
    """Decoding steps, one graph a level."""
    model, batch = here.moved(CASES[name].model().eval()), here.moved(CASES[name].serving(3))
    tracer = card.Tracer()
    compiled = (torch.compile(step, backend=tracer.backend) for step in (first_step, next_step))
    with here.mode:
        decoded(model, batch, 4, *compiled)
    return found_by(tracer)


def generation(name: str, here: card.Card) -> Found:
    """A whole search without a compiler: what would wait for a card fails."""
    model, batch = CASES[name].model().eval(), here.moved(CASES[name].serving(3))
    trie = here.moved(SidTrie.build(model.codes, model.codebook_sizes))
    here.moved(model)
    with here.mode, Log() as log:
        beams = generate(model, batch, trie, beam_width=4)
    assert beams.codes.shape == (3, 4, 3)
    return {"graphs": [], "ops": [log.ops, []], "devices": sorted(log.devices)}


def main(*names: str) -> None:
    card.set_up()
    found: dict[str, dict[str, Found]] = {}
    with glass_kernels.use_backend("triton"):
        for name in names:
            found[name] = {}
            for work in (training, steps, generation):
                torch._dynamo.reset()
                found[name][work.__name__] = work(name, card.Card())
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
