"""Items that are described by objects of any fields: titles, texts, and lists of items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import polars as pl

from glass.config import DataConfig
from glass.data.json_file import id_text, read_pairs
from glass.data.raw import NUM_EXAMPLES, RowReport, Source, require_columns
from glass.data.readers.columns import make_items

TITLE_FIELD = "title"
TEXT_FIELDS = ("title", "brand", "categories", "category", "description")
"""Fields that make the text of an item where `data.text_columns` names none."""
_SETTING = "data.path"
_BATCH_ITEMS = 1 << 17
_BATCH_CHARACTERS = 1 << 24  # texts may be long
_MOST_NAMES = 1000
_DEEPEST_LIST = 20
Described = tuple[int, str | None, Any]
"""Row number, raw id and object of an item."""


class BadRows:
    """Malformed rows of one file, counted while it is read; `close` hands them to the report."""

    def __init__(self, report: RowReport) -> None:
        self._report = report
        self._count: dict[str, int] = {}
        self._first: dict[str, list[int]] = {}

    def add(self, reason: str, row: int) -> None:
        """Count a row."""
        self._count[reason] = self._count.get(reason, 0) + 1
        first = self._first.setdefault(reason, [])
        if len(first) < NUM_EXAMPLES:
            first.append(row)

    def close(self) -> None:
        """Report all that were counted."""
        for reason, count in self._count.items():
            self._report.add(reason, self._first[reason], count)


def require_item_file(config: DataConfig, sources: Sequence[Source], lack: str) -> None:
    """Raise ValueError where settings name fields of an item file and there is none."""
    if (config.title_column or config.text_columns) and not any(
        source.role == "items" for source in sources
    ):
        raise ValueError(
            f"data.title_column and data.text_columns are fields of the .item.json file, but {lack}"
        )


def read_items(
    sources: Sequence[Source], config: DataConfig, report: RowReport
) -> Iterator[pl.DataFrame]:
    """Items of JSON files: {item: object} of the role "items", and the keys of an "index".

    An item that only the index has comes without title and text.
    """
    described: set[str] = set()
    for source in sources:
        pairs = read_pairs(source.path, _SETTING)
        if source.role == "items":
            names = [name for name, _ in pairs]
            report.start(source.label, partial(_place, names))
            report.rows += len(pairs)
            objects = ((row, name, entry) for row, (name, entry) in enumerate(pairs, 1))
            for table in describe_items(objects, source, config, report, TEXT_FIELDS):
                described.update(table["raw_item_id"])
                yield table
        else:
            listed = dict.fromkeys(name for name, _ in pairs)
            yield unnamed_items([name for name in listed if name not in described])


def _place(names: Sequence[str], row: int) -> str:
    return f"item {names[row - 1]}"


def unnamed_items(raw_item_ids: Sequence[str]) -> pl.DataFrame:
    """Items without title and text."""
    items = pl.DataFrame({"raw_item_id": raw_item_ids}, schema={"raw_item_id": pl.String})
    return items.with_columns(title=pl.lit(""), text=pl.lit(""))


def describe_items(
    objects: Iterable[Described],
    source: Source,
    config: DataConfig,
    report: RowReport,
    text_fields: Sequence[str],
) -> Iterator[pl.DataFrame]:
    """Items with the fields that `config` names, or with `title` and `text_fields`.

    What is no object, and objects with a field that is no text, number or list of them, are
    malformed; a field that is not there is empty.

    Raises ValueError at the end when `config` names a field that no object has.
    """
    title = config.title_column or TITLE_FIELD
    texts = list(config.text_columns or text_fields)
    fields = list(dict.fromkeys([title, *texts]))
    wanted = [("data.text_columns", name) for name in config.text_columns]
    if config.title_column:
        wanted.append(("data.title_column", config.title_column))
    unseen, known = {name for _, name in wanted}, set[str]()
    bad, batch, characters = BadRows(report), list[tuple[Any, ...]](), 0

    def table() -> pl.DataFrame:
        names = {f"field {name}": pl.String for name in fields}
        schema = {"row": pl.Int64, "item": pl.String, **names}
        frame = pl.DataFrame(batch, schema=schema, orient="row")
        batch.clear()
        chosen = ("item", f"field {title}", [f"field {name}" for name in texts])
        return pl.concat(make_items([frame], chosen, report))

    for row, item, entry in objects:
        if not isinstance(entry, dict):
            bad.add("no object", row)
            continue
        unseen.difference_update(entry)
        if len(known) < _MOST_NAMES:
            known.update(map(str, entry))
        values = {name: field_text(entry.get(name)) for name in fields}
        unreadable = next((name for name, text in values.items() if text is None), None)
        if unreadable is not None:
            bad.add(f"unreadable {unreadable}", row)
            continue
        batch.append((row, item, *values.values()))
        characters += len(item or "") + sum(len(text or "") for text in values.values())
        if len(batch) >= _BATCH_ITEMS or characters >= _BATCH_CHARACTERS:
            yield table()
            characters = 0
    yield table()
    bad.close()
    if unseen:
        require_columns(str(source.path), sorted(known), wanted)


def field_text(value: Any, depth: int = 0) -> str | None:
    """A field as text, lists (also nested ones) joined; None for an object, which has none."""
    if isinstance(value, list):
        parts = [field_text(part, depth + 1) for part in value] if depth < _DEEPEST_LIST else [None]
        return None if None in parts else ", ".join(part for part in parts if part)
    if isinstance(value, dict):
        return None
    return "" if value is None else id_text(value) or str(value)
