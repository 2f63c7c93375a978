"""Saved models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glass.pipeline.neural import load_system, trained_on


@pytest.fixture
def saved(finished: Path) -> Path:
    return finished.parent / "runs" / "tiny" / "glass"


def test_a_folder_may_be_named_by_a_string(saved: Path) -> None:
    by_path, _, _ = load_system(saved)
    by_string, table, trie = load_system(str(saved))
    assert table.num_items == 30
    assert trie.codebook_sizes == (4, 4, 4)
    assert trained_on(str(saved)) == trained_on(saved)
    for name, value in by_path.state_dict().items():
        assert torch.equal(by_string.state_dict()[name], value), name


@pytest.mark.parametrize("system", ["glass", "tiger"])
def test_model_card_says_what_is_true_and_no_more(saved: Path, system: str) -> None:
    folder = saved.parent / system
    card = (folder / "README.md").read_text()
    trained = json.loads((folder / "trained.json").read_text())
    parameters = sum(p.numel() for p in load_system(folder)[0].parameters())
    assert card.startswith(f"# {system.upper()} on shop\n")
    assert "30 items, semantic IDs of [4, 4, 4] codes" in card
    assert f"{parameters:,} parameters" in card
    assert f"step {trained['best_step']} of {trained['steps']}" in card
    assert f"ndcg@20 {trained['best']:.4f}" in card
    for foreign in ("hub", "pushed", "More Information", "http"):
        assert foreign.lower() not in card.lower(), foreign


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trained model; run `glass train`"):
        load_system(str(tmp_path))
