"""Named columns into raw events and items, the same for every format with such columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import polars as pl

from glass.config import DataConfig
from glass.data.cleaning import Cleaner, text_column
from glass.data.raw import RowReport


def event_columns(config: DataConfig) -> dict[str, str]:
    """{inner name: column} of the interactions; the inner names are user, item, time, rating."""
    columns = {"user": config.user_column, "item": config.item_column}
    if config.time_column:
        columns["time"] = config.time_column
    if config.min_rating is not None:
        if not config.rating_column:
            raise ValueError("data.min_rating is set: name its column in data.rating_column")
        columns["rating"] = config.rating_column
    return columns


def item_columns(config: DataConfig) -> list[str]:
    """Columns of the item file that the settings name, each once."""
    title = [config.title_column] if config.title_column else []
    return list(dict.fromkeys([config.item_column, *title, *config.text_columns]))


def settings_of(columns: Mapping[str, str]) -> list[tuple[str, str]]:
    """(setting, column) of `event_columns`, for error messages."""
    return [(f"data.{name}_column", column) for name, column in columns.items()]


def item_settings(config: DataConfig) -> list[tuple[str, str]]:
    """(setting, column) of `item_columns`, for error messages."""
    named = {config.item_column: "data.item_column"}
    if config.title_column:
        named.setdefault(config.title_column, "data.title_column")
    return [(named.get(name, "data.text_columns"), name) for name in item_columns(config)]


def make_events(
    frames: Iterable[pl.DataFrame],
    config: DataConfig,
    report: RowReport,
    dropped: dict[str, int],
) -> Iterator[pl.DataFrame]:
    """Events from tables of `row` and the inner columns of one file, of any type.

    Without a time column the row number is the time. Rows below `min_rating` are counted in
    `dropped`.
    """
    numbers = ("rating",) if config.min_rating is not None else ()
    clean_rows = Cleaner(report, ("user", "item"), numbers)
    if numbers:
        dropped.setdefault("below_min_rating", 0)
    for frame in frames:
        clean = clean_rows(frame)
        if "time" not in clean.columns:
            clean = clean.with_columns(time="row")
        if numbers:
            rated = clean.filter(pl.col("rating") >= config.min_rating)
            dropped["below_min_rating"] += clean.height - rated.height
            clean = rated
        yield clean.select("time", "row", raw_user_id="user", raw_item_id="item")


def make_items(
    tables: Iterable[pl.DataFrame],
    columns: tuple[str, str | None, list[str]],
    report: RowReport,
) -> Iterator[pl.DataFrame]:
    """Items from tables with `row` and `columns` (item, title or None, texts) of one file.

    A text joins its non-empty parts with ", ".
    """
    item, title, texts = columns
    clean_rows = Cleaner(report, ("item",))
    for table in tables:
        none = pl.Series([""] * table.height, dtype=pl.String)
        with report.naming_file():
            parts = [text_column(table[name]).alias(f"text {k}") for k, name in enumerate(texts)]
            titles = text_column(table[title]) if title else none
        named = [table["row"], table[item].alias("item"), titles.alias("title"), *parts]
        clean = clean_rows(pl.DataFrame(named))
        filled = [pl.when(pl.col(p.name) != "").then(pl.col(p.name)) for p in parts]
        text = pl.concat_str(filled, separator=", ", ignore_nulls=True) if filled else pl.lit("")
        yield clean.select(raw_item_id="item", title="title", text=text)
