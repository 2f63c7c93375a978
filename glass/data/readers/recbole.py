"""RecBole atomic files: tab-separated `.inter` and `.item` with `name:type` headers.

Columns are chosen with `user_column`, `item_column`, `time_column`, `rating_column` (their defaults
are RecBole's own names). An `.item` file is optional. Without `text_columns` an item's text is
every token column of it; without `title_column` its title is the first token column with "title" or
"name" in its name. The `.user` file holds nothing that the models use and is not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from glass.config import DataConfig
from glass.data.delimited import read_delimited, read_header
from glass.data.raw import RawData, RowReport, Source, existing_file, require_columns
from glass.data.readers.columns import (
    event_columns,
    item_settings,
    make_events,
    make_items,
    settings_of,
)

TYPES = ("token", "token_seq", "float", "float_seq")


def find(config: DataConfig) -> list[Source]:
    """The `.inter` file `config.path`, or the only one in that folder, and its `.item` file."""
    if not config.path:
        raise ValueError("data.path is empty: format 'recbole' needs an .inter file or its folder")
    path = Path(config.path)
    if path.is_dir():
        found = sorted(path.glob("*.inter"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ValueError(f"data.path: {path} has to hold one .inter file, it holds {names}")
        path = found[0]
    sources = [Source("interactions", existing_file(path, "data.path"), path.name)]
    items = path.with_suffix(".item")
    if items.exists():
        sources.append(Source("items", existing_file(items, "data.path"), items.name))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read interactions and, where there is an `.item` file, titles and texts."""
    if config.min_rating is not None and not config.rating_column:
        config = dataclasses.replace(config, rating_column="rating")
    reports = (RowReport("interactions"), RowReport("items"))
    dropped: dict[str, int] = {}
    columns = event_columns(config)
    types = read_types(sources[0], settings_of(columns))
    frames = (
        frame.select("row", **{new: pl.col(name) for new, name in columns.items()})
        for frame in read_atomic(sources[0], types, list(columns.values()), reports[0])
    )
    events = make_events(frames, config, reports[0], dropped)
    items = _items(config, sources[1:], reports[1])
    unit = "seconds" if config.time_column else "ordinal"
    return RawData(events, items, reports, dropped, unit)


def _items(config: DataConfig, sources: list[Source], report: RowReport) -> Iterator[pl.DataFrame]:
    for source in sources:
        types = read_types(source, item_settings(config))
        tables = read_atomic(source, types, list(types), report)
        yield from make_items(tables, _item_columns(config, types), report)


def read_types(source: Source, wanted: list[tuple[str, str]]) -> dict[str, str]:
    """{column: type} of an atomic file's header.

    Raises ValueError when the header is not `name:type`, and for a column of `wanted` (setting,
    column) that is not there.
    """
    types: dict[str, str] = {}
    for entry in read_header(source.path, "\t", quoted=False):
        name, _, kind = entry.rpartition(":")
        if not name or kind not in TYPES:
            raise ValueError(
                f"{source.path}: column {entry!r} of the header is not name:type with one of the "
                f"types {', '.join(TYPES)}"
            )
        types[name] = kind
    require_columns(str(source.path), list(types), wanted)
    return types


def read_atomic(
    source: Source, types: dict[str, str], columns: list[str], report: RowReport
) -> Iterator[pl.DataFrame]:
    """`columns` of an atomic file as text, and `row`."""
    report.start(source.label)
    return read_delimited(
        source.path, columns, report, names=list(types), delimiter="\t", quoted=False
    )


def _item_columns(config: DataConfig, types: dict[str, str]) -> tuple[str, str | None, list[str]]:
    tokens = [n for n, t in types.items() if t.startswith("token") and n != config.item_column]
    named = [n for n in tokens if "title" in n or "name" in n]
    title = config.title_column or (named[0] if named else None)
    return config.item_column, title, list(config.text_columns) or tokens
