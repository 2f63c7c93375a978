"""Codes that were made elsewhere: read as they are, refused where they are not whole."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from doc_examples import example

from glass.config import SidConfig
from glass.data import Dataset, prepare
from glass.sid import SidTable, build, describe
from glass.sid.builder import check_sid_config
from glass.sid.published import read_codes

RAW = pl.Series(["0", "1", "10", "2"])  # the order of items.parquet: as texts
CODES = {"0": [3, 0, 2], "1": [0, 1, 2], "2": [3, 0, 5], "10": [1, 1, 0]}
IN_ORDER = [CODES[item] for item in RAW]
NONE = SidConfig(source="none", quantizer="published")


def tokens(codes):
    return [f"<{letter}_{code}>" for letter, code in zip("abcd", codes, strict=False)]


def write_index(path, sids):
    path.write_text(json.dumps(sids))
    return path


def index_of(path, **changes):
    return write_index(path, {item: tokens(codes) for item, codes in CODES.items()} | changes)


def grid_of(path, width=11):
    table = torch.zeros(3, width, dtype=torch.int64)
    for item, codes in CODES.items():
        table[:, int(item)] = torch.tensor(codes)
    torch.save(table, path)
    return path


def test_three_formats_give_the_same_codes(tmp_path):
    files = [index_of(tmp_path / "a.index.json"), grid_of(tmp_path / "a.pt"), tmp_path / "a.npy"]
    np.save(files[2], np.array(IN_ORDER, np.uint8))
    files.append(write_index(tmp_path / "numbers.json", {**CODES, "not ours": [9, 9]}))
    for path in files:
        codes = read_codes(path, RAW)
        assert codes.dtype == np.int32
        assert codes.tolist() == IN_ORDER, path.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1": tokens([0, 1])}, r"item 1 has \['<a_0>', '<b_1>'\], the first item .*end early"),
        ({"1": ["<a_0>", "<c_1>", "<b_2>"]}, "one letter a level"),
        ({"1": [0, 1, 2]}, r"item 1 has \[0, 1, 2\]"),
        ({"1": "<a_0><b_1><c_2>"}, "must be a list such as"),
        ({"1": ["<a_0>", "<b_-1>", "<c_2>"]}, "must be a list such as"),
        ({"1": ["<a_0>", None, "<c_2>"]}, "must be a list such as"),
        ({"1": []}, "must be a list such as"),
        (
            {"1": tokens([0, 65536, 2])},
            r"1 items have codes out of range, first item 1 with \[0, 6",
        ),
        ({"1": tokens([0, 10**30, 2])}, "codes must be 0 to 65535"),
        ({"1": ["<a_0>", "<b_" + "9" * 5000 + ">", "<c_2>"]}, "must be a list such as"),
    ],
)
def test_sids_that_are_none(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_codes(index_of(tmp_path / "a.json", **changes), RAW)


def test_missing_and_repeated_items(tmp_path):
    path = tmp_path / "a.json"
    write_index(path, {"0": tokens([1]), "10": tokens([2])})
    with pytest.raises(ValueError, match="no SID for 2 of 4 items, first 1, 2"):
        read_codes(path, RAW)
    path.write_text('{"0": [1], "1": [1], "0": [2], "2": [1], "10": [1]}')
    with pytest.raises(ValueError, match=r"a\.json repeats the items 0$"):
        read_codes(path, RAW)


def test_padding_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[3, 0], [0, -1], [1, 1], [3, 0]]))
    with pytest.raises(ValueError, match=r"first item 1 with \[0, -1\]; .* end early are not"):
        read_codes(path, RAW)
    write_index(tmp_path / "a.json", {item: [3, -1] for item in RAW})
    with pytest.raises(ValueError, match=r"4 items .* end early are not supported"):
        read_codes(tmp_path / "a.json", RAW)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2), np.int64), r"has 3 rows but the catalogue has 4 items"),
        (np.zeros((4, 2)), r"whole numbers \[items, levels\]"),
        (np.zeros(4, np.int64), r"whole numbers \[items, levels\]"),
        (np.zeros((4, 9), np.int64), r"has 9 levels; they must be 1 to 8"),
        (np.zeros((4, 0), np.int64), r"has 0 levels"),
        (np.array([["a"]] * 4, object), "is not an array of numbers"),
    ],
)
def test_arrays_that_do_not_fit(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        read_codes(tmp_path / "a.npy", RAW)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(11, 3, dtype=torch.int64), r"shape \[11, 3\].*\(transpose it"),
        (torch.zeros(3, 11), r"holds torch\.float32; it must be whole numbers"),
        (torch.zeros(3, 10, dtype=torch.int64), r"items 0 to 9, the catalogue 1 others.*'10'"),
        ({"sids": torch.zeros(2, 2)}, "holds a dict; it must be a tensor"),
    ],
)
def test_tensors_that_do_not_fit(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        read_codes(tmp_path / "a.pt", RAW)


def test_a_file_of_tensors_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    path = tmp_path / "a.pt"
    torch.save(Trap(), path)
    with pytest.raises(ValueError, match="is not a file of one tensor"):
        read_codes(path, RAW)
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(ValueError, match="is not a file of one tensor"):
        read_codes(path, RAW)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a file of one tensor"):
        read_codes(path, RAW)
    grid_of(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match="is not a file of one tensor"):
        read_codes(path, RAW)


def write_as_grid(path, codes):
    """The file that GRID leaves: merged as fractions, then numbered within a SID, then turned."""
    merged = torch.zeros((len(codes), len(codes[0])))
    for item, code in enumerate(codes):
        merged[item] = torch.tensor(code)
    torch.save(merged, path)
    saved = torch.load(path)
    number = [codes[:item].count(code) for item, code in enumerate(codes)]
    torch.save(torch.cat((saved, torch.tensor(number).unsqueeze(1)), dim=1).long(), path)
    torch.save(torch.load(path).transpose(-2, -1), path)


def test_the_grid_example_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, sid = example("published_data.md", "grid_beauty")
    (tmp_path / "GRID/pickle").mkdir(parents=True)
    (tmp_path / config.path).write_text(json.dumps({"7": [0, 3, 1, 2], "9": [2, 0, 11, 1, 0]}))
    codes = [[item % 3, 255, 0] for item in range(12)]
    write_as_grid(sid.codes_path, codes)
    dataset = Dataset.load(prepare(config))
    table = build(sid, dataset, tmp_path / "sid")
    raw = dataset.item_table["raw_item_id"].to_list()
    assert table.codes.tolist() == [[*codes[int(i)], int(i) // 3] for i in raw]
    torch.save(torch.rand(12, 2048), sid.codes_path)  # its item vectors
    with pytest.raises(ValueError, match="GRID writes item vectors to a file of the same name"):
        build(sid, dataset, tmp_path / "other")
    rows = [{"item_id": 0, "cluster_ids": torch.tensor([1, 2])}]  # its merged_predictions.pkl
    (tmp_path / sid.codes_path).write_bytes(pickle.dumps(rows))
    with pytest.raises(ValueError, match="is not a file of one tensor"):
        build(sid, dataset, tmp_path / "other")


@pytest.mark.parametrize(
    "form", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))]
)
def test_a_pickle_offered_as_tensor_is_not_executed(form, tmp_path):
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    form(Trap(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is not a file of one tensor"):
        read_codes(tmp_path / "a.pt", RAW)
    assert not marker.exists()


def test_the_letter_example_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, sid = example("published_data.md", "beauty")
    folder = tmp_path / config.path
    folder.mkdir(parents=True)
    # LETTER writes sequences over many lines and four levels of up to 256 codes on one.
    sequences = {"0": [0, 1, 2, 3, 4], "1": [5, 6, 3, 10]}
    (folder / "Beauty.inter.json").write_text(json.dumps(sequences, indent=4))
    codes = {str(item): [183, item, 255, item % 2] for item in range(11)}
    write_index(tmp_path / sid.codes_path, {item: tokens(code) for item, code in codes.items()})
    dataset = Dataset.load(prepare(config))
    assert dataset.num_items == 11
    assert dataset.split.tolist() == [0, 0, 0, 1, 2, 0, 0, 1, 2]
    table = build(sid, dataset, tmp_path / "sid")
    assert table.codes.tolist() == [codes[item] for item in dataset.item_table["raw_item_id"]]
    assert table.codebook_sizes == (184, 11, 256, 2)


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json is not a file"):
        read_codes(tmp_path / "nowhere.json", RAW)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(ValueError, match=r"ends in '\.csv'; use \.json, \.pt or \.npy"):
        read_codes(tmp_path / "a.csv", RAW)


def codes_of(dataset, path):
    """Published codes of the fixture's items, of which 0 and 1 share theirs."""
    codes = np.random.default_rng(0).integers(0, 5, (40, 3))
    codes[1] = codes[0]
    write_index(path, {f"r{i}": tokens(row) for i, row in enumerate(codes.tolist())})
    return codes


def test_build_without_vectors(dataset, tmp_path):
    codes = codes_of(dataset, tmp_path / "a.json")
    config = replace(NONE, codes_path=str(tmp_path / "a.json"))
    table = build(config, dataset, tmp_path / "sid")
    assert np.array_equal(table.codes, codes)
    assert table.codebook_sizes == tuple(codes.max(axis=0) + 1)
    assert table.vectors.shape == (40, 0)
    loaded = SidTable.load(tmp_path / "sid")
    assert loaded.vectors.shape == (40, 0)
    assert np.array_equal(loaded.codes, codes)
    with pytest.raises(ValueError, match=r"SID-Tier needs item vectors, .*sid\.source is 'none'"):
        loaded.require_vectors("SID-Tier")
    health = describe(loaded, dataset)
    assert health.num_items - health.num_sids >= 1
    assert "levels" in health.to_dict()
    assert str(health)


def test_build_with_vectors_and_deduplication(dataset, tmp_path):
    codes = codes_of(dataset, tmp_path / "a.json")
    settings = {"codes_path": str(tmp_path / "a.json"), "collaborative_dim": 4}
    config = replace(NONE, source="collaborative", deduplicate=True, **settings)
    table = build(config, dataset, tmp_path / "sid")
    assert np.array_equal(table.codes[:, :3], codes)
    assert len(np.unique(table.codes, axis=0)) == 40
    assert table.codes[:2, 3].tolist() == [1, 2]
    assert table.vectors.shape == (40, 4)


def test_codes_count_by_content(dataset, tmp_path):
    codes_of(dataset, tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    (tmp_path / "c.json").write_text((tmp_path / "a.json").read_text() + "\n")
    prints = []
    for name in ("a.json", "b.json", "c.json"):
        config = replace(NONE, codes_path=str(tmp_path / name))
        prints.append(build(config, dataset, tmp_path / name[0]).manifest["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NONE, r"sid\.codes_path is empty"),
        (SidConfig(source="none"), r"'none' but sid\.quantizer 'rkmeans' needs item vectors"),
    ],
)
def test_settings_that_need_others(config, message):
    with pytest.raises(ValueError, match=message):
        check_sid_config(config)
