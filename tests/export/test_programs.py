"""The graphs of an export give what generate() gives, whatever the sizes."""

from __future__ import annotations

from typing import Any

import pytest
from exported import CONFIGS, HISTORIES, assert_same, example, expected, sharp_model

from glass.export import EncoderForExport, Limits, StepForExport, export_graphs
from glass.export.programs import FEWEST_BEAMS, FEWEST_EVENTS
from glass.models import Glass
from glass_kernels import SidTrie

# (users, beam width): batches that need padding or none, an added user, one beam, too many beams
CALLS = [
    (HISTORIES, 6),
    (HISTORIES[:1], 1),
    (HISTORIES[1:2], 3),
    (HISTORIES[1:3], 50),
    ([HISTORIES[0], HISTORIES[3], HISTORIES[0]], 10),
]


def server(model: Glass, graphs: dict[str, Any], modules: dict[str, Any]) -> Any:
    manifest = {
        "short_length": model.config.short_length,
        "long_history": model.config.long_history,
        "pad_left": model.config.tier_token_last,
        "num_items": len(model.codes),
        "max_batch": 8,
        "max_beams": 64,
        "min_beams": FEWEST_BEAMS,
        "min_events": FEWEST_EVENTS,
        "graphs": {
            name: {"inputs": module.inputs, "outputs": module.outputs}
            for name, module in modules.items()
        },
    }
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    return example().Server(manifest, graphs, trie)


@pytest.mark.parametrize("name", CONFIGS)
def test_modules_are_the_model(name: str) -> None:
    model = sharp_model(CONFIGS[name])
    modules: dict[str, Any] = {"encoder": EncoderForExport(model)}
    for level in range(model.num_levels):
        modules[f"decoder_step_{level}"] = StepForExport(model, level)
    serve = server(model, modules, modules)
    for histories, width in CALLS:
        found = serve.generate(histories, width)
        assert_same(*found, expected(model, histories, width))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copying", pytest.param("tiger", marks=pytest.mark.static)])
def test_programs_take_any_size(name: str) -> None:
    model = sharp_model(CONFIGS[name])
    graphs = list(export_graphs(model, Limits(max_batch=8, max_beams=64)))
    ops = {str(node.target) for graph in graphs for node in graph.program.graph.nodes}
    called = {op.partition(".")[2].partition(".")[0] for op in ops if op.startswith("glass.")}
    searching = {"bucket_history", "hard_search", "hard_search_attention", "gated_fusion"}
    assert called == ({"sid_tier", *searching} if name == "copying" else set())
    programs = {graph.name: graph.program.module() for graph in graphs}
    serve = server(model, programs, {graph.name: graph.module for graph in graphs})
    for histories, width in CALLS:
        found = serve.generate(histories, width)
        assert_same(*found, expected(model, histories, width))


def test_limits() -> None:
    with pytest.raises(ValueError, match="max_beams must be at least 1, was 0"):
        Limits(max_beams=0)


def test_wrong_calls_of_the_example() -> None:
    model = sharp_model(CONFIGS["tiger"])
    serve = server(model, {}, {})
    with pytest.raises(ValueError, match="histories must be of 1 to 8 users, were of 0"):
        serve.generate([], 3)
    with pytest.raises(ValueError, match=r"beam_width must be in \[1, 64\], was 65"):
        serve.generate([[1]], 65)
    with pytest.raises(ValueError, match=r"histories must hold items in \[0, 40\), held 40"):
        serve.generate([[1, 40]], 3)
