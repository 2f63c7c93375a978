"""TAOBAO-MM's files, and the parts of its events that processes can read apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.order import TEST, TRAIN, VALID, tie_keys
from glass.data.parquet_file import num_rows
from glass.data.raw import PartOfEvents, RowReport, Source
from glass.data.readers.parquet import read_parquet
from glass.data.shared_arrays import SharedArrays

USER, ITEM, LABEL = "129_1", "205", "label_0"
HISTORY, VECTOR = "150_2_180", "205_c"
TYPES: dict[str, Any] = {
    "user": pl.Int64,
    "item": pl.Int64,
    "label": pl.List(pl.Int8),
    "items": pl.List(pl.Int64),
    "vector": pl.List(pl.Int8),
}
DROPPED = (
    "rows_without_click",
    "clicks_on_other_items",
    "clicks_without_history",
    "events_without_vector",
    "repeated_users",
    "repeated_vectors",
)
ROWS = 1 << 18
"""Rows of a table read at a time."""
HISTORY_ROWS = 4_096
"""Histories read at a time."""
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """The files of the release by name of their table (`Source.role`)."""

    sources: list[Source]

    def of(self, name: str) -> list[Source]:
        """Files of a table, in order."""
        return [source for source in self.sources if source.role == name]

    def read(
        self, name: str, columns: dict[str, str], report: RowReport | None = None, rows: int = ROWS
    ) -> Iterator[pl.DataFrame]:
        """All files of a table; without a report they are accounted for elsewhere."""
        account = RowReport(name) if report is None else report
        for source in self.of(name):
            yield from read_file(source, columns, account, rows)


def read_file(
    source: Source, columns: dict[str, str], report: RowReport, rows: int
) -> Iterator[pl.DataFrame]:
    """Columns of one file, and `row`.

    Raises ValueError for a type that TAOBAO-MM does not have there.
    """
    settings = [("a column of taobao_mm", column) for column in columns.values()]
    for frame in read_parquet(source, columns, settings, report, rows):
        for name, column in columns.items():
            if frame.schema[name] != TYPES[name]:
                raise ValueError(
                    f"{source.path}: column {column!r} has type {frame.schema[name]}, TAOBAO-MM "
                    f"has {TYPES[name]} there; is this another file?"
                )
        yield frame


def read_clicks(
    tables: Tables, split: str, report: RowReport | None, dropped: dict[str, int] | None
) -> Iterator[pl.DataFrame]:
    """`user`, `item` of the samples with a click; with both accounts, what is left out is told."""
    columns = {"user": USER, "item": ITEM, "label": LABEL}
    for frame in tables.read(f"{split}_samples", columns, report):
        first, second = (frame["label"].list.get(k, null_on_oob=True) for k in (0, 1))
        two = (frame["label"].list.len() == 2).fill_null(False)
        wrong = ~(two & ((first + second) == 1) & first.is_in([0, 1])).fill_null(False)
        good = checked(frame, report, {"no label": wrong})
        clicks = good.filter(pl.col("label").list.get(1) == 1)
        if dropped is not None:
            dropped["rows_without_click"] += good.height - clicks.height
        yield clicks.select("user", "item")


@dataclass
class _Account:
    """Of a part."""

    report: RowReport
    rows: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPPED, 0))

    def part(self, events: Iterator[pl.DataFrame]) -> PartOfEvents:
        return PartOfEvents(events, self.report, self.dropped, lambda: self.rows)

    def chunk(
        self, user: pl.Series, item: pl.Series, time: int, split: str, seed: int
    ) -> pl.DataFrame:
        """Events as `RawData` has them."""
        label: Any = pl.lit(TRAIN, pl.Int8)
        raw = user.cast(pl.String)
        if split == "test":
            part = tie_keys(user.to_numpy(), seed) & np.uint64(1)
            label = pl.Series(np.where(part == 1, TEST, VALID), dtype=pl.Int8)
            raw = raw + "/test"
        row = pl.int_range(self.rows, self.rows + len(user), dtype=pl.Int64, eager=True)
        self.rows += len(user)
        return pl.DataFrame({"raw_user_id": raw, "raw_item_id": item.cast(pl.String)}).with_columns(
            time=pl.lit(time, pl.Int64), row=row, split=label
        )


@dataclass(frozen=True)
class ReadClicks:
    """The clicks of a split that count: on targets, of users with a history.

    `shared` holds the ids, rising: `targets`; `users` with a history and `first_rows`, where each
    is first over all files; `wanted`, users with a click; and, where a vector is required, `known`,
    items with one.
    """

    config: DataConfig
    tables: Tables
    split: str
    shared: SharedArrays

    def __call__(self) -> PartOfEvents:
        account = _Account(RowReport(f"{self.split}_samples"))
        return account.part(self._events(account))

    def _events(self, account: _Account) -> Iterator[pl.DataFrame]:
        for chunk in read_clicks(self.tables, self.split, None, None):
            on_target = among(chunk["item"].to_numpy(), self.shared["targets"])
            account.dropped["clicks_on_other_items"] += int((~on_target).sum())
            with_history = among(chunk["user"].to_numpy(), self.shared["users"])
            account.dropped["clicks_without_history"] += int((on_target & ~with_history).sum())
            clicks = chunk.filter(pl.Series(on_target & with_history))
            yield account.chunk(clicks["user"], clicks["item"], 1, self.split, self.config.seed)


@dataclass(frozen=True)
class ReadHistories:
    """The histories of a file, of users with a click, newest event last; see `ReadClicks`."""

    config: DataConfig
    source: Source
    before: int
    """Rows of the files before it."""
    split: str
    shared: SharedArrays

    def __call__(self) -> PartOfEvents:
        account = _Account(RowReport(f"{self.split}_user_features"))
        return account.part(self._events(account))

    def _events(self, account: _Account) -> Iterator[pl.DataFrame]:
        for user, item in self._histories(account):
            kept = pl.Series(np.ones(len(item), dtype=bool))
            if "known" in self.shared:
                kept = pl.Series(among(item.to_numpy(), self.shared["known"]))
            account.dropped["events_without_vector"] += int((~kept).sum())
            seed = self.config.seed
            yield account.chunk(user.filter(kept), item.filter(kept), 0, self.split, seed)

    def _histories(self, account: _Account) -> Iterator[tuple[pl.Series, pl.Series]]:
        """User and item of every event."""
        first_rows = np.sort(self.shared["first_rows"])
        before = self.before
        columns = {"user": USER, "items": HISTORY}
        for frame in read_file(self.source, columns, account.report, HISTORY_ROWS):
            once = among(np.arange(before, before + frame.height), first_rows)
            before += frame.height
            missing = frame["items"].is_null() | frame["items"].list.eval(
                pl.element().is_null()
            ).list.any().fill_null(False)
            marked = frame.with_columns(once=pl.Series(once))
            good = checked(marked, account.report, {"missing history": missing}, ("user",))
            account.dropped["repeated_users"] += int((~good["once"]).sum())
            wanted = pl.Series(among(good["user"].to_numpy(), self.shared["wanted"]))
            events = good.filter(pl.col("once") & wanted).select("user", "items")
            events = events.explode("items", empty_as_null=False)
            yield events["user"], events["items"]


def histories(
    config: DataConfig, tables: Tables, split: str, shared: SharedArrays
) -> Iterator[ReadHistories]:
    """A part for every file of a split's histories."""
    before = 0
    for source in tables.of(f"{split}_user_features"):
        yield ReadHistories(config, source, before, split, shared)
        before += num_rows(source.path)


def checked(
    frame: pl.DataFrame,
    report: RowReport | None,
    wrong: dict[str, pl.Series],
    ids: tuple[str, ...] = ("user", "item"),
) -> pl.DataFrame:
    """The rows that are in order; the others are reported where there is a report."""
    reasons = {f"missing {column}": frame[column].is_null() for column in ids} | wrong
    kept = np.ones(frame.height, dtype=bool)
    for reason, mask in reasons.items():
        bad = mask.to_numpy() & kept
        if report is not None and bad.any():
            rows = frame["row"].filter(pl.Series(bad))
            report.add(reason, rows.to_list(), int(bad.sum()))
        kept &= ~bad
    return frame.filter(pl.Series(kept))


def among(ids: Ids, rising: Ids) -> NDArray[np.bool_]:
    """bool [T] whether each of `ids` is among `rising`; np.isin would sort both each time."""
    if not len(rising):
        return np.zeros(len(ids), dtype=bool)
    place = np.searchsorted(rising, ids)
    place[place == len(rising)] = 0
    found: NDArray[np.bool_] = rising[place] == ids
    return found
