"""The jobs of IntRR: what the sides read, and that a wrong one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import intrr_generation, intrr_models, intrr_training
from benchmarks.agreement import DiffersError
from benchmarks.intrr_models import SIDES, Setup, make_histories, make_model
from glass_kernels import SidTrie

SETUP = Setup("transformer", 2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(intrr_models.SMALL, d_model=16, num_layers=1, num_heads=2, head_dim=8, d_ff=16)
    monkeypatch.setitem(intrr_models.SIZES, "small", small)


def test_sides_read_the_newest_of_the_same_histories() -> None:
    whole, short = (make_histories(3, items, 0) for items in (32, 8))
    assert torch.equal(whole.items.view(3, 32)[:, -8:], short.items.view(3, 8))
    assert torch.equal(whole.targets.view(3, 32)[:, -8:], short.targets.view(3, 8))
    assert torch.equal(whole.items.view(3, 32)[:, 1:], whole.targets.view(3, 32)[:, :-1])
    tokens = {
        name: side.items * make_model(SETUP, side).tokens_per_item for name, side in SIDES.items()
    }
    assert tokens == {"ours": 32, "same items": 128, "same length": 32}


def test_steps_are_timed_after_their_check() -> None:
    row = intrr_training.row_of(SETUP, quick=True)
    assert row["ours / same items"] > 0
    assert row["same length samples / s"] > 0


def test_a_wrong_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(SETUP, SIDES["ours"])
    batch = make_histories(2, 32, 0)
    calls = iter((1.0, 1.01))
    found = intrr_models.loss_and_norms

    def wrong(model: torch.nn.Module, batch: object) -> object:
        loss, gradients = found(model, batch)  # type: ignore[arg-type]
        factor = next(calls)
        return loss, {name: value * factor for name, value in gradients.items()}

    monkeypatch.setattr(intrr_training, "loss_and_norms", wrong)
    with pytest.raises(DiffersError, match="gradient of"):
        intrr_training.check("ours", model, batch)


def test_a_wrong_score_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(SETUP, SIDES["ours"]).eval()
    batch = intrr_models.newest(make_histories(2, 32, 0))
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    intrr_generation.check("ours", model, batch, trie, 5)
    shifts = iter((0.0, 1e-3))
    search = intrr_generation.generate

    def wrong(*given: object, **settings: object) -> object:
        beams = search(*given, **settings)  # type: ignore[arg-type]
        return replace(beams, scores=beams.scores + next(shifts))

    monkeypatch.setattr(intrr_generation, "generate", wrong)
    with pytest.raises(DiffersError, match="scores differ"):
        intrr_generation.check("ours", model, batch, trie, 5)
