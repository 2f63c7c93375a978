"""Made-up files of TAOBAO-MM: of its schema, with what is planted, the same every time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from glass.config import DataConfig, TaobaoMmConfig
from glass.data import Dataset, prepare
from glass.data.synth import SynthSizes, write_taobao_mm
from glass.data.synth.taobao_mm import ITEMS, SAMPLES, USERS, VECTORS

SCHEMAS = {
    "train_samples": SAMPLES,
    "test_samples": SAMPLES,
    "train_user_features": USERS,
    "test_user_features": USERS,
    "item_features": ITEMS,
    "scl_embedding_int8_p90": VECTORS,
}


@pytest.fixture(scope="module")
def sizes() -> SynthSizes:
    return SynthSizes.of(400, items=4_000, history=60, topics=16, train_rows=8)


@pytest.fixture(scope="module")
def folder(sizes: SynthSizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "files"
    return write_taobao_mm(folder, sizes, progress=False)


class TestSynth:
    def test_schema_is_the_releases(self, folder: Path) -> None:
        assert sorted(path.stem for path in folder.iterdir()) == sorted(SCHEMAS)
        for name, schema in SCHEMAS.items():
            assert pq.read_schema(folder / f"{name}.parquet").equals(schema)

    def test_sizes(self, folder: Path, sizes: SynthSizes) -> None:
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in SCHEMAS}
        for split in ("train", "test"):
            people = pl.DataFrame(tables[f"{split}_user_features"])
            assert people["129_1"].n_unique() == sizes.users
            lengths = people["150_2_180"].list.len()
            assert lengths.max() == sizes.history
            assert 0.85 < (lengths == sizes.history).mean() < 0.95
        rows = pl.DataFrame(tables["train_samples"])
        assert rows.height == pytest.approx(8 * sizes.users, rel=0.1)
        assert rows["label_0"].list.get(1).mean() == pytest.approx(sizes.clicked, abs=0.03)
        known = pl.DataFrame(tables["scl_embedding_int8_p90"])
        assert known.height == pytest.approx(sizes.coverage * sizes.items, rel=0.1)
        norms = np.linalg.norm(known["205_c"].list.to_array(128).to_numpy().astype(float), axis=1)
        assert norms / 127 == pytest.approx(0.967, abs=0.01)
        assert tables["item_features"].num_rows == sizes.items

    def test_test_histories_go_on_where_training_ended(self, folder: Path) -> None:
        train, test = (
            pl.read_parquet(folder / f"{split}_user_features.parquet")["150_2_180"].to_list()
            for split in ("train", "test")
        )
        extra = 3  # a twentieth of 60
        assert all(
            before[extra:] == after[: len(before) - extra]
            for before, after in zip(train, test, strict=True)
            if len(before) > extra
        )

    def test_interests_are_planted(self, folder: Path, sizes: SynthSizes) -> None:
        items = pl.read_parquet(folder / "item_features.parquet").select("205", "206")
        category = dict(items.rows())
        people = pl.read_parquet(folder / "train_user_features.parquet")
        history = dict(zip(people["129_1"], people["151_2_180"].to_list(), strict=True))
        by_item = people["150_2_180"].list.explode()
        assert [category[item] for item in by_item] == people["151_2_180"].list.explode().to_list()
        rows = pl.read_parquet(folder / "train_samples.parquet")
        hits: dict[bool, list[bool]] = {True: [], False: []}
        for label, user, item in rows.rows():
            top = max(set(history[user]), key=history[user].count)
            hits[label[1] == 1].append(category[item] == top)
        assert np.mean(hits[True]) > np.mean(hits[False]) + 0.15
        counts = by_item.value_counts(sort=True)["count"]
        assert counts[: len(counts) // 10].sum() > 0.4 * counts.sum()

    def test_same_sizes_same_rows(self, folder: Path, sizes: SynthSizes, tmp_path: Path) -> None:
        again = write_taobao_mm(tmp_path / "again", sizes, progress=False)
        other = write_taobao_mm(
            tmp_path / "other", dataclasses.replace(sizes, seed=1), progress=False
        )
        for name in SCHEMAS:
            table, same, different = (
                pq.read_table(path / f"{name}.parquet") for path in (folder, again, other)
            )
            assert table.equals(same)
            assert not table.equals(different)

    def test_the_reader_reads_it(self, folder: Path, tmp_path: Path) -> None:
        config = DataConfig(
            name="synth",
            format="taobao_mm",
            path=str(folder),
            folder=str(tmp_path),
            ties="stable",
            min_user_events=2,
            min_item_events=1,
            taobao_mm=TaobaoMmConfig(target_items=100, min_target_clicks=2),
        )
        dataset = Dataset.load(prepare(config))
        assert all(len(dataset.samples(split)) > 20 for split in ("train", "valid", "test"))
        assert dataset.manifest["malformed"]["train_samples"]["count"] == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"users": 0}, "users is 0"),
            ({"coverage": 1.5}, "coverage is 1.5"),
            ({"items": 3}, "items is 3"),
        ],
    )
    def test_bad_sizes(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            write_taobao_mm(tmp_path / "x", SynthSizes.of(**{"users": 5, **changes}))

    def test_other_folders_are_left_alone(self, sizes: SynthSizes, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("x")
        with pytest.raises(ValueError, match="exists already"):
            write_taobao_mm(tmp_path, sizes)
