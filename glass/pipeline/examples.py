"""Users for the report: history, sid_1 buckets, recommendations and what came next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from glass.report import ExampleUser, ShownBucket, ShownItem
from glass.systems import TRAINED

if TYPE_CHECKING:
    from glass.pipeline.run import Run

MOST_TITLES = 15
MOST_BUCKETS = 6


def example_users(run: Run, count: int, *, seed: int = 0) -> list[ExampleUser]:
    """`count` test users drawn among those with a long history, one sample each."""
    samples = run.samples
    lengths = samples.history_end - samples.history_start
    systems = run.neural_systems or TRAINED
    read = min(TRAINED[system].history_length(run.config) for system in systems)
    long = np.flatnonzero(lengths > read)
    pool = long if len(long) >= count else np.arange(len(samples))
    rng = np.random.default_rng(seed)
    chosen: dict[int, int] = {}
    for row in rng.permutation(pool):
        chosen.setdefault(int(samples.users[row]), int(row))
        if len(chosen) == count:
            break
    rankings = {system: run.ranked_items(system) for system in run.config.systems}
    return [_example(run, row, rankings) for row in chosen.values()]


def _example(run: Run, row: int, rankings: dict[str, np.ndarray]) -> ExampleUser:
    samples, dataset = run.samples, run.dataset
    start, end = int(samples.history_start[row]), int(samples.history_end[row])
    history = dataset.items[start:end]
    targets = dataset.items[end : int(samples.target_end[row])]
    seen, wanted = set(history.tolist()), set(targets.tolist())
    shown = {}
    found: set[int] = set()
    for system, ranked in rankings.items():
        top = [int(item) for item in ranked[row] if item >= 0][:10]
        found |= wanted & set(top)
        shown[system] = [_item(run, i, repeat=i in seen, hit=i in wanted) for i in top]
    return ExampleUser(
        user=str(dataset.user_table["raw_user_id"][int(samples.users[row])]),
        history_length=len(history),
        history=[_item(run, int(i)) for i in history[::-1][:MOST_TITLES]],
        buckets=_buckets(run, history),
        recommendations=shown,
        targets=[_item(run, int(i), repeat=int(i) in seen, hit=int(i) in found) for i in targets],
    )


def _buckets(run: Run, history: np.ndarray) -> list[ShownBucket]:
    sid1 = run.sid_table.codes[history, 0]
    buckets = []
    for code, count in Counter(sid1.tolist()).most_common(MOST_BUCKETS):
        newest = history[::-1][sid1[::-1] == code].tolist()
        titles = list(dict.fromkeys(_title(run, int(item)) for item in newest))[:4]
        buckets.append(ShownBucket(code=int(code), count=count, titles=tuple(titles)))
    return buckets


def _title(run: Run, item: int) -> str:
    return str(run.dataset.item_table["title"][item])


def _item(run: Run, item: int, *, repeat: bool = False, hit: bool = False) -> ShownItem:
    sid = tuple(int(code) for code in run.sid_table.codes[item])
    return ShownItem(title=_title(run, item), sid=sid, repeat=repeat, hit=hit)
