"""A data set that the workers of a Ray cluster prepare is that of one process, file for file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pickled import use_pickled_workers
from ray_cases import RAY, Killing, two_workers

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.data.assembly import catalogue, counts, events, gather_files, spill, users
from glass.workers import Workers

EVENTS, FILES = 6_000, 5
TABLES = ("items.parquet", "users.parquet")


@pytest.fixture(scope="module")
def ray_workers() -> Iterator[Workers]:
    """Two workers for all tests here."""
    with two_workers() as workers:
        yield workers


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A folder of CSV files with some malformed rows, that no memory holds."""
    monkeypatch.setattr(spill, "ROWS_IN_MEMORY", 1_000)
    rng = np.random.default_rng(5)
    (tmp_path / "raw").mkdir()
    table = pl.DataFrame(
        {
            "user_id": [f"user {k}" for k in rng.integers(0, 150, EVENTS)],
            "item_id": [f"item {k}" for k in rng.integers(0, 400, EVENTS) ** 2 // 400],
            "timestamp": rng.integers(1, 40, EVENTS),
            "stars": rng.integers(1, 6, EVENTS),
        }
    )
    for number, part in enumerate(table.iter_slices(EVENTS // FILES)):
        path = tmp_path / "raw" / f"{number}.csv"
        part.write_csv(path)
        lines = path.read_text().splitlines()
        lines[20 - number] = f"user 1,,{number},5"  # earlier in later files
        path.write_text("\n".join(lines) + "\n")
    described = pl.DataFrame({"item_id": [f"item {k}" for k in range(0, 500, 3)]})
    described.with_columns(name=pl.lit("n ") + pl.col("item_id")).write_csv(tmp_path / "items.csv")
    return DataConfig(
        name="set",
        format="table",
        path=str(tmp_path / "raw"),
        items_path=str(tmp_path / "items.csv"),
        title_column="name",
        rating_column="stars",
        min_rating=2,
        min_item_events=3,
        folder=str(tmp_path / "one"),
    )


def content(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "interactions").iterdir())
    assert len(files) > 10
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in TABLES}
    found |= {path.name: path.read_bytes() for path in files}
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["config"]["folder"]
    return found | {"manifest": manifest, "names": {path.name for path in folder.iterdir()}}


STEPS = (
    gather_files.GatherPart,
    users.SortPartition,
    counts.CountPartition,
    catalogue.ChooseItems,
    events.ChooseEvents,
    events.WriteEvents,
)


def test_killed_workers(
    config: DataConfig, ray_workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two die in every step, one before a part is done and one before that is told."""
    expected = content(prepare(config))
    assert expected["manifest"]["malformed"]["interactions"]["count"] == FILES
    markers = tmp_path / "killed"
    markers.mkdir()
    inner = type(ray_workers).map

    def map_(workers: Workers, work: Any, parts: Any) -> Iterator[Any]:
        return inner(workers, Killing(work, parts[0], parts[len(parts) // 2], markers), parts)

    monkeypatch.setattr(type(ray_workers), "map", map_)
    found = prepare(replace(config, folder=str(tmp_path / "many")), ray=RAY)
    killed = {path.name for path in markers.iterdir()}
    assert killed == {f"{step.__name__} {when}" for step in STEPS for when in ("before", "after")}
    assert content(found) == expected
    Dataset.load(found)


@pytest.mark.parametrize("parts", [2, 64])
@pytest.mark.parametrize(
    "changes",
    [{"ties": "stable", "split": "time"}, {"time_column": None, "min_rating": None}],
    ids=str,
)
def test_same_files(
    changes: dict[str, Any],
    parts: int,
    config: DataConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gather_files, "MOST_PARTS", parts)
    config = replace(config, **changes)
    expected = content(prepare(config))
    use_pickled_workers(monkeypatch)
    assert content(prepare(replace(config, folder=str(tmp_path / "many")))) == expected


@pytest.mark.usefixtures("ray_workers")
def test_a_small_set_is_that_of_one_process(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spill, "ROWS_IN_MEMORY", EVENTS)
    one = prepare(config)
    many = prepare(replace(config, folder=str(tmp_path / "many")), ray=RAY)
    assert not (many / "interactions").exists()
    for name in (*TABLES, "interactions.parquet"):
        assert (one / name).read_bytes() == (many / name).read_bytes()
