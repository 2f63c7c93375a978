"""Amazon's reviews of 2014, 2018 and 2023: one object a line, plain or gzip'd, or 2023's CSV.

`data.path` names the reviews, `data.items_path`, which may be empty, the metadata. An item is a
product (`asin`), in 2023 a product with its variants (`parent_asin`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from glass.config import DataConfig
from glass.data.delimited import read_delimited, read_header
from glass.data.json_file import id_text
from glass.data.raw import RawData, RowReport, Source, existing_file, require_columns
from glass.data.readers.amazon.lines import read_objects
from glass.data.readers.columns import make_events
from glass.data.readers.item_objects import BadRows, Described, describe_items

TO_2018 = {
    "user": "reviewerID",
    "item": "asin",
    "time": "unixReviewTime",
    "rating": "overall",
}
OF_2023 = {
    "user": "user_id",
    "item": "parent_asin",
    "time": "timestamp",
    "rating": "rating",
}
"""Fields of a review; 2023's times are milliseconds."""
TEXT_FIELDS = ("title", "brand", "store", "categories", "category", "description")
"""Fields that make an item's text: 2014 has categories, 2018 category, 2023 store for brand."""
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_BATCH_EVENTS = 1 << 18
_BATCH_CHARACTERS = 1 << 25


def find(config: DataConfig) -> list[Source]:
    """The file of reviews and that of metadata."""
    if not config.path:
        raise ValueError(
            "data.path is empty: format 'amazon_reviews' needs a file of reviews, such as "
            "reviews_Beauty_5.json.gz"
        )
    if not config.items_path and (config.title_column or config.text_columns):
        raise ValueError(
            "data.title_column and data.text_columns are fields of the metadata in "
            "data.items_path, which is empty"
        )
    sources = [_source("interactions", Path(config.path), "data.path", (*SUFFIXES, ".csv"))]
    if config.items_path:
        sources.append(_source("items", Path(config.items_path), "data.items_path", SUFFIXES))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read reviews and, with `items_path`, titles and texts."""
    reports = (RowReport("interactions"), RowReport("items"))
    dropped: dict[str, int] = {}
    tables = _csv if sources[0].path.suffix.lower() == ".csv" else _objects
    events = make_events(tables(sources[0], reports[0]), config, reports[0], dropped)
    return RawData(events, _items(sources[1:], config, reports[1]), reports, dropped)


def _source(role: str, path: Path, setting: str, suffixes: tuple[str, ...]) -> Source:
    if path.is_dir():
        raise ValueError(f"{setting}: {path} is a folder; name one file in it")
    existing_file(path, setting)
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"{setting}: {path.name} has to end in one of {', '.join(suffixes)}")
    return Source(role, path, path.name)


def _objects(source: Source, report: RowReport) -> Iterator[pl.DataFrame]:
    """`row`, `user`, `item`, `time`, `rating` of reviews that are objects."""
    fields: dict[str, str] = {}
    bad, batch, characters = BadRows(report), list[tuple[Any, ...]](), 0
    for row, entry in read_objects(source, "data.path", report):
        fields = fields or _fields(entry, source)
        found = {name: entry.get(field) for name, field in fields.items()}
        ids = [id_text(found[name]) for name in ("user", "item")]
        unreadable = [
            name
            for name, text in zip(("user", "item"), ids, strict=True)
            if text is None and found[name] is not None
        ]
        if unreadable:
            bad.add(f"unreadable {unreadable[0]}", row)
            continue
        batch.append((row, *ids, _number(found["time"]), _number(found["rating"])))
        characters += sum(len(text or "") for text in batch[-1][1:])
        if len(batch) >= _BATCH_EVENTS or characters >= _BATCH_CHARACTERS:
            yield _table(batch, fields)
            characters = 0
    yield _table(batch, fields)
    bad.close()


def _fields(entry: dict[str, Any], source: Source) -> dict[str, str]:
    for fields in (TO_2018, OF_2023):
        if fields["user"] in entry:
            return fields
    known = ", ".join(list(entry)[:10]) or "none"
    raise ValueError(
        f"data.path: {source.path} holds no reviews: its first object has the fields {known}; a "
        "review has reviewerID, or user_id in 2023 (metadata belong to data.items_path)"
    )


def _table(batch: list[tuple[Any, ...]], fields: dict[str, str]) -> pl.DataFrame:
    schema = {"row": pl.Int64, **dict.fromkeys(TO_2018, pl.String)}
    table = pl.DataFrame(batch, schema=schema, orient="row")
    batch.clear()
    return table.with_columns(_seconds()) if fields == OF_2023 else table


def _seconds() -> pl.Expr:
    """Milliseconds as seconds; what is no number stays, to be reported."""
    value = pl.col("time").str.strip_chars().cast(pl.Float64, strict=False)
    seconds = (value / 1000).floor().cast(pl.Int64, strict=False)
    return pl.coalesce(seconds.cast(pl.String), "time").alias("time")


def _number(value: Any) -> str | None:
    """A number as text for the checks that follow; anything else is no number."""
    if value is None or isinstance(value, str):
        return id_text(value)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain else "?"


def _csv(source: Source, report: RowReport) -> Iterator[pl.DataFrame]:
    """The same of 2023's CSV."""
    names = read_header(source.path, ",", quoted=True)
    wanted = [("a column of Amazon Reviews 2023", name) for name in OF_2023.values()]
    require_columns(str(source.path), names, wanted)
    report.start(source.label)
    frames = read_delimited(
        source.path, list(OF_2023.values()), report, names=names, delimiter=",", quoted=True
    )
    for frame in frames:
        named = frame.select("row", **{name: pl.col(column) for name, column in OF_2023.items()})
        yield named.with_columns(_seconds())


def _items(sources: list[Source], config: DataConfig, report: RowReport) -> Iterator[pl.DataFrame]:
    for source in sources:
        objects = _described(source, report)
        yield from describe_items(objects, source, config, report, TEXT_FIELDS)


def _described(source: Source, report: RowReport) -> Iterator[Described]:
    for row, entry in read_objects(source, "data.items_path", report):
        # 2023's metadata have parent_asin alone.
        yield row, id_text(entry.get("parent_asin", entry.get("asin"))), entry
