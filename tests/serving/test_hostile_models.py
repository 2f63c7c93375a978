"""Folders of models whose files are damaged, pickles that would run code, or links elsewhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import PICKLES, Trap, attempt, trap
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from serving_cases import item_table
from toy import SIZES, toy_model, toy_sids

from glass.serving import Recommender
from glass.serving.folder import load_system, save_system, trained_on
from glass_kernels import SidTrie
from glass_kernels.modules import TierHistogram, TierState
from glass_kernels.trie.storage import _checksum

FILES = (
    "trained.json",
    "config.json",
    "model.safetensors",
    "trie.safetensors",
    "items.parquet",
    "sid/manifest.json",
    "sid/sids.parquet",
    "sid/vectors.safetensors",
    "sid/quantizer.safetensors",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sids = toy_sids()
    trie = SidTrie.build(torch.from_numpy(sids.codes), SIZES)
    trained = {"system": "glass", "data": "d", "steps": 1, "best_step": 1, "best": 0.0}
    save_system(toy_model(), sids, trie, tmp_path / "model", trained, item_table())
    return tmp_path / "model"


def test_an_undamaged_folder_is_read(folder: Path) -> None:
    assert len(Recommender.load(folder).items) == len(item_table())
    assert trained_on(folder) == "d"
    assert all((folder / name).is_file() for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_pickles_are_not_executed(folder: Path, name: str, tmp_path: Path) -> None:
    for kind in PICKLES:
        (folder / name).write_bytes(trap(kind, tmp_path / "made"))
        with pytest.raises(ValueError, match=str(folder)):
            Recommender.load(folder)
    assert not (tmp_path / "made").exists()


def test_weights_that_are_pickled_are_not_looked_for(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.bin", "model.pt"):
        torch.save({"weight": Trap(tmp_path / "made")}, folder / name)
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be loaded .*`glass train`"):
        load_system(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", FILES)
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=str(folder)):
        Recommender.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(folder: Path, name: str) -> None:
    content, rng = (folder / name).read_bytes(), random.Random(0)
    ends = len(content) if len(content) < 3000 else 1500  # headers and footers, not weights
    for k in range(25):
        changed = bytearray(content)
        place = rng.randrange(ends) * rng.choice((1, -1))
        changed[place % len(changed)] = rng.randrange(256)
        (folder / name).write_bytes(changed if k % 5 else content[: rng.randrange(len(content))])
        found, refusal = attempt(lambda: Recommender.load(folder))
        assert found is not None or str(folder) in refusal


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ("[" * 100_000, r"trained\.json cannot be read"),
        ("[]", r"trained\.json is not a JSON object"),
        ('{"system": "../../x"}', r"model: system is '\.\./\.\./x'; it must be one of"),
        ('{"system": ["glass"]}', "it must be one of"),
    ],
)
def test_what_was_trained(folder: Path, trained: str, message: str) -> None:
    (folder / "trained.json").write_text(trained)
    with pytest.raises(ValueError, match=message):
        load_system(folder)


@pytest.mark.parametrize(
    "change", [{"num_items": 10**15}, {"model_config": {"d_model": -1}}, {"codebook_sizes": "x"}]
)
def test_settings_of_a_model(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"config\.json and model\.safetensors cannot be loaded"):
        load_system(folder)


def test_tries_of_other_types(folder: Path) -> None:
    path = folder / "trie.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name, other in (("item_ids", torch.bfloat16), ("child_codes.0", torch.int64)):
        save_file(tensors | {name: tensors[name].to(other)}, path, metadata)
        with pytest.raises(ValueError, match=r"trie\.safetensors is not a trie"):
            SidTrie.load(path)
    nested = "[" * 100_000
    save_file(tensors, path, metadata | {"trie": nested, "crc32": _checksum(tensors, nested)})
    with pytest.raises(ValueError, match=r"trie\.safetensors is not a trie"):
        SidTrie.load(path)


def test_counts_of_other_tiers(tmp_path: Path) -> None:
    histogram = toy_model().tier
    assert isinstance(histogram, TierHistogram)
    state = TierState(histogram, 2)
    state.counts = state.counts[:, :, :1].contiguous()
    state.save(tmp_path / "state")
    with pytest.raises(ValueError, match=r"state has counts \[2, 5, 1\], these tiers have"):
        TierState.load(tmp_path / "state", histogram)
    content = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(content.replace(b'"I32"', b'"F32"'))
    with pytest.raises(ValueError, match="state is no state"):
        TierState.load(tmp_path / "state", histogram)
    (tmp_path / "state").write_bytes(trap("pickle 4", tmp_path / "made"))
    with pytest.raises(ValueError, match="state is no state"):
        TierState.load(tmp_path / "state", histogram)
    assert not (tmp_path / "made").exists()


def test_pickled_histories(folder: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(folder)
    state = tmp_path / "state"
    state.mkdir()
    (state / "histories.parquet").write_bytes(trap("pickle 4", tmp_path / "made"))
    with pytest.raises(ValueError, match=r"histories\.parquet cannot be restored"):
        recommender.load_state(state)
    assert not (tmp_path / "made").exists()
