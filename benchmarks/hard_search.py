"""Hard search: bucketing and searching against eager mask + top-k, at beam 20."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from benchmarks.contest import Contest
from benchmarks.eager_search import search_forms
from benchmarks.histories import make_batch
from benchmarks.machine import Floors
from benchmarks.output import Row, number, plot_bars
from benchmarks.searches import LEVELS, Searches, make_codes, make_neighbours, make_searches
from glass_kernels import HistoryIndex, bucket_history, hard_search, use_backend
from glass_kernels.info import op_backends

BATCHES, ITEMS = 2, 13_000
TAU = 10


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    histories: str = "paper"
    codes: int = 128
    max_items: int = 100
    neighbours: int = 4
    distinct: bool = False
    """Every beam of a user has another code."""
    beams: int = 20
    users: int = 256

    def columns(self) -> Row:
        return {
            "histories": self.histories, "B": self.users, "S": self.beams, "K": self.codes,
            "M": self.max_items, "n": self.neighbours, "codes": "distinct" if self.distinct else "",
        }  # fmt: skip


QUICK = [Setup(users=64)]
FULL = [
    *(Setup(codes=k, max_items=m) for k in (64, 128) for m in (30, 100)),
    *(Setup(codes=k, neighbours=0) for k in (64, 128)),
    Setup(distinct=True),
    Setup("long tail", users=64),
]


@dataclass(frozen=True)
class Search:
    """Both operations, as a decoder calls them for a batch of users."""

    codes: int
    max_items: int
    neighbours: Tensor | None

    def index(self, batch: Searches) -> HistoryIndex:
        return bucket_history(batch.sid1, batch.histories.offsets, self.codes)

    def find(self, index: HistoryIndex, query: Tensor) -> tuple[Tensor, Tensor]:
        return hard_search(
            index, query, max_items=self.max_items, neighbours=self.neighbours, min_items=TAU
        )

    def __call__(self, batch: Searches) -> tuple[Tensor, Tensor]:
        return self.find(self.index(batch), batch.query)


def by_reference(search: Search, batch: Searches) -> tuple[Tensor, Tensor]:
    with use_backend("reference"):
        return search(batch)


def backend_of(op: str) -> str:
    """The one that takes CPU tensors when none is named: what is timed as ours."""
    return next(name for name in op_backends()[op] if name in ("cpp", "eager", "reference"))


def floor_bytes(events: int, users: int, codes: int, sets: int, slots: int, found: int) -> int:
    """Codes read and positions ordered; offsets of all buckets; the result, and what it reads."""
    return 4 * (2 * events + users * (codes + 1) + sets * (2 + slots) + found)


def floor_of(floors: Floors, search: Search, batch: Searches) -> float:
    sets, users = batch.query.numel(), len(batch.query)
    found = int(by_reference(search, batch)[1].sum())
    return floors.ms(
        num_bytes=floor_bytes(len(batch.sid1), users, search.codes, sets, search.max_items, found)
    )


def make_inputs(setup: Setup, num_batches: int = BATCHES) -> list[Searches]:
    codes = make_codes(ITEMS, LEVELS[setup.codes])[:, 0].contiguous()
    batches = []
    for seed in range(num_batches):
        histories = make_batch(setup.histories, setup.users, ITEMS, seed)
        batches.append(
            make_searches(
                histories, codes[histories.ids], setup.codes, setup.beams, seed,
                distinct=setup.distinct,
            )
        )  # fmt: skip
    return batches


def make_contest(search: Search, batches: list[Searches]) -> Contest:
    """The stated opponent sorts masks; `nonzero` and a sort of the history are timed beside."""
    forms = search_forms(search.max_items, search.neighbours, TAU)
    reference = partial(by_reference, search)
    return Contest(
        batches,
        reference=reference,
        ours=search,
        plain={name: form for name, form in forms.items() if name.startswith("top-k")},
        others={"sorted history": reference, "nonzero": forms["nonzero"]},
        yardsticks={"bucket_history": search.index},
    )


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        search = Search(
            setup.codes, setup.max_items, make_neighbours(setup.codes, setup.neighbours)
        )
        batches = make_inputs(setup)
        times = make_contest(search, batches).run(
            seconds=0.5 if quick else 4.0, least=3 if quick else 5
        )
        floor = floor_of(floors, search, batches[0])
        events: Row = {"events": len(batches[0].sid1), "backend": backend_of("hard_search")}
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        rows.append({**setup.columns(), **events, **times, **measured})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "nonzero ms", "sorted history ms", "eager ms, pages kept")
    label = ("histories", "K", "M", "n", "codes", "threads")
    plot_bars(rows, label, (*sides, "eager ms"), "ms", path)
