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
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.raw import RawData, RowReport, Source, existing_file
from glass.data.readers.taobao_parts import (
    DROPPED,
    ITEM,
    USER,
    VECTOR,
    Ids,
    ReadClicks,
    ReadHistories,
    Tables,
    among,
    checked,
    histories,
    read_clicks,
)
from glass.data.shared_arrays import SharedArrays

FILES = (
    "train_samples",
    "test_samples",
    "train_user_features",
    "test_user_features",
    "scl_embedding_int8_p90",
)
WIDTH = 128
COUNTED_ROWS = 1_000_000
"""Counts of clicked items that are gathered before they are added up."""


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
        apart=release.parts,
    )


class _Release:
    """The passes over the files, and an account of what they leave out."""

    def __init__(self, config: DataConfig, sources: list[Source]) -> None:
        self._config, self._tables = config, Tables(sources)
        self.reports = {name: RowReport(name) for name in FILES}
        self.dropped = dict.fromkeys(DROPPED, 0)

    def events(self) -> Iterator[pl.DataFrame]:
        """Part after part, in this process."""
        before = 0
        for begin in self._parts(None):
            part = begin()
            for chunk in part.events:
                yield chunk.with_columns(pl.col("row") + before)
            before += part.num_rows()
            self.reports[part.report.role].add_report(part.report)
            for reason, count in part.dropped.items():
                self.dropped[reason] += count

    def parts(self, folder: Path) -> list[ReadClicks | ReadHistories]:
        """Parts that other processes can read, with what they share in the folder."""
        return list(self._parts(folder))

    def _parts(self, folder: Path | None) -> Iterator[ReadClicks | ReadHistories]:
        """Clicks, then histories, of training and then of the rest."""
        known = self._known_items()
        targets = self._targets(known)
        for split in ("train", "test"):
            ids, rows = self._users(f"{split}_user_features")
            arrays = {"targets": targets, "users": ids, "first_rows": rows}
            clicks = self._clicks(split, targets, ids)
            arrays["wanted"] = np.unique(np.concatenate([ids[:0], *clicks]))
            if known is not None:
                arrays["known"] = known
            shared = SharedArrays(arrays, folder / split if folder else None)
            yield ReadClicks(self._config, self._tables, split, shared)
            yield from histories(self._config, self._tables, split, shared)

    def vectors(self) -> Iterator[tuple[pl.Series, NDArray[np.int8]]]:
        """Raw ids and int8 [n, 128] vectors; 127 stands for 1."""
        name = "scl_embedding_int8_p90"
        for frame in self._tables.read(name, {"item": ITEM, "vector": VECTOR}):
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
        parts, report = [np.empty(0, np.int64)], self.reports[name]
        for frame in self._tables.read(name, {"item": ITEM, "vector": VECTOR}, report):
            length = frame["vector"].list.len()
            wrong = (length != WIDTH).fill_null(True)
            reasons = {f"vector is not {WIDTH} numbers": wrong}
            parts.append(checked(frame, report, reasons, ("item",))["item"].to_numpy())
        every = np.concatenate(parts)
        known = np.unique(every)
        self.dropped["repeated_vectors"] = len(every) - len(known)
        return known

    def _targets(self, known: Ids | None) -> Ids:
        """Items whose clicks count, rising."""
        settings = self._config.taobao_mm
        parts = [pl.DataFrame(schema={"item": pl.Int64, "clicks": pl.Int64})]
        report = self.reports["train_samples"]
        for chunk in read_clicks(self._tables, "train", report, self.dropped):
            parts.append(chunk.group_by("item").agg(clicks=pl.len().cast(pl.Int64)))
            if sum(part.height for part in parts[1:]) > max(COUNTED_ROWS, parts[0].height):
                parts = [_added_up(parts)]
        counts = _added_up(parts)
        most: Any = counts["clicks"].max() or 0
        enough = counts.filter(pl.col("clicks") >= settings.min_target_clicks)
        found = np.sort(enough["item"].to_numpy())
        if known is not None:
            found = found[among(found, known)]
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

    def _users(self, name: str) -> tuple[Ids, Ids]:
        """Users of a table of features, rising, and the row where each is first."""
        parts = [frame["user"] for frame in self._tables.read(name, {"user": USER})]
        every = pl.concat([pl.Series("user", [], dtype=pl.Int64), *parts])
        known = np.flatnonzero(every.is_not_null().to_numpy())
        ids, first = np.unique(every.drop_nulls().to_numpy(), return_index=True)
        return ids, known[first]

    def _clicks(self, split: str, targets: Ids, users: Ids) -> Iterator[Ids]:
        """Users with clicks that count, some at a time."""
        # The training samples are accounted for already.
        report = self.reports["test_samples"] if split == "test" else None
        dropped = self.dropped if split == "test" else None
        for chunk in read_clicks(self._tables, split, report, dropped):
            counts = among(chunk["item"].to_numpy(), targets)
            counts &= among(chunk["user"].to_numpy(), users)
            yield np.unique(chunk["user"].to_numpy()[counts])


def _added_up(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("item").agg(pl.col("clicks").sum())
