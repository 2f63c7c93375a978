"""Decoding steps are one graph a level for torch.compile, for any number of users and beams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from compile_cases import CASES, decoded, first_step, next_step

from glass.generation.extend import Frontier, Rule
from glass_kernels import SidTrie

shapes = torch.fx.experimental._config
SEARCHING = {"glass.hard_search", "glass.hard_search_attention", "glass.gated_fusion"}
OPS = {"copying": SEARCHING, "union": SEARCHING}
"""What the steps of a model call of the library; the others have torch's own operations alone."""


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        yield


class Compiler:
    """Compiles functions down to what autograd's tracing makes of them, and keeps the graphs.

    Without fullgraph, which would capture what depends on the data too. Sizes become variables
    once they have changed: with all of them variable from the start, those of the weights that
    generation has put together would be, which takes minutes.
    """

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self._rest = torch._dynamo.lookup_backend("aot_eager")

    def _backend(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        run = self._rest(graph, inputs)
        self.graphs.append(graph)  # now that it is done: it may be asked for anew
        return run

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, backend=self._backend)

    def ops(self) -> set[str]:
        """The library's operators in all graphs, of functions that were captured whole."""
        assert not torch._dynamo.utils.counters["graph_break"]
        called = {str(n.target) for g in self.graphs for n in g.graph.nodes if callable(n.target)}
        return {name for name in called if name.startswith("glass.")}


HEAVY = [pytest.param(name, marks=pytest.mark.static) for name in ("copying", "tiger")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HEAVY, "union", "intrr_transformer", "intrr_sum", "intrr_hstu"])
def test_every_level_is_one_graph(name: str) -> None:
    model = CASES[name].model().eval()
    assert len(model.codebook_sizes) == 3
    compiler = Compiler()
    compiled = compiler(first_step), compiler(next_step)
    counts = []
    for users, width in ((3, 4), (5, 6), (7, 9)):
        batch = CASES[name].serving(users)
        wanted = decoded(model, batch, width)
        found = decoded(model, batch, width, *compiled)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        counts.append(len(compiler.graphs))
    assert counts == [3, 6, 6]
    assert compiler.ops() == OPS.get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("constrained", [True, False])
def test_extending_beams_is_one_graph(constrained: bool) -> None:
    model = CASES["intrr_transformer"].model().eval()
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    compiler = Compiler()
    extend = compiler(Rule.extend)
    rule = Rule(trie, 4, constrained, True, None, None)  # another width has graphs of its own
    counts = []
    for users in (3, 5, 7):
        beams = ours = Frontier.root(users, torch.device("cpu"))
        for size in model.codebook_sizes:
            logits = torch.randn(users, beams.codes.shape[1], size)
            (beams, parents), (ours, also) = rule.extend(beams, logits), extend(rule, ours, logits)
            assert torch.equal(also, parents)
            assert all(map(torch.equal, vars(ours).values(), vars(beams).values()))
        counts.append(len(compiler.graphs))
    assert counts == [3, 6, 6]
    assert compiler.ops() == {"glass.trie_beam_step" if constrained else "glass.beam_step"}
