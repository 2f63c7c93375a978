"""P5's files: `sequential_data.txt`, `datamaps.json` and `meta.json.gz`.

A line of `sequential_data.txt` is a user and the items, oldest first and without times: the number
of an event in the file is its time. Beside it may lie `datamaps.json`, whose `item2id` has the
number of each ASIN and lists the catalogue, and `meta.json.gz`, Amazon's metadata by ASIN. Raw ids
are those of the sequences.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from glass.config import DataConfig
from glass.data.cleaning import Cleaner
from glass.data.json_file import id_text, read_pairs
from glass.data.raw import RawData, RowReport, Source, existing_file
from glass.data.readers.amazon.lines import read_lines, read_objects
from glass.data.readers.amazon.reviews import TEXT_FIELDS
from glass.data.readers.item_objects import BadRows, Described, describe_items, unnamed_items

SEQUENCES, MAPS, META = "sequential_data.txt", "datamaps.json", ("meta.json.gz", "meta.json")
_SETTING = "data.path"
_BATCH_EVENTS = 1 << 18


def find(config: DataConfig) -> list[Source]:
    """The file of sequences `config.path`, or that of the folder, and its companions."""
    if not config.path:
        raise ValueError(f"data.path is empty: format 'p5' needs {SEQUENCES} or its folder")
    if config.min_rating is not None:
        raise ValueError("data.min_rating is set, but p5 has no ratings; remove it")
    if config.split == "time":
        raise ValueError("data.split is 'time', but p5 has no times; use 'last_n'")
    path = Path(config.path)
    path = path / SEQUENCES if path.is_dir() else path
    if path.suffix != ".txt":
        raise ValueError(f"data.path: {path.name} has to be {SEQUENCES} or another .txt file")
    sources = [Source("interactions", existing_file(path, _SETTING), path.name)]
    folder = path.parent
    if (folder / MAPS).exists():
        sources.append(Source("maps", existing_file(folder / MAPS, _SETTING), MAPS))
    meta = next((folder / name for name in META if (folder / name).exists()), None)
    if meta is None and (config.title_column or config.text_columns):
        raise ValueError(
            f"data.title_column and data.text_columns are fields of {META[0]}, but {folder} has "
            "none"
        )
    if meta is not None:
        if len(sources) == 1:
            raise ValueError(
                f"data.path: {meta.name} names items by ASIN; put {MAPS}, which has their numbers, "
                f"beside it, or take {meta.name} away"
            )
        sources.append(Source("items", existing_file(meta, _SETTING), meta.name))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read sequences and, where there are such files, the list of items, titles and texts."""
    reports = (RowReport("interactions"), RowReport("items"))
    dropped: dict[str, int] = {}
    events = _events(sources[0], reports[0], dropped)
    return RawData(
        events, _items(sources[1:], config, reports[1], dropped), reports, dropped, "ordinal"
    )


def _events(source: Source, report: RowReport, dropped: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Events, numbered through the file from 1; a line that cannot be read counts as one."""
    ends = array("q")  # events up to the end of each line

    def place(row: int) -> str:
        line = bisect_left(ends, row)
        return f"line {line + 1}, item {row - (ends[line - 1] if line else 0)}"

    report.start(source.label, place)
    dropped["users_without_events"] = 0
    clean_rows, bad = Cleaner(report, ("user", "item")), BadRows(report)
    known: set[str] = set()
    users: list[str] = []
    items: list[str] = []
    rows: list[int] = []

    def table() -> pl.DataFrame:
        report.rows += len(rows)
        schema = {"row": pl.Int64, "user": pl.String, "item": pl.String}
        frame = pl.DataFrame([rows, users, items], schema=schema)
        for column in (rows, users, items):
            column.clear()
        clean = clean_rows(frame)
        return clean.select(time="row", row="row", raw_user_id="user", raw_item_id="item")

    last = 0
    for line in read_lines(source.path, _SETTING):
        user, *sequence = ("",) if line is None else _words(line)
        last += 1 if line is None else len(sequence)
        ends.append(last)
        if line is None or user in known:
            reason = "line is too long" if line is None else "repeated user"
            for row in range(ends[-2] + 1 if len(ends) > 1 else 1, last + 1):
                bad.add(reason, row)
                report.rows += 1
            continue
        if not user:
            report.blank += 1
            continue
        known.add(user)
        dropped["users_without_events"] += not sequence
        users += [user] * len(sequence)
        items += sequence
        rows += range(last - len(sequence) + 1, last + 1)
        if len(rows) >= _BATCH_EVENTS:
            yield table()
    yield table()
    bad.close()


def _words(line: bytes) -> list[str]:
    """User and items; an empty user for a blank line."""
    return line.decode("utf-8-sig", "replace").split() or [""]


def _items(
    sources: list[Source], config: DataConfig, report: RowReport, dropped: dict[str, int]
) -> Iterator[pl.DataFrame]:
    """Items with a text first, then the others of `item2id`; the ASIN is the title of last resort.

    What the metadata have of other items is counted.
    """
    if not sources:
        return
    numbers = _read_numbers(sources[0].path)
    asins = pl.DataFrame({"raw_item_id": list(numbers.values()), "asin": list(numbers)})
    described: set[str] = set()
    for source in sources[1:]:
        objects = _described(source, numbers, report, dropped)
        for table in describe_items(objects, source, config, report, TEXT_FIELDS):
            described.update(table["raw_item_id"])
            yield _with_asin(table, asins)
    others = [number for number in numbers.values() if number not in described]
    yield _with_asin(unnamed_items(others), asins)


def _described(
    source: Source, numbers: Mapping[str, str], report: RowReport, dropped: dict[str, int]
) -> Iterator[Described]:
    dropped["items_not_in_datamaps"] = 0
    for row, entry in read_objects(source, _SETTING, report):
        asin = id_text(entry.get("asin"))
        if asin is None or asin in numbers:
            yield row, numbers.get(asin or ""), entry
        else:
            dropped["items_not_in_datamaps"] += 1


def _with_asin(items: pl.DataFrame, asins: pl.DataFrame) -> pl.DataFrame:
    named = items.join(asins, on="raw_item_id", how="left", maintain_order="left")
    title = pl.when(pl.col("title") == "").then("asin").otherwise("title")
    return named.with_columns(title=title).drop("asin")


def _read_numbers(path: Path) -> dict[str, str]:
    """{ASIN: number} of `item2id`."""
    found = dict(read_pairs(path, _SETTING)).get("item2id")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{_SETTING}: {path} has no item2id; it is not P5's {MAPS}")
    numbers = {asin: id_text(number) for asin, number in found.items()}
    checked = {id_text(asin) or "": number for asin, number in numbers.items() if number}
    if len(checked) < len(found) or len(set(checked.values())) < len(checked):
        raise ValueError(f"{_SETTING}: {path}: every item of item2id needs a number of its own")
    return checked
