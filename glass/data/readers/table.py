"""Any CSV, TSV or Parquet file, or a folder of them, whose columns the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from glass.config import DataConfig
from glass.data.delimited import read_delimited, read_header
from glass.data.raw import PartOfEvents, RawData, RowReport, Source, existing_file, require_columns
from glass.data.readers.columns import (
    event_columns,
    item_columns,
    item_settings,
    make_events,
    make_items,
    settings_of,
)
from glass.data.readers.parquet import read_parquet

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")


def find(config: DataConfig) -> list[Source]:
    """The interaction files (a folder's in the order of their names) and the item file."""
    if not config.path:
        raise ValueError("data.path is empty: format 'table' needs a CSV or Parquet file")
    if not config.items_path and (config.title_column or config.text_columns):
        raise ValueError(
            "data.title_column and data.text_columns are columns of data.items_path, which is empty"
        )
    path = Path(config.path)
    items = Path(config.items_path) if config.items_path else None
    files = [path]
    if path.is_dir():
        kinds = (*DELIMITERS, *PARQUET)
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in kinds)
        if items is not None:
            files = [file for file in files if file.resolve() != items.resolve()]
        if not files:
            raise ValueError(f"data.path: the folder {path} has no {', '.join(kinds)} file")
    sources = [Source("interactions", _known(file, "data.path"), file.name) for file in files]
    if items is not None:
        sources.append(Source("items", _known(items, "data.items_path"), items.name))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read events and, with `items_path`, titles and texts. Rows count on over several files."""
    files = [source for source in sources if source.role == "interactions"]
    account = RowReport("items")
    events = ReadEvents(config, files)()
    unit = "seconds" if config.time_column else "ordinal"
    return RawData(
        events.events,
        _items(config, [s for s in sources if s.role == "items"], account),
        (events.report, account),
        events.dropped,
        unit,
        apart=lambda folder: [ReadEvents(config, [file]) for file in files],
    )


@dataclass(frozen=True)
class ReadEvents:
    """Begins to read interaction files."""

    config: DataConfig
    sources: list[Source]

    def __call__(self) -> PartOfEvents:
        report, dropped = RowReport("interactions"), dict[str, int]()
        rows = [0]
        events = _events(self.config, self.sources, report, dropped, rows)
        return PartOfEvents(
            events, report, dropped, lambda: rows[0], time_is_row=not self.config.time_column
        )


def _events(
    config: DataConfig,
    sources: list[Source],
    report: RowReport,
    dropped: dict[str, int],
    rows: list[int],
) -> Iterator[pl.DataFrame]:
    """Rows count on over several files; `rows` holds those of the files that are read."""
    columns = event_columns(config)
    for source in sources:
        last = 0

        def frames(source: Source = source) -> Iterator[pl.DataFrame]:
            nonlocal last
            for frame in _read(source, columns, settings_of(columns), report):
                newest = frame["row"].max()
                last = newest if isinstance(newest, int) else last
                yield frame

        for events in make_events(frames(), config, report, dropped):
            shifted = [pl.col("row") + rows[0]]
            if not config.time_column:
                shifted.append(pl.col("time") + rows[0])
            yield events.with_columns(shifted)
        rows[0] += last


def _items(config: DataConfig, sources: list[Source], report: RowReport) -> Iterator[pl.DataFrame]:
    for source in sources:
        names = {name: name for name in item_columns(config)}
        tables = _read(source, names, item_settings(config), report)
        chosen = (config.item_column, config.title_column, list(config.text_columns))
        yield from make_items(tables, chosen, report)


def _known(path: Path, setting: str) -> Path:
    existing_file(path, setting)
    if path.suffix.lower() not in (*DELIMITERS, *PARQUET):
        known = ", ".join((*DELIMITERS, *PARQUET))
        raise ValueError(f"{setting}: {path.name} has to end in one of {known}")
    return path


def _read(
    source: Source, columns: dict[str, str], settings: list[tuple[str, str]], report: RowReport
) -> Iterator[pl.DataFrame]:
    if source.path.suffix.lower() in PARQUET:
        yield from read_parquet(source, columns, settings, report)
        return
    delimiter = DELIMITERS[source.path.suffix.lower()]
    names = read_header(source.path, delimiter, quoted=True)
    require_columns(str(source.path), names, settings)
    report.start(source.label)
    frames = read_delimited(
        source.path,
        list(dict.fromkeys(columns.values())),
        report,
        names=names,
        delimiter=delimiter,
        quoted=True,
    )
    for frame in frames:
        yield frame.select("row", **{new: pl.col(name) for new, name in columns.items()})
