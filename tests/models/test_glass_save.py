"""Saved models: equal after loading, without the data, and nothing in a file is executed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from toy import SIZES, SMALL, random_histories, toy_batch, toy_dataset, toy_model, toy_sids

from glass.models import Glass

HISTORIES = random_histories(4, (1, 20), seed=1)
TARGETS = [[1], [2, 3], [4], [5]]
CONFIGS = {
    "glass": SMALL,
    "tiger": dataclasses.replace(SMALL, use_sid_tier=False, use_hard_search=False),
    "fixed gate": dataclasses.replace(SMALL, gate="fixed", num_neighbours=0),
    "equal tiers": dataclasses.replace(SMALL, tier_edges="equal", num_tiers=6),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_loaded_model_is_the_saved_one(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = toy_model(config).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = Glass.from_pretrained(str(tmp_path / "model"))
    assert loaded.config == config
    assert loaded.codebook_sizes == SIZES
    assert not loaded.training
    saved, found = model.state_dict(), loaded.state_dict()
    assert saved.keys() == found.keys()
    for key, tensor in saved.items():
        assert tensor.dtype == found[key].dtype
        assert torch.equal(tensor, found[key]), key
    batch = toy_batch(HISTORIES, TARGETS, config)
    assert torch.equal(loaded(batch).loss, model(batch).loss)


def test_names_of_saved_weights_stay() -> None:
    """Models saved before must load; a layer's own names, each with its shape."""
    found = toy_model().state_dict()
    prefix = "decoder.layers.1."
    layer = {name.removeprefix(prefix): t for name, t in found.items() if name.startswith(prefix)}
    d, inner = SMALL.d_model, SMALL.num_heads * SMALL.head_dim
    wanted = {f"{norm}.weight": (d,) for norm in ("attention_norm", "cross_norm", "ff_norm")}
    for attention in ("attention.proj", "short", "retrieved"):
        wanted |= {f"{attention}.{part}.weight": (inner, d) for part in ("query", "key", "value")}
        wanted[f"{attention}.output.weight"] = (d, inner)
    wanted |= {"fusion.weight": (d, 2 * d), "fusion.bias": (d,)}
    wanted |= {"ff.up.weight": (SMALL.d_ff, d), "ff.down.weight": (d, SMALL.d_ff)}
    assert {name: tuple(tensor.shape) for name, tensor in layer.items()} == wanted
    assert {name.split(".")[0] for name in found} == {
        *("bos", "codes", "decoder", "encoder", "hard_search"),
        *("retrieved_projection", "tier", "token_table"),
    }


def test_files_are_plain_json_and_safetensors(tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"config.json", "model.safetensors"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_config"]["d_model"] == SMALL.d_model
    assert stored["codebook_sizes"] == list(SIZES)


def test_pickle_in_place_of_the_weights_is_not_executed(tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"cposix\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(Exception, match=r"(?i)header|safetensor|deserializ"):
        Glass.from_pretrained(str(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_sids_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sid_table holds 39 items.*'toy' 40; build the SIDs"):
        Glass.from_data(SMALL, toy_sids(num_items=39), toy_dataset([[[1], [2]]]))


def test_standardizing_over_a_single_training_sample_is_refused() -> None:
    config = dataclasses.replace(SMALL, tier_standardize=True)
    message = r"model\.tier_standardize needs at least 2 training samples .*'toy' has 1; set"
    with pytest.raises(ValueError, match=message):
        Glass.from_data(config, toy_sids(), toy_dataset([[[2], [3], [4], [5]]]))


def test_two_models_of_one_seed_are_equal() -> None:
    one, two = toy_model(seed=4).state_dict(), toy_model(seed=4).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = toy_model(seed=5).state_dict()
    assert not torch.equal(one["token_table"], other["token_table"])
