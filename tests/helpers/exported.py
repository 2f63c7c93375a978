"""The example that serves an exported model, as a module, and the models it is tested with."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from toy import SMALL, toy_batch, toy_model

from glass.config import ModelConfig
from glass.generation import Beams, generate
from glass.models import Glass
from glass_kernels import SidTrie

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve_exported.py"
ONE_LAYER = dataclasses.replace(SMALL, num_encoder_layers=1, num_decoder_layers=1)
CONFIGS = {
    "glass": ONE_LAYER,
    "copying": dataclasses.replace(ONE_LAYER, copy_head=True, long_history="all"),
    "tier first": dataclasses.replace(
        SMALL, tier_token_last=False, gate_input="state", empty_retrieval="gate"
    ),
    "search alone": dataclasses.replace(SMALL, use_sid_tier=False, gate="fixed"),
    "vectors": dataclasses.replace(ONE_LAYER, tier_table_limit=0),
    "tiger": dataclasses.replace(ONE_LAYER, use_sid_tier=False, use_hard_search=False),
}
HISTORIES = [[5, 7, 7, 1, 30, 12, 5, 22, 9], [], [3], [8, 2, 2, 39, 11, 4, 4, 4, 17, 6, 0, 13]]


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_exported", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sharp_model(config: ModelConfig) -> Glass:
    """Weights large enough that codes differ clearly in probability."""
    model = toy_model(config).eval()
    with torch.no_grad():
        model.decoder.norm.weight.mul_(4)
    return model


def expected(model: Glass, histories: list[list[int]], width: int) -> Beams:
    """What `generate` gives; every event is a visit of its own, and time stands still."""
    batch = toy_batch(histories, [[1]] * len(histories), model.config)
    batch = dataclasses.replace(batch, long_days=torch.zeros_like(batch.long_days))
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    return generate(model, batch, trie, beam_width=width)


def assert_same(codes: torch.Tensor, scores: torch.Tensor, beams: Beams) -> None:
    assert torch.equal(codes, beams.codes)
    torch.testing.assert_close(scores, beams.scores, rtol=0, atol=1e-5)
