"""TAOBAO-MM as released: samples, one history a user and split, int8 vectors (Parquet).

A sample is a row (user, target item, label); only clicks count. The history of a user in the
features of a split is a snapshot taken before all samples of that split, newest event last, without
times. So a user's training snapshot and the clicks of `train_samples` make one sequence, the
snapshot and then one group with all clicks: no click is another's history. The user's test
snapshot and test clicks make a second sequence, `<id>/test`; half of the users have it as
validation, half as test. Nothing of those is training: neither their histories nor their clicks are
fitted on.

The paper's subset (docs/data.md): clicks on a fixed draw of items with enough training clicks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.order import TEST, TRAIN, VALID, tie_keys
from glass.data.raw import RawData, RowReport, Source, existing_file
from glass.data.readers.parquet import read_parquet

USER, ITEM, LABEL = "129_1", "205", "label_0"
HISTORY, VECTOR = "150_2_180", "205_c"
FILES = (
    "train_samples",
    "test_samples",
    "train_user_features",
    "test_user_features",
    "scl_embedding_int8_p90",
)
WIDTH = 128
TYPES: dict[str, Any] = {
    "user": pl.Int64,
    "item": pl.Int64,
    "label": pl.List(pl.Int8),
    "items": pl.List(pl.Int64),
    "vector": pl.List(pl.Int8),
}
COUNTED_ROWS = 1_000_000
"""Counts of clicked items that are gathered before they are added up."""
HISTORY_ROWS = 4_096
"""Histories read at a time."""
Ids = NDArray[np.int64]


def find(config: DataConfig) -> list[Source]:
    """The release's tables, each a file `<name>.parquet` or a folder `<name>` of such files."""
    if not config.path:
        raise ValueError("data.path is empty: format 'taobao_mm' needs the folder of the release")
    if config.ties != "stable" or config.target_group != "timestamp":
        raise ValueError(
            "format 'taobao_mm' has no times, a history is one group in its own order: set "
            "data.ties to 'stable' and data.target_group to 'timestamp'"
        )
    if config.min_rating is not None:
        raise ValueError("data.min_rating is set, but taobao_mm has no ratings; remove it")
    sources = []
    for name in FILES:
        folder = Path(config.path)
        files = sorted((folder / name).rglob("*.parquet")) or sorted(
            path for path in folder.glob(f"{name}[-_.]*") if path.suffix == ".parquet"
        )
        if not files:
            raise ValueError(f"data.path: {folder} has neither {name}.parquet nor a folder {name}")
        for path in files:
            label = str(path.relative_to(folder))
            sources.append(Source(name, existing_file(path, "data.path"), label))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Reads in several passes; memory holds ids of users, clicked items and vectors, no history."""
    release = _Release(config, sources)
    return RawData(
        release.events(),
        [],
        tuple(release.reports.values()),
        release.dropped,
        "ordinal",
        vectors=release.vectors,
    )


@dataclass(frozen=True)
class _Users:
    """Users of a split by id."""

    ids: Ids
    """int64 [U] rising."""
    rows: Ids
    """int64 [U] row of the first history of each, over all files of the split."""


class _Release:
    """The passes over the files, and an account of what they leave out."""

    def __init__(self, config: DataConfig, sources: list[Source]) -> None:
        self._config, self._sources = config, sources
        self.reports = {name: RowReport(name) for name in FILES}
        self.dropped = dict.fromkeys(
            (
                "rows_without_click",
                "clicks_on_other_items",
                "clicks_without_history",
                "events_without_vector",
                "repeated_users",
                "repeated_vectors",
            ),
            0,
        )
        self._row = 0

    def events(self) -> Iterator[pl.DataFrame]:
        """Clicks, then histories, of training and then of the rest."""
        known = self._known_items()
        targets = self._targets(known)
        for split in ("train", "test"):
            users = self._users(f"{split}_user_features")
            clickers = []
            for chunk in self._clicks(f"{split}_samples", count=split == "test"):
                on_target = _among(chunk["item"].to_numpy(), targets)
                self.dropped["clicks_on_other_items"] += int((~on_target).sum())
                with_history = _among(chunk["user"].to_numpy(), users.ids)
                self.dropped["clicks_without_history"] += int((on_target & ~with_history).sum())
                clicks = chunk.filter(pl.Series(on_target & with_history))
                clickers.append(clicks["user"].unique().to_numpy())
                yield self._chunk(clicks["user"], clicks["item"], 1, split)
            wanted = np.unique(np.concatenate(clickers)) if clickers else users.ids[:0]
            for user, item in self._histories(f"{split}_user_features", users, wanted):
                has_vector = _among(item.to_numpy(), known) if known is not None else True
                kept = pl.Series(np.broadcast_to(has_vector, len(item)))
                self.dropped["events_without_vector"] += int((~kept).sum())
                yield self._chunk(user.filter(kept), item.filter(kept), 0, split)

    def vectors(self) -> Iterator[tuple[pl.Series, NDArray[np.int8]]]:
        """Raw ids and int8 [n, 128] vectors; 127 stands for 1."""
        name = "scl_embedding_int8_p90"
        for frame in self._read(name, {"item": ITEM, "vector": VECTOR}, None):
            vector = frame["vector"]
            wide = vector.list.len().fill_null(0).to_numpy() == WIDTH
            whole = pl.Series(wide) & (frame["item"].is_not_null())
            yield (
                frame["item"].filter(whole).cast(pl.String),
                vector.filter(whole).list.to_array(WIDTH).to_numpy().astype(np.int8),
            )

    def _known_items(self) -> Ids | None:
        """Items that have a vector, rising; None: any item will do."""
        if not self._config.taobao_mm.require_vectors:
            return None
        name = "scl_embedding_int8_p90"
        parts = []
        for frame in self._read(name, {"item": ITEM, "vector": VECTOR}, self.reports[name]):
            length = frame["vector"].list.len()
            wrong = (length != WIDTH).fill_null(True)
            good = self._checked(frame, name, {f"vector is not {WIDTH} numbers": wrong}, ("item",))
            parts.append(good["item"].to_numpy())
        every = np.concatenate(parts) if parts else np.empty(0, np.int64)
        known = np.unique(every)
        self.dropped["repeated_vectors"] = len(every) - len(known)
        return known

    def _targets(self, known: Ids | None) -> Ids:
        """Items whose clicks count, rising."""
        settings = self._config.taobao_mm
        parts = [pl.DataFrame(schema={"item": pl.Int64, "clicks": pl.Int64})]
        for chunk in self._clicks("train_samples", count=True):
            parts.append(chunk.group_by("item").agg(clicks=pl.len().cast(pl.Int64)))
            if sum(part.height for part in parts[1:]) > max(COUNTED_ROWS, parts[0].height):
                parts = [_added_up(parts)]
        counts = _added_up(parts)
        most: Any = counts["clicks"].max() or 0
        enough = counts.filter(pl.col("clicks") >= settings.min_target_clicks)
        found = np.sort(enough["item"].to_numpy())
        if known is not None:
            found = found[_among(found, known)]
        if not len(found):
            vector = " and a vector" if known is not None else ""
            raise ValueError(
                f"no item has {settings.min_target_clicks} training clicks{vector} (the most "
                f"clicked has {most}): lower data.taobao_mm.min_target_clicks"
            )
        wanted = settings.target_items
        if wanted is not None and wanted < len(found):
            rng = np.random.default_rng(self._config.seed)
            found = np.sort(rng.choice(found, wanted, replace=False))
        return found

    def _users(self, name: str) -> _Users:
        """Users of a table of features and where each is first, from the ids alone."""
        parts = [frame["user"] for frame in self._read(name, {"user": USER}, None)]
        every = pl.concat([pl.Series("user", [], dtype=pl.Int64), *parts])
        known = np.flatnonzero(every.is_not_null().to_numpy())
        ids, first = np.unique(every.drop_nulls().to_numpy(), return_index=True)
        return _Users(ids, known[first])

    def _clicks(self, name: str, *, count: bool) -> Iterator[pl.DataFrame]:
        """`user`, `item` of the rows with a click; with `count`, what is left out is counted."""
        report = self.reports[name] if count else None
        for frame in self._read(name, {"user": USER, "item": ITEM, "label": LABEL}, report):
            first, second = (frame["label"].list.get(k, null_on_oob=True) for k in (0, 1))
            two = (frame["label"].list.len() == 2).fill_null(False)
            wrong = ~(two & ((first + second) == 1) & first.is_in([0, 1])).fill_null(False)
            good = self._checked(frame, name if count else None, {"no label": wrong})
            clicks = good.filter(pl.col("label").list.get(1) == 1)
            if count:
                self.dropped["rows_without_click"] += good.height - clicks.height
            yield clicks.select("user", "item")

    def _histories(
        self, name: str, users: _Users, wanted: Ids
    ) -> Iterator[tuple[pl.Series, pl.Series]]:
        """User and item of every event of the users `wanted`, oldest first."""
        first = np.zeros(int(users.rows.max(initial=-1)) + 1, dtype=bool)
        first[users.rows] = True
        before = 0
        columns = {"user": USER, "items": HISTORY}
        for frame in self._read(name, columns, self.reports[name], HISTORY_ROWS):
            place = np.arange(before, before + frame.height)
            before += frame.height
            once = np.zeros(frame.height, dtype=bool)
            inside = place < len(first)
            once[inside] = first[place[inside]]
            missing = frame["items"].is_null() | frame["items"].list.eval(
                pl.element().is_null()
            ).list.any().fill_null(False)
            marked = frame.with_columns(once=pl.Series(once))
            good = self._checked(marked, name, {"missing history": missing}, ("user",))
            self.dropped["repeated_users"] += int((~good["once"]).sum())
            chosen = good.filter(
                pl.col("once") & pl.Series(_among(good["user"].to_numpy(), wanted))
            )
            events = chosen.select("user", "items").explode("items", empty_as_null=False)
            yield events["user"], events["items"]

    def _checked(
        self,
        frame: pl.DataFrame,
        name: str | None,
        wrong: dict[str, pl.Series],
        ids: tuple[str, ...] = ("user", "item"),
    ) -> pl.DataFrame:
        """The rows that are in order; with a name, the others are reported there."""
        reasons = {f"missing {column}": frame[column].is_null() for column in ids} | wrong
        kept = np.ones(frame.height, dtype=bool)
        for reason, mask in reasons.items():
            bad = mask.to_numpy() & kept
            if name is not None and bad.any():
                rows = frame["row"].filter(pl.Series(bad))
                self.reports[name].add(reason, rows.to_list(), int(bad.sum()))
            kept &= ~bad
        return frame.filter(pl.Series(kept))

    def _chunk(self, user: pl.Series, item: pl.Series, time: int, split: str) -> pl.DataFrame:
        label: Any = TRAIN
        raw = user.cast(pl.String)
        if split == "test":
            part = tie_keys(user.to_numpy(), self._config.seed) & np.uint64(1)
            label = pl.Series(np.where(part == 1, TEST, VALID), dtype=pl.Int8)
            raw = raw + "/test"
        row = pl.int_range(self._row, self._row + len(user), dtype=pl.Int64, eager=True)
        self._row += len(user)
        return pl.DataFrame({"raw_user_id": raw, "raw_item_id": item.cast(pl.String)}).with_columns(
            time=pl.lit(time, pl.Int64),
            row=row,
            split=pl.lit(label, pl.Int8) if isinstance(label, int) else label,
        )

    def _read(
        self, name: str, columns: dict[str, str], report: RowReport | None, rows: int = 1 << 18
    ) -> Iterator[pl.DataFrame]:
        settings = [("a column of taobao_mm", column) for column in columns.values()]
        for source in self._sources:
            if source.role != name:
                continue
            account = RowReport(name) if report is None else report
            for frame in read_parquet(source, columns, settings, account, rows):
                _check_types(source, frame, columns)
                yield frame


def _check_types(source: Source, frame: pl.DataFrame, columns: dict[str, str]) -> None:
    for name, column in columns.items():
        if frame.schema[name] != TYPES[name]:
            raise ValueError(
                f"{source.path}: column {column!r} has type {frame.schema[name]}, TAOBAO-MM has "
                f"{TYPES[name]} there; is this another file?"
            )


def _added_up(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("item").agg(pl.col("clicks").sum())


def _among(ids: Ids, rising: Ids) -> NDArray[np.bool_]:
    """bool [T] whether each of `ids` is among `rising`; np.isin would sort both each time."""
    if not len(rising):
        return np.zeros(len(ids), dtype=bool)
    place = np.searchsorted(rising, ids)
    place[place == len(rising)] = 0
    found: NDArray[np.bool_] = rising[place] == ids
    return found
