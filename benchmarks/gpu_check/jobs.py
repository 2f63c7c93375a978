"""What is timed of the operations: the contests of the other benchmarks, at a card's sizes.

Each has three sizes: `full` fills a card, `quick` fits anything, `tiny` is for the sanitizer, under
which a kernel runs a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from benchmarks import (
    codebook_assign,
    gated_fusion,
    hard_search,
    hard_search_attention,
    residual_quantize,
    sid_tier,
    sid_tier_embeddings,
    trie_decode,
    trie_step,
)
from benchmarks.catalogues import make_trie
from benchmarks.contest import Contest
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row
from benchmarks.searches import make_neighbours

Size = Literal["full", "quick", "tiny"]
SIZES: tuple[Size, ...] = ("full", "quick", "tiny")


@dataclass(frozen=True)
class Job:
    """A contest on a device, and what bounds it."""

    ops: tuple[str, ...]
    """Operations that it runs: a backend takes part if it has all of them."""
    columns: Row
    make: Callable[[str], Contest]
    """On a device."""
    floor: Callable[[Floors, Contest], float]
    """Milliseconds."""


def of_sid_tier(setup: sid_tier.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        events = len(contest.batches[0].ids)
        size = sid_tier.floor_bytes(events, setup.users, setup.codes, setup.tiers)
        return floors.ms(num_bytes=size)

    def make(device: str) -> Contest:
        return sid_tier.make_contest(setup, device=device, backend=None)

    return Job(("sid_tier",), setup.columns(), make, floor)


def of_embeddings(setup: sid_tier_embeddings.Setup, compiled: bool) -> Job:
    def make(device: str) -> Contest:
        return sid_tier_embeddings.make_contest(
            setup, compiled=compiled, device=device, backend=None
        )

    def floor(floors: Floors, contest: Contest) -> float:
        return sid_tier_embeddings.floor_of(floors, setup, len(contest.batches[0].ids))

    return Job(("sid_tier_from_embeddings",), setup.columns(), make, floor)


def of_search(setup: hard_search.Setup) -> Job:
    def make(device: str) -> Contest:
        neighbours = moved(make_neighbours(setup.codes, setup.neighbours), device)
        search = hard_search.Search(setup.codes, setup.max_items, neighbours)
        return hard_search.make_contest(search, moved(hard_search.make_inputs(setup), device))

    def floor(floors: Floors, contest: Contest) -> float:
        batch = contest.batches[0]
        found = int(contest.reference(batch)[1].sum())
        sets, users = batch.query.numel(), len(batch.query)
        size = hard_search.floor_bytes(
            len(batch.sid1), users, setup.codes, sets, setup.max_items, found
        )
        return floors.ms(num_bytes=size)

    return Job(("bucket_history", "hard_search"), setup.columns(), make, floor)


def of_attention(setup: hard_search_attention.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        size, flops = hard_search_attention.work(setup, contest.batches[0])
        return floors.ms(num_bytes=size, flops=flops)

    make = partial(_on, hard_search_attention.make_contest, setup)
    return Job(("hard_search_attention",), setup.columns(), make, floor)


def of_fusion(setup: gated_fusion.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        return gated_fusion.floor_of(floors, setup, contest.batches[0])

    make = partial(_on, gated_fusion.make_contest, setup)
    return Job(("gated_fusion",), setup.columns(), make, floor)


def of_assign(setup: codebook_assign.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        return codebook_assign.floor_of(floors, setup)

    make = partial(_on, codebook_assign.make_contest, setup)
    return Job(("codebook_assign",), setup.columns(), make, floor)


def of_quantize(setup: residual_quantize.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        size = 4.0 * contest.batches[0].x.numel()
        return floors.ms(num_bytes=size, flops=setup.flops)

    make = partial(_on, residual_quantize.make_contest, setup)
    return Job(("residual_quantize",), setup.columns(), make, floor)


def of_step(setup: trie_step.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        return floors.ms(num_bytes=trie_step.floor_bytes(contest.batches[0]))

    def make(device: str) -> Contest:
        return trie_step.make_contest(moved(trie_step.make_inputs(setup), device))

    return Job(("trie_beam_step",), setup.columns(), make, floor)


def of_decode(setup: trie_decode.Setup) -> Job:
    def floor(floors: Floors, contest: Contest) -> float:
        return floors.ms(num_bytes=trie_decode.floor_bytes(contest.batches[0]))

    def make(device: str) -> Contest:
        inputs = trie_decode.make_inputs(setup, make_trie(setup.sids, setup.items))
        return trie_decode.make_contest(setup, moved(inputs, device))

    return Job(("trie_beam_step",), setup.columns(), make, floor)


def _on(make: Callable[..., Contest], setup: object, device: str) -> Contest:
    return make(setup, device=device)


def _full() -> Iterator[tuple[str, Job]]:
    for tiers in (4, 20):
        yield "sid_tier", of_sid_tier(sid_tier.Setup(users=2_048, tiers=tiers, compiled=True))
    yield "sid_tier", of_sid_tier(sid_tier.Setup("long tail", users=1_024, tiers=20))
    yield "sid_tier", of_sid_tier(sid_tier.Setup(users=2_048, items=1_000_000))
    for tiers in (4, 20):
        setup = sid_tier_embeddings.Setup(tiers, users=512)
        yield "sid_tier_from_embeddings", of_embeddings(setup, compiled=True)
    for codes, items in ((64, 30), (128, 100)):
        search = hard_search.Setup(codes=codes, max_items=items, users=2_048)
        yield "hard_search", of_search(search)
    for backward in (False, True):
        for items in (30, 100):
            layer = hard_search_attention.Setup(512, max_items=items, backward=backward)
            yield "hard_search_attention", of_attention(layer)
    decoding = hard_search_attention.Setup(128, sets=20, positions=1)
    yield "hard_search_attention", of_attention(decoding)
    for backward in (False, True):
        for width in (96, 256):
            yield "gated_fusion", of_fusion(gated_fusion.Setup(backward, width, rows=196_608))
    for backward in (False, True):
        for width in (128, 256):
            assign = codebook_assign.Setup(backward, rows=65_536, width=width)
            yield "codebook_assign", of_assign(assign)
    yield "residual_quantize", of_quantize(residual_quantize.Setup(1_000_000))
    for level in (1, 2, 3):
        yield "trie_beam_step", of_step(trie_step.Setup(1_000_000, level))
    for size in (12_000, 1_000_000):
        yield "trie_decode", of_decode(trie_decode.Setup(size))


def _small(users: int, compiled: bool) -> Iterator[tuple[str, Job]]:
    """One of each, and of passes both."""
    yield "sid_tier", of_sid_tier(sid_tier.Setup(users=users, tiers=20, compiled=compiled))
    embeddings = sid_tier_embeddings.Setup(20, users=users)
    yield "sid_tier_from_embeddings", of_embeddings(embeddings, compiled)
    yield "hard_search", of_search(hard_search.Setup(users=users))
    rows = 32 * users
    for backward in (False, True):
        layer = hard_search_attention.Setup(users, sets=4, max_items=30, backward=backward)
        yield "hard_search_attention", of_attention(layer)
        fusion = gated_fusion.Setup(backward, rows=rows, compiled=compiled)
        yield "gated_fusion", of_fusion(fusion)
        assign = codebook_assign.Setup(backward, rows, 128, compiled=compiled)
        yield "codebook_assign", of_assign(assign)
    quantize = residual_quantize.Setup(16 * rows, dim=64, compiled=compiled)
    yield "residual_quantize", of_quantize(quantize)
    yield "trie_beam_step", of_step(trie_step.Setup(12_000, 1))
    yield "trie_decode", of_decode(trie_decode.Setup(12_000))


def jobs(size: Size) -> dict[str, list[Job]]:
    """Jobs by name."""
    if size == "full":
        pairs = _full()
    else:
        pairs = _small(64, compiled=True) if size == "quick" else _small(2, compiled=False)
    found: dict[str, list[Job]] = {}
    for name, job in pairs:
        found.setdefault(name, []).append(job)
    return found
