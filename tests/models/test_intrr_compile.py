"""IntRR's training forward, and that of the union, are one graph for torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from compile_cases import union_batch, union_model
from sequence_cases import sequence_model, windows_batch

shapes = torch.fx.experimental._config


@pytest.fixture(autouse=True)
def _sizes_that_agree_by_chance_stay_apart() -> Iterator[None]:
    with shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        yield


def graphs_of(model: torch.nn.Module, batches: Sequence[Any]) -> int:
    """Graphs that all of `batches` need; loss and gradients as without a compiler."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, dynamic=True)
    for batch in batches:
        results = []
        for run in (model, compiled):
            model.zero_grad()
            output = run(batch)
            output.loss.backward()
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            results.append([output.loss.detach(), output.correct.float(), *grads])
        for one, two in zip(*results, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]
    return len(graphs)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["previous", "sum"])
@pytest.mark.parametrize("system", ["intrr_transformer", "intrr_hstu"])
def test_training_forward_of_intrr_is_one_graph(system: str, context: str) -> None:
    model = sequence_model(system, context=context).train()
    batches = [windows_batch(rows=rows) for rows in ([3, 4, 5, 6], [2, 5], [3, 4, 5])]
    assert len({batch.distinct.numel() for batch in batches if batch.distinct is not None}) == 3
    assert graphs_of(model, batches) == 1


@pytest.mark.slow
def test_full_histories_have_a_graph_without_padding() -> None:
    model = sequence_model("intrr_transformer").train()
    full, ragged = windows_batch(rows=[0, 1, 2]), windows_batch(rows=[3, 4, 5, 6])
    assert len(full.items) == 3 * full.longest
    assert graphs_of(model, [full, ragged]) == 2


@pytest.mark.slow
def test_training_forward_of_the_union_is_one_graph() -> None:
    model = union_model().train()
    assert graphs_of(model, [union_batch(0), union_batch(1)]) == 1


@pytest.mark.parametrize("system", ["intrr_transformer", "intrr_hstu"])
def test_what_a_batch_does_not_say_is_looked_up(system: str) -> None:
    model = sequence_model(system).train()
    batch = windows_batch()
    assert batch.distinct is not None
    assert batch.place is not None
    assert torch.equal(batch.distinct[batch.place], batch.items)
    results = []
    for given in (batch, replace(batch, distinct=None, place=None, present=None)):
        model.zero_grad()
        output = model(given)
        output.loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([output.loss, output.correct, *grads])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
