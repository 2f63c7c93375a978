"""Codes, vectors and models from files that are damaged, or pickles that would run code."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hostile import PICKLES, attempt, damaged, trap
from safetensors.torch import save_file

from glass.sid import SidTable
from glass.sid.published import read_codes
from glass.sid.text_model import find_model
from glass.sid.vectors import read_vectors

IDS = pl.Series("raw_item_id", ["0", "1", "2"])


@pytest.mark.parametrize("kind", ["pickle 0", "pickle 2", "pickle 4"])
def test_the_traps_work(kind: str, tmp_path: Path) -> None:
    pickle.loads(trap(kind, tmp_path / "made"))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.pt", read_codes),
        ("a.npy", read_codes),
        ("a.json", read_codes),
        ("a.npy", read_vectors),
        ("a.parquet", read_vectors),
    ],
)
def test_pickles_are_not_executed(
    kind: str, name: str, read: Callable[[Path, pl.Series], Any], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(trap(kind, tmp_path / "made"))
    with pytest.raises(ValueError, match=rf"sid\.\w+_path.*{name}") as caught:
        read(path, IDS)
    assert not (tmp_path / "made").exists()
    assert "allow_pickle" not in str(caught.value)  # no advice to run it
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["sids.parquet", "vectors.safetensors", "quantizer.safetensors"])
def test_pickles_in_a_folder_of_semantic_ids(kind: str, name: str, tmp_path: Path) -> None:
    table().save(tmp_path / "sid")
    (tmp_path / "sid" / name).write_bytes(trap(kind, tmp_path / "made"))
    with pytest.raises(ValueError, match="sid is not a complete folder of semantic IDs"):
        SidTable.load(tmp_path / "sid")
    assert not (tmp_path / "made").exists()


def table() -> SidTable:
    codes = np.array([[0, 1], [1, 0], [1, 1]], np.int32)
    return SidTable(codes, (2, 2), np.ones((3, 4), np.float32), {}, {"config": {}})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, dtype=torch.int64).expand(3, 10**12),
        torch.zeros(2, 3, dtype=torch.int64).to_sparse(),
        torch.empty(2, 3, dtype=torch.int64, device="meta"),
        torch.zeros(2, 3, dtype=torch.complex64),
    ],
    ids=["one number of any shape", "sparse", "meta", "complex"],
)
def test_tensors_that_are_not_plain(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save(tensor, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"sid\.codes_path .*a\.pt (holds|is not a file)"):
        read_codes(tmp_path / "a.pt", IDS)


def test_a_tensor_that_unpacks_without_end(tmp_path: Path) -> None:
    torch.save(torch.zeros(3, 1_000_000, dtype=torch.int64), tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.namelist():
            packed.writestr(entry, whole.read(entry))
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"a\.pt is not a file of one tensor"):
        read_codes(tmp_path / "a.pt", IDS)


def test_an_array_that_claims_more_than_it_has(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2), np.int64))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(3, 2), }       ", b"(3, 20000000), }"))
    for read in (read_codes, read_vectors):
        with pytest.raises(ValueError, match=r"a\.npy is not an array of numbers, or is cut off"):
            read(tmp_path / "a.npy", IDS)
    np.savez(tmp_path / "b.npz", np.zeros((3, 2), np.int64))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    for read in (read_codes, read_vectors):
        with pytest.raises(ValueError, match=r"b\.npy is not an array of numbers but an archive"):
            read(tmp_path / "b.npy", IDS)


@pytest.mark.parametrize("name", ["a.pt", "a.npy", "a.json", "v.npy", "v.parquet"])
def test_damaged_files(name: str, tmp_path: Path) -> None:
    path, read = tmp_path / name, read_vectors if name[0] == "v" else read_codes
    if name == "a.pt":
        torch.save(torch.ones(2, 3, dtype=torch.int64), path)
    elif name == "a.json":
        path.write_text(json.dumps({item: ["<a_1>", "<b_2>"] for item in IDS}))
    elif name == "v.parquet":
        pl.DataFrame({"raw_item_id": IDS, "v": [[1.0, 2.0]] * 3}).write_parquet(path)
    else:
        np.save(path, np.ones((3, 2), np.int64))
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        found, refusal = attempt(lambda: read(path, IDS))
        if found is None:
            assert name in refusal
        else:
            assert len(found) == 3
            assert found.flags.writeable


@pytest.mark.parametrize(
    "name", ["sids.parquet", "vectors.safetensors", "quantizer.safetensors", "manifest.json"]
)
def test_damaged_folder_of_semantic_ids(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "sid"
    table().save(folder)
    content, rng = (folder / name).read_bytes(), random.Random(0)
    for _ in range(300):
        (folder / name).write_bytes(damaged(content, rng))
        found, refusal = attempt(lambda: SidTable.load(folder))
        assert str(folder) in refusal if found is None else found.codes.shape == (3, 2)


@pytest.mark.parametrize("sizes", [[1e999, 2], [2], {"a": 1}, None, [[2], 2], []])
def test_manifest_of_semantic_ids(sizes: Any, tmp_path: Path) -> None:
    table().save(tmp_path / "sid")
    path = tmp_path / "sid" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"codebook_sizes": sizes}))
    with pytest.raises(ValueError, match=r"sid.* (delete it|build it anew)"):
        SidTable.load(tmp_path / "sid")


def test_weights_of_types_that_numpy_lacks(tmp_path: Path) -> None:
    table().save(tmp_path / "sid")
    path = tmp_path / "sid" / "vectors.safetensors"
    save_file({"vectors": torch.zeros(3, 4, dtype=torch.bfloat16)}, path)
    with pytest.raises(ValueError, match="sid"):
        SidTable.load(tmp_path / "sid")
    header = json.dumps({"vectors": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    with pytest.raises(ValueError, match="sid is not a complete folder"):
        SidTable.load(tmp_path / "sid")


def test_deeply_nested_codes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for depth in (500, 100_000):
        path.write_text('{"0": ' + "[" * depth + "]" * depth + ', "1": [1], "2": [1]}')
        with pytest.raises(ValueError, match=r"a\.json"):
            read_codes(path, IDS)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([{"type": "sentence_transformers.models.Pooling", "path": "../x"}], "outside"),
        ([{"type": "sentence_transformers.models.Pooling", "path": "a/../../x"}], "outside"),
        ([{"type": "sentence_transformers.models.Pooling", "path": "/etc"}], "outside"),
        (["x"], "must be a list of objects"),
        ({"type": "x"}, "must be a list of objects"),
        ("[" * 100_000, "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_models_of_texts_stay_in_their_folder(modules: Any, message: str, tmp_path: Path) -> None:
    text = modules if isinstance(modules, str) else json.dumps(modules)
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ValueError, match=rf"modules\.json .*{message}"):
        find_model(str(tmp_path))
