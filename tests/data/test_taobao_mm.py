"""TAOBAO-MM in the files of its release, and made-up files like them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pickled import use_pickled_workers
from raw_tables import read

from glass.config import DataConfig, SidConfig, TaobaoMmConfig
from glass.data import Dataset, prepare
from glass.data.assembly import spill
from glass.data.readers import taobao_mm, taobao_parts
from glass.data.synth.taobao_mm import ITEMS, SAMPLES, USERS, VECTORS
from glass.sid.vectors import item_vectors

CLICK, NO_CLICK = [0, 1], [1, 0]
A, B, C, D, E = -9_000_000_000_000_000_001, 2, -3, 4, 5
Tables = dict[str, dict[str, list[Any]]]
Write = Callable[..., DataConfig]
SCHEMAS = {
    "train_samples": SAMPLES,
    "test_samples": SAMPLES,
    "train_user_features": USERS,
    "test_user_features": USERS,
    "item_features": ITEMS,
    "scl_embedding_int8_p90": VECTORS,
}


def users(histories: dict[int, list[int]]) -> dict[str, list[Any]]:
    rows = list(histories.values())
    profile = {f"130_{k}": [k] * len(rows) for k in range(1, 6)}
    return {"129_1": list(histories), **profile, "150_2_180": rows, "151_2_180": rows}


def samples(*rows: tuple[int, int, list[int]]) -> dict[str, list[Any]]:
    return {
        "label_0": [label for _, _, label in rows],
        "129_1": [user for user, _, _ in rows],
        "205": [item for _, item, _ in rows],
    }


def vectors(*items: int) -> dict[str, list[Any]]:
    return {"205": list(items), "205_c": [[item % 100] * 127 + [-128] for item in items]}


TABLES: Tables = {
    "train_samples": samples(
        (A, B, CLICK), (7, B, CLICK), (7, C, CLICK), (7, D, NO_CLICK), (7, E, CLICK), (8, C, CLICK)
    ),
    "test_samples": samples((A, C, CLICK), (7, B, CLICK), (7, E, CLICK), (9, B, CLICK)),
    "train_user_features": users({A: [D, C, D, D], 7: [B], 8: [C, E, 66, B]}),
    "test_user_features": users({7: [C, B, B], A: [D, B], 9: [66]}),
    "item_features": {"205": [B], "206": [1], "213": [1], "214": [1]},
    "scl_embedding_int8_p90": vectors(A, B, C, D, E),
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the tables, some of them changed; returns the settings that read them."""

    def files(changes: Tables | None = None, **settings: Any) -> DataConfig:
        folder = tmp_path / "release"
        folder.mkdir(exist_ok=True)
        for name, columns in {**TABLES, **(changes or {})}.items():
            table = pa.table(columns, schema=SCHEMAS[name])
            pq.write_table(table, folder / f"{name}.parquet")
        taobao = {"target_items": None, "min_target_clicks": 1, **settings.pop("taobao_mm", {})}
        given = {
            "name": "taobao",
            "format": "taobao_mm",
            "path": str(folder),
            "folder": str(tmp_path / "data"),
            "ties": "stable",
            "min_user_events": 2,
            "min_item_events": 1,
            "max_malformed_share": 0.0,
        }
        return DataConfig(**{**given, **settings}, taobao_mm=TaobaoMmConfig(**taobao))

    return files


def sequences(dataset: Dataset) -> dict[str, list[tuple[str, int, int]]]:
    """{user: (item, group, split) in order}."""
    raw = dataset.item_table["raw_item_id"].to_list()
    found = {}
    for user, name in enumerate(dataset.user_table["raw_user_id"]):
        at = slice(dataset.user_offsets[user], dataset.user_offsets[user + 1])
        items = [raw[item] for item in dataset.items[at]]
        found[name] = list(zip(items, dataset.groups[at], dataset.split[at], strict=True))
    return found


def test_snapshots_and_clicks(write: Write) -> None:
    config = write()
    dataset = Dataset.load(prepare(config))
    # E and 8's clicks: every item with one click is a target; 66 has no vector.
    expected = {
        str(A): [(D, 0), (C, 0), (D, 0), (D, 0), (B, 1)],
        "7": [(B, 0), (B, 1), (C, 1), (E, 1)],
        "8": [(C, 0), (E, 0), (B, 0), (C, 1)],
    }
    found = sequences(dataset)
    for name, events in expected.items():
        assert found.pop(name) == [(str(item), group, 0) for item, group in events]
    tests = {
        f"{A}/test": [(D, 0), (B, 0), (C, 1)],
        "7/test": [(C, 0), (B, 0), (B, 0), (B, 1), (E, 1)],
    }
    for name, events in tests.items():
        label = {split for _, _, split in found[name]}
        assert label <= {1, 2}
        assert len(label) == 1
        plain = [(item, group) for item, group, _ in found.pop(name)]
        assert plain == [(str(item), group) for item, group in events]
    assert not found  # 9 has a history without any known item: no training event, no item to it
    samples = dataset.samples("train")
    assert len(samples) == 3
    targets = [
        dataset.items[samples.history_end[k] : samples.target_end[k]].tolist() for k in range(3)
    ]
    assert sorted(map(len, targets)) == [1, 1, 3]
    assert dataset.manifest["time_unit"] == "ordinal"


def test_what_is_left_out_is_counted(write: Write) -> None:
    config = write(
        {
            "train_user_features": users({A: [D, C, D, D], 7: [B]}),
            "test_samples": samples((A, C, CLICK), (7, 77, CLICK), (7, E, NO_CLICK)),
        }
    )
    raw = read(config)
    assert raw.dropped == {
        "rows_without_click": 2,
        "clicks_on_other_items": 1,
        "clicks_without_history": 1,
        "events_without_vector": 0,
        "repeated_users": 0,
        "repeated_vectors": 0,
        "repeated_items": 0,
    }


def test_targets_are_drawn_among_items_with_enough_training_clicks(write: Write) -> None:
    rows = [(7, item, CLICK) for item in (B, B, C, C, C, D, E)] + [(7, D, NO_CLICK)] * 5
    many = {"train_samples": samples(*rows), "test_samples": samples((7, D, CLICK), (7, B, CLICK))}
    found = read(write(many, taobao_mm={"min_target_clicks": 2})).events
    clicked = found.filter(pl.col("time") == 1)["raw_item_id"].to_list()
    assert sorted(clicked) == sorted(map(str, [B, B, C, C, C, B]))
    one = {
        seed: set(
            read(write(many, seed=seed, taobao_mm={"min_target_clicks": 2, "target_items": 1}))
            .events.filter(pl.col("time") == 1)["raw_item_id"]
            .to_list()
        )
        for seed in range(8)
    }
    assert all(len(items) == 1 for items in one.values())
    assert set.union(*one.values()) == {str(B), str(C)}
    with pytest.raises(
        ValueError, match=r"no item has 9 training clicks .* 3\).*min_target_clicks"
    ):
        read(write(many, taobao_mm={"min_target_clicks": 9}))


def test_items_without_vectors_may_stay(write: Write) -> None:
    config = write(taobao_mm={"require_vectors": False})
    dataset = Dataset.load(prepare(config))
    assert "66" in dataset.item_table["raw_item_id"].to_list()
    assert read(write()).dropped["events_without_vector"] == 2
    item = dataset.item_table["raw_item_id"].to_list().index("66")
    assert dataset.vectors is not None
    assert not dataset.vectors[item].any()
    assert dataset.manifest["vectors"] == {"width": 128, "items": dataset.num_items - 1}


def test_vectors_are_those_of_the_items(write: Write) -> None:
    dataset = Dataset.load(prepare(write()))
    assert dataset.vectors is not None
    for row, name in enumerate(dataset.item_table["raw_item_id"]):
        assert dataset.vectors[row].tolist() == [int(name) % 100] * 127 + [-128]
    found = item_vectors(SidConfig(source="data", center=False), dataset).vectors
    wanted = dataset.vectors / np.linalg.norm(dataset.vectors.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_other_data_sets_have_no_vectors(table: Callable[..., DataConfig]) -> None:
    dataset = Dataset.load(prepare(table([("a", "x", 1), ("a", "y", 2)])))
    assert dataset.vectors is None
    with pytest.raises(ValueError, match="came without vectors"):
        item_vectors(SidConfig(source="data"), dataset)


def test_repeated_users_and_vectors_count_once(write: Write) -> None:
    twice = users({7: [B]})
    twice = {name: [*column, *column] for name, column in twice.items()}
    twice["150_2_180"][1] = [C, C, C]
    again = vectors(A, B, C, D, E, B)
    again["205_c"][5] = [1] * 128
    config = write({"train_user_features": twice, "scl_embedding_int8_p90": again})
    raw = read(config)
    assert raw.dropped["repeated_users"] == raw.dropped["repeated_vectors"] == 1
    dataset = Dataset.load(prepare(config))
    assert sequences(dataset)["7"][0] == (str(B), 0, 0)
    assert dataset.vectors is not None
    row = dataset.item_table["raw_item_id"].to_list().index(str(B))
    assert dataset.vectors[row, 0] == B


def test_a_row_without_user_is_not_user_0(write: Write) -> None:
    people = users({0: [B, C]})
    people = {name: [column[0], *column] for name, column in people.items()}
    people["129_1"][0] = None
    clicks = samples((0, B, CLICK), (0, C, CLICK))
    config = write(
        {"train_user_features": people, "train_samples": clicks}, max_malformed_share=0.6
    )
    found = sequences(Dataset.load(prepare(config)))["0"]
    assert [item for item, _, _ in found][:2] == [str(B), str(C)]
    assert read(config).dropped["repeated_users"] == 0


def test_clicks_are_counted_over_many_tables(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(7, item, CLICK) for item in [B, C, D, E] * 3 + [B, C] * 5]
    config = write({"train_samples": samples(*rows)}, taobao_mm={"min_target_clicks": 8})
    whole = read(config).events
    monkeypatch.setattr(taobao_mm, "COUNTED_ROWS", 2)
    monkeypatch.setattr(taobao_parts.Tables.read, "__defaults__", (None, 3))
    found = read(config).events
    assert found.sort("row")["raw_item_id"].equals(whole.sort("row")["raw_item_id"])
    clicked = found.filter(pl.col("time") == 1)["raw_item_id"]
    assert set(clicked) == {str(B), str(C)}


def test_parts_that_several_processes_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tables from one file or two, whoever reads; users twice and malformed rows."""
    several = users({1: [C, 66, B], 2: [D, D, D], 8: [C, E], 10: [B], A: [D, B, B]})
    changes = {
        # In the second file the first row repeats the user of the first file.
        "train_user_features": {**several, "129_1": [7, 7, 8, None, 11]},
        "train_samples": samples(
            (7, B, CLICK),
            (7, C, CLICK),
            (7, D, [1, 1]),
            (8, C, CLICK),
            (9, B, CLICK),
            (8, 66, CLICK),
        ),
    }
    config = write(changes, max_malformed_share=0.5)
    monkeypatch.setattr(spill, "ROWS_IN_MEMORY", 2)

    def content(name: str) -> tuple[dict[str, bytes], dict[str, Any]]:
        made = prepare(dataclasses.replace(config, folder=str(tmp_path / name)))
        files = {
            str(path.relative_to(made)): path.read_bytes()
            for path in made.rglob("*")
            if path.is_file()
        }
        return files, json.loads(files.pop("manifest.json"))

    files, manifest = content("whole")
    found = sequences(Dataset.load(tmp_path / "whole" / config.name))
    assert found["7"] == [(str(C), 0, 0), (str(B), 0, 0), (str(B), 1, 0), (str(C), 1, 0)]
    assert found["8"] == [(str(C), 0, 0), (str(E), 0, 0), (str(C), 1, 0)]
    assert manifest["dropped"]["rows"]["repeated_users"] == 1
    malformed = manifest["malformed"]
    assert malformed["train_user_features"]["reasons"] == {"missing user": 1}
    assert malformed["train_samples"]["reasons"] == {"no label": 1}
    for split in ("train", "test"):
        path = Path(config.path or "") / f"{split}_user_features.parquet"
        table = pq.read_table(path)
        path.unlink()
        for k, part in enumerate((table.slice(0, 1), table.slice(1))):
            pq.write_table(part, path.with_stem(f"{path.stem}_{k}"))
    two = content("two")
    assert two[0] == files
    assert two[1]["dropped"] == manifest["dropped"]
    use_pickled_workers(monkeypatch)
    workers = content("workers")
    assert workers[0] == files
    for name in ("dropped", "malformed", "counts", "split"):
        assert workers[1][name] == two[1][name]


def test_later_users_change_no_label(write: Write) -> None:
    few = sequences(Dataset.load(prepare(write())))
    more = {"test_user_features": users({5: [B], 7: [C, B, B], A: [D, B], 9: [66]})}
    many = sequences(Dataset.load(prepare(write(more))))
    assert {name: few[name] for name in few} == {name: many[name] for name in few}


def test_test_snapshots_are_not_fitted_on(write: Write) -> None:
    dataset = Dataset.load(prepare(write()))
    _, items = dataset.train_events()
    counted = {name: 0 for name in dataset.item_table["raw_item_id"]}
    for item in [D, C, D, D, B, B, B, C, E, C, E, B, C]:
        counted[str(item)] += 1
    found = np.bincount(items, minlength=dataset.num_items).tolist()
    assert dict(zip(counted, found, strict=True)) == counted
    # A snapshot of the test users with other items changes nothing but itself.
    other = {"test_user_features": users({7: [E, E, D], A: [C], 9: [B]})}
    changed = Dataset.load(prepare(write(other)))
    assert changed.item_table.equals(dataset.item_table)


@pytest.mark.parametrize("layout", ["folder", "numbered"])
def test_tables_in_several_files(write: Write, layout: str, tmp_path: Path) -> None:
    config = write()
    whole = read(config).events
    folder = Path(str(config.path))
    for name in ("train_samples", "train_user_features", "scl_embedding_int8_p90"):
        table = pq.read_table(folder / f"{name}.parquet")
        (folder / f"{name}.parquet").unlink()
        for k in range(2):
            path = folder / f"{name}-{k:05}.parquet"
            if layout == "folder":
                path = folder / name / f"part-{k}.parquet"
                path.parent.mkdir(exist_ok=True)
            pq.write_table(table[:2] if k == 0 else table[2:], path)
    assert read(config).events.equals(whole)


class TestMalformed:
    def reasons(self, config: DataConfig) -> dict[str, dict[str, int]]:
        return {report.role: report.reasons for report in read(config).reports if report.reasons}

    def test_rows(self, write: Write) -> None:
        rows = samples((A, B, CLICK), (7, B, CLICK), (7, C, [1, 1]), (7, C, [0, 1, 0]), (7, C, []))
        rows["129_1"][0] = None
        rows["label_0"].append(None)
        rows["129_1"].append(7)
        rows["205"].append(B)
        people = users({7: [B], 8: [C]})
        people["150_2_180"] = [[B, None], None]
        bad = vectors(B, C, D, E)
        bad["205_c"] = [[1] * 128, [1] * 127, None, [1] * 129]
        config = write(
            {
                "train_samples": rows,
                "test_user_features": people,
                "scl_embedding_int8_p90": bad,
            }
        )
        assert self.reasons(config) == {
            "train_samples": {"missing user": 1, "no label": 4},
            "test_user_features": {"missing history": 2},
            "scl_embedding_int8_p90": {"vector is not 128 numbers": 3},
        }
        with pytest.raises(
            ValueError, match=r"5 of 6 train_samples rows .*train_samples.parquet:1"
        ):
            prepare(config)

    @pytest.mark.parametrize(
        ("name", "column", "kind", "message"),
        [
            ("train_samples", "129_1", pa.string(), "'129_1' has type String"),
            ("train_samples", "label_0", pa.list_(pa.int64()), "'label_0' has type List"),
            ("test_user_features", "150_2_180", pa.list_(pa.int32()), "'150_2_180' has type"),
            ("scl_embedding_int8_p90", "205_c", pa.list_(pa.float32()), "'205_c' has type"),
        ],
    )
    def test_wrong_types(
        self, write: Write, name: str, column: str, kind: pa.DataType, message: str
    ) -> None:
        config = write()
        path = Path(str(config.path)) / f"{name}.parquet"
        table = pq.read_table(path)
        place = table.schema.get_field_index(column)
        empty = pa.nulls(len(table), kind)
        pq.write_table(table.set_column(place, column, empty), path)
        with pytest.raises(ValueError, match=message):
            read(config)

    def test_missing_files_columns_and_settings(self, write: Write, tmp_path: Path) -> None:
        config = write()
        for changes, message in (
            ({"ties": "shuffle"}, "data.ties"),
            ({"target_group": "event"}, "data.target_group"),
            ({"min_rating": 1.0}, "data.min_rating"),
            ({"path": ""}, "data.path is empty"),
            ({"path": str(tmp_path)}, "neither train_samples.parquet nor a folder"),
        ):
            with pytest.raises(ValueError, match=message):
                read(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
        pq.write_table(pa.table({"x": [1]}), tmp_path / "release" / "test_samples.parquet")
        with pytest.raises(ValueError, match="129_1"):
            read(config)
