"""MiniOneRec's data: a CSV of samples for each of train, valid and test, and JSON about the items.

A row of `train/<Name>_<..>.csv`, `valid/..` and `test/..` is one event of a user, `item_id`, and up
to ten before it, `history_item_id`. Rows go by time over all users, and so does the split. A user's
first event is in histories alone; all others have a row. So a user's events are the history of the
first row and the items of all. `index/<Name>.item.json` and `index/<Name>.index.json` are those of
LC-Rec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from glass.config import DataConfig
from glass.data.cleaning import Cleaner
from glass.data.delimited import read_delimited, read_header
from glass.data.order import SPLITS, TRAIN
from glass.data.raw import RawData, RowReport, Source, existing_file, require_columns
from glass.data.readers.item_objects import BadRows, read_items, require_item_file

COLUMNS = {"user": "user_id", "history": "history_item_id", "item": "item_id"}
_SETTING = "data.path"
_HISTORY = re.compile(r"\[\d+(?:, ?\d+)*\]")
_REMEMBERED = 100  # events of a user that the next history is compared with


def find(config: DataConfig) -> list[Source]:
    """The three samples files and those about the items."""
    if not config.path:
        raise ValueError(
            "data.path is empty: format 'minionerec' needs train/<Name>_<..>.csv or the folder "
            "that train lies in"
        )
    if config.min_rating is not None:
        raise ValueError("data.min_rating is set, but minionerec has no ratings; remove it")
    path = _train_file(Path(config.path))
    root = path.parent.parent
    sources = []
    for split in SPLITS:
        file = existing_file(root / split / path.name, _SETTING)
        sources.append(Source("interactions", file, f"{split}/{path.name}"))
    for role, suffix in (("items", ".item.json"), ("index", ".index.json")):
        about = [
            file
            for file in (root / "index").glob(f"*{suffix}")
            if path.stem.startswith(file.name.removesuffix(suffix))
        ]
        if about:
            file = max(about, key=lambda file: len(file.name))
            sources.append(Source(role, existing_file(file, _SETTING), file.name))
    require_item_file(config, sources, f"{root / 'index'} has none for {path.name}")
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read the events with their split, and titles, texts and the list of items."""
    reports = (RowReport("interactions"), RowReport("items"))
    samples, about = sources[: len(SPLITS)], sources[len(SPLITS) :]
    events = _Events(reports[0]).read(samples)
    return RawData(events, read_items(about, config, reports[1]), reports, {}, "ordinal")


def _train_file(path: Path) -> Path:
    if path.is_dir():
        found = sorted((path / "train").glob("*.csv"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ValueError(
                f"data.path: {path / 'train'} has to hold one .csv file, it holds {names}; name "
                "the one to read"
            )
        return found[0]
    if path.parent.name != "train" or path.suffix != ".csv":
        raise ValueError(f"data.path: {path} has to be a .csv file in a folder named train")
    return path


class _Events:
    def __init__(self, report: RowReport) -> None:
        self._report = report
        self._last: dict[str, list[str]] = {}
        self._count = 0

    def read(self, sources: list[Source]) -> Iterator[pl.DataFrame]:
        """Events in the order of the files, whose number is their time."""
        columns = list(COLUMNS.values())
        wanted = [("a column of minionerec", column) for column in columns]
        for source, split in zip(sources, SPLITS.values(), strict=True):
            names = read_header(source.path, ",", quoted=True)
            require_columns(str(source.path), names, wanted)
            self._report.start(source.label)
            clean_rows, bad = Cleaner(self._report, ("user", "item")), BadRows(self._report)
            frames = read_delimited(
                source.path, columns, self._report, names=names, delimiter=",", quoted=True
            )
            for frame in frames:
                named = frame.select("row", **{k: pl.col(name) for k, name in COLUMNS.items()})
                yield self._told(clean_rows(named), split, bad)
            bad.close()

    def _told(self, samples: pl.DataFrame, split: int, bad: BadRows) -> pl.DataFrame:
        """What the samples tell of new; a history that leaves events out is malformed."""
        told: list[tuple[Any, ...]] = []
        for row, user, history, item in samples.select("row", *COLUMNS).iter_rows():
            if not _HISTORY.fullmatch(history):
                bad.add("unreadable history", row)
                continue
            before = history[1:-1].replace(" ", "").split(",")[-_REMEMBERED:]
            last = self._last.get(user)
            if last is None:
                # More than one event before the first row: events without a row of their own. In
                # training that does no harm; elsewhere they would become targets.
                whole = len(before) == 1 or split == TRAIN
            else:
                whole = last[-len(before) :] == before
            if not whole:
                bad.add("history is not that of the user's rows before", row)
                continue
            new = [item] if last is not None else [*before, item]
            told += [(user, event) for event in new]
            self._last[user] = [*(last or []), *new][-_REMEMBERED:]
        schema = {"raw_user_id": pl.String, "raw_item_id": pl.String}
        events = pl.DataFrame(told, schema=schema, orient="row")
        first, self._count = self._count + 1, self._count + events.height
        number = pl.int_range(first, first + events.height, dtype=pl.Int64, eager=True)
        return events.with_columns(time=number, row=number, split=pl.lit(split, pl.Int8))
