"""Item sequences as JSON, the format of LC-Rec, LETTER and MiniOneRec.

`<Name>.inter.json` has {user: [item, ..]}, oldest first and without times: the number of an event
in the file is its time. Beside it may lie `<Name>.item.json`, {item: {"title": .., ..}}, and
`<Name>.index.json`, {item: ["<a_1>", "<b_2>", ..]}. All items of both files are of the catalogue;
the codes of the second are for `sid.codes_path`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import polars as pl

from glass.config import DataConfig
from glass.data.cleaning import Cleaner
from glass.data.json_file import id_text, read_pairs
from glass.data.raw import RawData, RowReport, Source, existing_file
from glass.data.readers.item_objects import read_items, require_item_file

SUFFIX = ".inter.json"
_SETTING = "data.path"
Pairs = Sequence[tuple[str, Any]]


def find(config: DataConfig) -> list[Source]:
    """The `.inter.json` file `config.path`, or the only one in that folder, and its companions."""
    if not config.path:
        raise ValueError(
            f"data.path is empty: format 'inter_json' needs a {SUFFIX} file or its folder"
        )
    if config.min_rating is not None:
        raise ValueError("data.min_rating is set, but inter_json has no ratings; remove it")
    if config.split == "time":
        raise ValueError("data.split is 'time', but inter_json has no times; use 'last_n'")
    path = Path(config.path)
    if path.is_dir():
        found = sorted(path.glob(f"*{SUFFIX}"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ValueError(f"data.path: {path} has to hold one {SUFFIX} file, it holds {names}")
        path = found[0]
    elif not path.name.endswith(SUFFIX):
        raise ValueError(f"data.path: {path.name} has to end in {SUFFIX}")
    sources = [Source("interactions", existing_file(path, _SETTING), path.name)]
    for role, suffix in (("items", ".item.json"), ("index", ".index.json")):
        companion = path.with_name(path.name.removesuffix(SUFFIX) + suffix)
        if companion.exists():
            sources.append(Source(role, existing_file(companion, _SETTING), companion.name))
    require_item_file(config, sources, f"{path.parent} has none beside {path.name}")
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read sequences and, where there are such files, titles, texts and the list of items."""
    reports = (RowReport("interactions"), RowReport("items"))
    dropped: dict[str, int] = {}
    events = _events(sources[0], reports[0], dropped)
    items = read_items(sources[1:], config, reports[1])
    return RawData([events], items, reports, dropped, "ordinal")


def _events(source: Source, report: RowReport, dropped: dict[str, int]) -> pl.DataFrame:
    """One row an entry of a list, numbered through the file from 1; what is no list is one row."""
    pairs = read_pairs(source.path, _SETTING)
    sequences = [value if isinstance(value, list) else [None] for _, value in pairs]
    dropped["users_without_events"] = sum(not sequence for sequence in sequences)
    ends = list(accumulate(map(len, sequences)))

    def place(row: int) -> str:
        user = bisect_left(ends, row)
        return f"user {pairs[user][0]}, event {row - ends[user] + len(sequences[user])}"

    report.start(source.label, place)
    items = list(chain.from_iterable(sequences))
    report.rows += len(items)
    texts = [id_text(item) for item in items]
    reasons = _bad_users(pairs, sequences)
    for row, (item, text) in enumerate(zip(items, texts, strict=True), 1):
        if text is None and item is not None:
            reasons.setdefault(row, "unreadable item")
    _report(report, reasons)
    users = chain.from_iterable(
        [user] * len(s) for (user, _), s in zip(pairs, sequences, strict=True)
    )
    schema = {"user": pl.String, "item": pl.String}
    frame = pl.DataFrame({"user": list(users), "item": texts}, schema=schema)
    frame = frame.with_columns(row=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    frame = frame.filter(~pl.col("row").is_in(list(reasons)))
    clean = Cleaner(report, ("user", "item"))(frame)
    return clean.select(time="row", row="row", raw_user_id="user", raw_item_id="item")


def _bad_users(pairs: Pairs, sequences: Sequence[list[Any]]) -> dict[int, str]:
    """{row: reason} of users that have no list, or were in the file before."""
    reasons: dict[int, str] = {}
    known: set[str] = set()
    row = 1
    for (user, value), sequence in zip(pairs, sequences, strict=True):
        if user in known or not isinstance(value, list):
            reason = "repeated user" if user in known else "no list of items"
            reasons |= dict.fromkeys(range(row, row + len(sequence)), reason)
        known.add(user)
        row += len(sequence)
    return reasons


def _report(report: RowReport, reasons: Mapping[int, str]) -> None:
    rows: dict[str, list[int]] = {}
    for row, reason in sorted(reasons.items()):
        rows.setdefault(reason, []).append(row)
    for reason, bad in rows.items():
        report.add(reason, bad, len(bad))
