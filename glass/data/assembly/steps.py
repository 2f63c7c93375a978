"""The steps, one after another."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glass.config import DataConfig
from glass.data.assembly.catalogue import make_catalogue
from glass.data.assembly.counts import count_items
from glass.data.assembly.events import write_events
from glass.data.assembly.gather import CollisionError, gather
from glass.data.assembly.gather_files import gather_files
from glass.data.assembly.splits import Split, make_split
from glass.data.assembly.users import SortedUsers, sort_users
from glass.data.assembly.vectors import write_vectors
from glass.data.order import TRAIN
from glass.data.raw import RawData
from glass.data.store import VECTORS
from glass.workers import ONE_PROCESS, Workers

_LOG = logging.getLogger(__name__)
SEEDS = 4
"""Seeds of the keys that are tried: with one of them, two of 10^8 ids share a key in 1 of 3,700
data sets."""


@dataclass(frozen=True)
class Assembled:
    """What the manifest says of the tables."""

    counts: dict[str, Any]
    split: dict[str, dict[str, int]]
    dropped: dict[str, Any]
    shards: int
    """Files of the events."""
    vectors: dict[str, Any] | None
    """Width and number of the item vectors, where the source has any."""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    """Of each step; the manifest leaves them out, it is the same every time."""


def assemble(
    read: Callable[[], RawData],
    config: DataConfig,
    folder: Path,
    *,
    source: str = "the source",
    workers: Workers = ONE_PROCESS,
) -> Assembled:
    """Filters users, sorts, groups, splits, then filters items by their training events.

    Groups and splits come from all events of the users that stay. An item needs
    `min_item_events` training events; with 0, the item file's items stay without any. Users
    without a training event left are dropped too, unless the source splits itself. So nothing in
    the result depends on which items the validation and test events hold, except those events.

    Args:
        read: begins to read the source.
        config: settings.
        folder: takes `interactions.parquet`, or with many events a folder `interactions` of such
            files, `items.parquet` and `users.parquet`; what does not fit into memory lies there
            until the end.
        source: named where there is nothing to read.
        workers: do the partitions of a data set larger than memory.

    Raises ValueError when rows are malformed or nothing is left, naming the setting to change.
    """
    work = folder / "work"
    for seed in range(SEEDS):
        raw = read()
        try:
            return _assemble(raw, config, folder, work, seed, source, workers)
        except CollisionError:
            continue
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise ValueError(
        f"two ids of the source have the same key with each of {SEEDS} seeds, which no data set "
        "has by chance: look for ids that were made for it"
    )


def _assemble(
    raw: RawData,
    config: DataConfig,
    folder: Path,
    work: Path,
    seed: int,
    source: str,
    workers: Workers,
) -> Assembled:
    seconds: dict[str, float] = {}
    rows_bar = tqdm(desc=f"{config.name}: read", unit=" rows", unit_scale=True, disable=None)
    with _timed(seconds, "read"), rows_bar as bar:
        gathered = gather_files(raw, work, seed, workers, bar.update)
        if gathered is None:
            gathered = gather(raw, work, seed, bar.update)
    for report in raw.reports:
        report.check(config.max_malformed_share)
        if report.malformed:
            _LOG.warning("%s", report.summary())
    if not gathered.num_events:
        raise ValueError(f"{source} has no events")
    workers = workers if gathered.events.split else ONE_PROCESS  # else it is in memory, here
    parts = len(gathered.events.partitions())
    with _timed(seconds, "sort"), _bar(config, "sort", parts) as bar:
        users = sort_users(gathered, config, work, workers, bar.update)
    split = make_split(users, config)
    _require_training(users, split, config)
    with _timed(seconds, "count"), _bar(config, "count", len(users.numbers)) as bar:
        counts = count_items(users, split, work, workers, bar.update)
    items = folder / "items.parquet"
    with _timed(seconds, "items"), _bar(config, "items", parts) as bar:
        catalogue = make_catalogue(gathered, counts, config, items, work, workers, bar.update)
    with _timed(seconds, "write"), _bar(config, "write", 2 * len(users.numbers)) as bar:
        written = write_events(users, split, catalogue, folder, work, workers, bar.update)
    with _timed(seconds, "vectors"):
        vectors = write_vectors(raw, catalogue.lookup, folder / VECTORS, seed)
    _LOG.info(
        "%s: %s", config.name, ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    )
    rows = dict(raw.dropped)
    if gathered.num_described is not None:
        rows["repeated_items"] = catalogue.repeated
    return Assembled(
        {
            "users": written.users,
            "items": len(catalogue.lookup),
            "events": written.events,
            "groups": sum(written.split_groups.values()),
            "items_without_text": catalogue.account.without_text,
            "source_users": users.num_users,
            "source_items": catalogue.account.source_items,
            "source_events": gathered.num_events,
            "first_time": min(written.times, default=None),
            "last_time": max(written.times, default=None),
        },
        written.split(),
        {"rows": rows, **users.dropped, **written.dropped(catalogue)},
        written.files,
        vectors,
        seconds,
    )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _bar(config: DataConfig, what: str, parts: int) -> tqdm[Any]:
    """Progress over partitions; a single one is over at once."""
    return tqdm(total=parts, desc=f"{config.name}: {what}", unit="part", disable=parts <= 2 or None)


def _require_training(users: SortedUsers, split: Split, config: DataConfig) -> None:
    if not any((split(users.events.get(number)) == TRAIN).any() for number in users.numbers):
        raise ValueError(
            f"data.split={config.split!r} leaves no training event: most events share the newest "
            "time; lower data.test_share and data.valid_share, or use data.split='last_n'"
        )
