"""`glass.Recommender`: events a second, latency and memory as histories grow."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.agreement import DiffersError, check_equal
from benchmarks.histories import make_events
from benchmarks.machine import Floors
from benchmarks.output import Row, draw_growth, save_figure
from benchmarks.timing import Clock
from benchmarks.training_step import ITEMS, VECTOR_DIM, Setup, make_model
from glass.data.batches import Batch
from glass.generation import Beams, generate
from glass.models import Glass
from glass.serving import Recommender
from glass.serving.filters import Wanted
from glass.serving.items import ItemTable
from glass_kernels import SidTrie

if TYPE_CHECKING:
    from glass.serving.search import Searcher

LENGTHS = (100, 1_000, 10_000)
USERS, BEAMS, NEW_EVENTS = 128, 20, 300
EVERYTHING = Wanted(None, np.zeros(0, np.int32))


def make_recommender(copying: bool) -> Recommender:
    """The released model's sizes, random weights."""
    model = make_model(Setup())[0].eval()
    if copying:
        config = dataclasses.replace(model.config, copy_head=True, long_history="all")
        fresh = Glass(config, model.codebook_sizes, ITEMS, VECTOR_DIM)
        fresh.load_state_dict(model.state_dict(), strict=False)
        model = fresh.eval()
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    raw = tuple(map(str, range(ITEMS)))
    return Recommender(model, trie, ItemTable(raw, raw, np.ones(ITEMS, np.int64)))


def make_histories(length: int) -> list[list[str]]:
    events = make_events(USERS * length, ITEMS, torch.Generator().manual_seed(length))
    return [list(map(str, part)) for part in events.view(USERS, length).tolist()]


def whole_batch(histories: list[list[str]], model: Glass) -> Batch:
    """Of the same histories, every event of them."""
    short, older = model.config.short_length, model.config.long_history == "older"
    items = torch.tensor([[int(item) for item in history] for history in histories])
    searched = items[:, :-short] if older else items
    size, length = searched.shape
    return Batch(
        rows=torch.arange(size),
        short_items=items[:, -short:],
        long_items=searched.flatten(),
        long_offsets=torch.arange(size + 1) * length,
        long_visits=torch.ones(size * length, dtype=torch.int64),
        long_days=torch.zeros(size * length),
        targets=torch.full((size, 0), -1),
        padded=False,
    )


def check(recommender: Recommender, search: Searcher, histories: list[list[str]]) -> None:
    """The beams are those of the whole histories; raises DiffersError."""
    snapshots = recommender.snapshots([str(user) for user in range(4)])
    ours = search.beams(snapshots, [EVERYTHING] * 4, BEAMS)
    model = search.model
    assert isinstance(model, Glass)
    whole = generate(model, whole_batch(histories[:4], model), search.trie, beam_width=BEAMS)
    worst = float((ours.scores - whole.scores).abs().max())
    if not worst < 1e-4:
        raise DiffersError(f"serving: scores differ by {worst:.1e} from those of whole histories")
    check_equal("serving: beams", ours.codes, whole.codes)


def timed(call: Callable[[int], object], rounds: int) -> list[float]:
    """Milliseconds of each call; one more before is not timed."""
    call(rounds)
    taken = []
    for number in range(rounds):
        start = Clock.now()
        call(number)
        taken.append(1e3 * (Clock.now() - start))
    return taken


def measure(length: int, copying: bool, quick: bool) -> Row:
    recommender, histories = make_recommender(copying), make_histories(length)
    search, model = recommender.searcher, recommender.searcher.model
    assert isinstance(model, Glass)
    for user, history in enumerate(histories):
        recommender.observe(str(user), history, 0)
    check(recommender, search, histories)
    kib = recommender.nbytes / USERS / 1024
    users = [str(user) for user in range(USERS)]

    def from_the_whole(number: int) -> Beams:
        batch = whole_batch([histories[number % USERS]], model)
        return generate(model, batch, search.trie, beam_width=BEAMS)

    one = timed(lambda i: recommender.recommend([users[i % USERS]]), 30 if quick else 300)
    whole = timed(from_the_whole, 10 if quick else 60)
    many = timed(lambda _: recommender.recommend(users), 1 if quick else 5)
    items = histories[0][:10]
    single = timed(lambda i: recommender.observe(users[i % USERS], [items[i % 10]], 0), NEW_EVENTS)
    ten = timed(lambda i: recommender.observe(users[i % USERS], items, 0), NEW_EVENTS // 3)
    cuts = statistics.quantiles(one, n=100, method="inclusive")
    return {
        "events": length, "copy head": "yes" if copying else "no",
        "recommend 1 ms": cuts[49], "p99 ms": cuts[98], "whole history 1 ms":
        statistics.median(whole), f"recommend {USERS} ms": statistics.median(many),
        "observe events/s": 1e3 / statistics.median(single),
        "observe 10 events/s": 1e4 / statistics.median(ten), "KiB a user": kib,
    }  # fmt: skip


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; DiffersError if the beams are not those of the whole histories."""
    lengths = LENGTHS[:2] if quick else LENGTHS
    rows = [measure(length, False, quick) for length in lengths]
    return rows if quick else [*rows, *(measure(length, True, quick) for length in lengths)]


def plot(rows: list[Row], path: Path) -> None:
    """Time of a request against the length of the history."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    mine = [row for row in rows if row["copy head"] == "no"]
    draw_growth(axes, mine, "events", ("recommend 1", "whole history 1", f"recommend {USERS}"))
    axes.set_xlabel("events of a user")
    axes.legend()
    save_figure(figure, path)
