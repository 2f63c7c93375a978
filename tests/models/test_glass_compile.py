"""The training forward is one graph for torch.compile, whatever the lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compile_cases import COPYING, GLASS, TIGER, training_batch
from toy import random_histories, toy_batch, toy_model

from glass.config import ModelConfig


@pytest.mark.slow
@pytest.mark.parametrize("config", [GLASS, COPYING, TIGER], ids=["glass", "copying", "tiger"])
def test_forward_is_one_graph(config: ModelConfig) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model = toy_model(config)
    # Without fullgraph, which would also capture shapes that depend on the data.
    compiled = torch.compile(model, backend=count, dynamic=True)
    for seed in (0, 1):  # other lengths, other numbers of targets
        batch = training_batch(config, seed)
        results = []
        for run in (model, compiled):
            model.zero_grad()
            output = run(batch)
            output.loss.backward()
            grads = [p.grad.clone() for p in model.parameters()]
            results.append([output.loss.detach(), output.correct.float(), *grads])
        for one, two in zip(*results, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_training_step_is_captured_whole() -> None:
    """Forward and backward through AOT autograd, on the backends that run by themselves."""
    torch._dynamo.reset()
    model = toy_model(GLASS)
    batch = toy_batch(random_histories(4, (2, 25)), [[1], [2, 3], [4], [5]], GLASS)
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        loss = run(batch).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("config", [COPYING, TIGER], ids=["copying", "tiger"])
def test_encode_and_decode_are_one_graph_each(config: ModelConfig) -> None:
    torch._dynamo.reset()
    model = toy_model(config).eval()
    batch = toy_batch(random_histories(3, (2, 25)), [[1]] * 3, config)
    codes = torch.tensor([[[0], [1], [2], [4]]] * 3)

    def one_graph(run: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(run, backend="eager", fullgraph=True, dynamic=True)

    results = []
    for compiled in (False, True):
        encode, decode = model.encode, model.decode
        if compiled:
            encode, decode = one_graph(encode), one_graph(decode)
        with torch.no_grad():
            encoded = encode(batch)
            first, past = decode(encoded, codes[:, :1, :0], None, None)
            past = [tuple(part.repeat(4, 1, 1, 1) for part in pair) for pair in past]
            step, _ = decode(encoded, codes, model.retrieve(encoded, codes[..., 0]), past)
        results.append((first, step))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
