"""What a reader yields, read to its end; and what is assembled from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from glass.config import DataConfig
from glass.data.assembly import Assembled, assemble
from glass.data.raw import EVENT_SCHEMA, ITEM_SCHEMA, RawData, RowReport
from glass.data.readers import READERS
from glass.data.store import table_files
from glass.workers import ONE_PROCESS, Workers


@dataclass(frozen=True)
class Read:
    """All that a reader yields; of repeated items the first, as `assemble` takes them."""

    events: pl.DataFrame
    items: pl.DataFrame
    reports: tuple[RowReport, ...]
    dropped: dict[str, int]
    time_unit: str


def read(config: DataConfig) -> Read:
    reader = READERS[config.format]
    raw = reader.read(config, reader.find(config))
    events, items = joined(raw.events, EVENT_SCHEMA), joined(raw.items, ITEM_SCHEMA)
    first = items.unique("raw_item_id", keep="first", maintain_order=True)
    dropped = {**raw.dropped, "repeated_items": items.height - first.height}
    return Read(events, first, raw.reports, dropped, raw.time_unit)


def joined(chunks: Iterable[pl.DataFrame], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=schema), *(chunk.select(*schema) for chunk in chunks)])


@dataclass(frozen=True)
class Tables:
    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    assembled: Assembled


def tables_of(raw: RawData, config: DataConfig, workers: Workers = ONE_PROCESS) -> Tables:
    """The tables that are assembled from `raw`."""
    with tempfile.TemporaryDirectory() as folder:
        assembled = assemble(lambda: raw, config, Path(folder), workers=workers)
        names = ("interactions.parquet", "items.parquet", "users.parquet")
        tables = (pl.read_parquet(table_files(Path(folder), name)) for name in names)
        return Tables(*tables, assembled)
