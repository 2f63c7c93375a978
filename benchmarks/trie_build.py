"""A catalogue's trie: build, restrict, append, delete and filter, against NumPy and rebuilding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.agreement import check_equal
from benchmarks.machine import Floors, peak_extra_mib
from benchmarks.output import Row, number, plot_bars
from benchmarks.plain_trie import by_lexsort, by_packed_keys
from benchmarks.timing import Side, interleaved
from glass_kernels import SidTrie, library, use_backend

LEVELS, CODES = 4, 256
REQUESTS, LISTED = (1, 128), 1_000
"""Filters are of so many requests, each with so many items."""


@dataclass(frozen=True)
class Setup:
    items: int
    sids: str
    """`uniform`: every code as likely as any other; `clustered`: some are far likelier, which ones
    depends on the codes before."""
    levels: int = LEVELS
    codes: int = CODES

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codes,) * self.levels


QUICK = [Setup(12_000, "clustered")]
FULL = [
    *(Setup(items, sids) for items in (1_000_000, 10_000_000) for sids in ("uniform", "clustered")),
    Setup(5_000_000, "uniform", 3, 1024),
]
CHANGED = 1_000_000
"""Tries of at most so many items are also changed and filtered."""


def make_sids(setup: Setup, seed: int = 0) -> Tensor:
    """int32 [items, levels]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (setup.items, setup.levels)
    if setup.sids == "uniform":
        return torch.randint(setup.codes, shape, generator=generator, dtype=torch.int32)
    ranks = (torch.rand(shape, generator=generator) ** 3 * setup.codes).int()
    before = torch.zeros(setup.items, dtype=torch.int32)
    for codes in ranks.unbind(1):
        codes.add_(before).remainder_(setup.codes)
        before = (before * 31 + codes * 17 + 7) % 100_003
    return ranks


def arrays_of(trie: SidTrie) -> list[Tensor]:
    return [*trie.child_offsets, trie.item_offsets, *trie.child_codes, trie.item_ids]


def in_torch(run: Callable[[], Any]) -> Any:
    """By plain PyTorch."""
    with use_backend("reference"):
        return run()


def check_tries(name: str, tries: Mapping[str, SidTrie]) -> None:
    """All are the first, to the last bit; raises DiffersError."""
    (_, truth), *others = tries.items()
    for side, trie in others:
        for one, other in zip(arrays_of(trie), arrays_of(truth), strict=True):
            check_equal(f"{name} ({side})", one, other)


def side(run: Callable[[], object]) -> Side:
    return lambda _: run()


def timed_row(
    setup: Setup,
    job: str,
    sides: Mapping[str, Callable[[], object]],
    num_bytes: int,
    floors: Floors,
    seconds: float,
) -> Row:
    """A row; the first side is ours, and its peak memory is measured too."""
    times = interleaved({name: side(run) for name, run in sides.items()}, seconds=seconds, least=3)
    ours, *others = times
    row: Row = {
        "job": job, "items": setup.items, "SIDs": setup.sids, "L": setup.levels, "K": setup.codes,
    }  # fmt: skip
    for name, timing in times.items():
        row |= timing.columns(name)
    best = min(others, key=lambda name: times[name].ms)
    row["best other / glass"] = times[best].ms / times[ours].ms
    row["glass / floor"] = times[ours].ms / floors.ms(num_bytes=num_bytes)
    row["glass peak MiB"] = peak_extra_mib(sides[ours])
    return row


def build_row(setup: Setup, sids: Tensor, floors: Floors, seconds: float) -> Row:
    build = partial(SidTrie.build, sids, setup.sizes)
    trie = build()
    check_tries("build", {"torch": in_torch(build), "glass": trie})
    plain = {"lexsort": by_lexsort, "packed keys": by_packed_keys}
    for name, run in plain.items():
        offsets, codes = run(sids, setup.sizes)
        for array, tensor in zip((*offsets, *codes), arrays_of(trie), strict=True):
            check_equal(f"build ({name})", torch.from_numpy(array), tensor)
    sides: dict[str, Callable[[], object]] = {"glass": build, "torch": lambda: in_torch(build)}
    sides |= {name: partial(run, sids, setup.sizes) for name, run in plain.items()}
    row = timed_row(setup, "build", sides, sids.nbytes + trie.nbytes, floors, seconds)
    row["bytes an item"] = trie.nbytes / setup.items
    return row


def restrict_rows(setup: Setup, trie: SidTrie, floors: Floors, seconds: float) -> list[Row]:
    rows = []
    chance = torch.rand(setup.items, generator=torch.Generator().manual_seed(1))
    for share in (0.1, 0.5, 0.99):
        kept = chance < share
        run = partial(trie.restrict, kept)
        tries = {"torch": in_torch(run), "glass": run()}
        check_tries("restrict", tries)
        sides = {"glass": run, "torch": partial(in_torch, run)}
        moved = trie.nbytes + tries["glass"].nbytes
        rows.append(timed_row(setup, f"restrict to {share:.0%}", sides, moved, floors, seconds))
    return rows


def change_rows(
    setup: Setup, sids: Tensor, trie: SidTrie, floors: Floors, seconds: float
) -> list[Row]:
    """Against building all of it again, by our own kernel: nothing is merged elsewhere."""
    rows = []
    for count in (1, 1_000, 100_000):
        if count > setup.items // 10:
            continue
        added = make_sids(Setup(count, setup.sids, setup.levels, setup.codes), seed=2)
        append = partial(trie.append, added)
        whole = torch.cat((sids, added))
        build = partial(SidTrie.build, whole, setup.sizes)
        longer = append()
        check_tries("append", {"rebuilt": build(), "glass": longer})
        moved = trie.nbytes + longer.nbytes
        sides: dict[str, Callable[[], object]] = {"glass": append, "rebuilt": build}
        rows.append(timed_row(setup, f"append {count}", sides, moved, floors, seconds))

        delete = partial(longer.delete, torch.arange(setup.items, setup.items + count))
        build = partial(SidTrie.build, sids, setup.sizes)
        check_tries("delete", {"rebuilt": build(), "glass": delete()})
        sides = {"glass": delete, "rebuilt": build}
        rows.append(timed_row(setup, f"delete {count}", sides, moved, floors, seconds))
    return rows


def filter_rows(setup: Setup, trie: SidTrie, floors: Floors, seconds: float) -> list[Row]:
    rows = []
    generator = torch.Generator().manual_seed(3)
    for requests in REQUESTS:
        items = torch.randint(setup.items, (requests * LISTED,), generator=generator)
        lists = items, torch.arange(requests + 1) * LISTED
        for kind in ("exclude", "allow"):
            run: Callable[[], Any] = partial(trie.filter, **{kind: lists})
            ours, truth = run(), in_torch(run)
            for one, other in zip(
                (*ours.offsets, *ours.nodes), (*truth.offsets, *truth.nodes), strict=True
            ):
                check_equal(f"filter ({kind})", one, other)
            moved = items.nbytes + sum(nodes.nbytes for nodes in ours.nodes)
            sides: dict[str, Callable[[], object]] = {
                "glass": run, "torch": partial(in_torch, run),
            }  # fmt: skip
            job = f"{kind} {requests} x {LISTED}"
            rows.append(timed_row(setup, job, sides, moved, floors, seconds))
    return rows


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs."""
    loaded, why = library.load("cpp")
    if not loaded:
        raise RuntimeError(f"trie_build: no C++ library: {why}")
    rows, seconds = [], 0.1 if quick else 3.0
    for setup in QUICK if quick else FULL:
        sids = make_sids(setup)
        rows.append(build_row(setup, sids, floors, seconds))
        if setup.items <= CHANGED:
            trie = SidTrie.build(sids, setup.sizes)
            rows += restrict_rows(setup, trie, floors, seconds)
            rows += change_rows(setup, sids, trie, floors, seconds)
            rows += filter_rows(setup, trie, floors, seconds)
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("glass ms", "torch ms", "lexsort ms", "packed keys ms", "rebuilt ms")
    kept = [row for row in rows if number(row["items"]) <= CHANGED]
    plot_bars(kept, ("job", "items", "SIDs"), sides, "milliseconds", path)
