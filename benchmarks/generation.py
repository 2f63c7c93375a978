"""Generation end to end, against the decoding scheme of the released code; latency of one user."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import t5_generation
from benchmarks.agreement import DiffersError
from benchmarks.machine import Floors, pages_kept, peak_extra_mib
from benchmarks.output import Row, number, plot_bars
from benchmarks.plain_generation import Found, legal_codes, searching
from benchmarks.plain_glass import PlainGlass
from benchmarks.searches import LEVELS, make_codes
from benchmarks.timing import Clock, interleaved
from benchmarks.training_step import ITEMS, make_model, make_training_batch
from benchmarks.training_step import Setup as Sizes
from glass.config import ModelConfig
from glass.data.batches import Batch
from glass.generation import Beams, generate
from glass.models import Glass
from glass_kernels import SidTrie

Search = Callable[[Batch], Any]
SCORE_TOLERANCE = 1e-4
"""Of a score, a sum of three log-probabilities over eight layers of float32."""


@dataclass(frozen=True)
class Setup:
    users: int
    beams: int = 20


QUICK = [Setup(1)]
FULL = [Setup(1), Setup(32), Setup(128)]


def sharpen(glass: Glass) -> None:
    """Makes codes differ in probability as those of a trained model do."""
    with torch.no_grad():
        glass.decoder.norm.weight.mul_(2)
    glass.eval()


def sharpened() -> tuple[Glass, Tensor]:
    """A model of the released sizes, and the vectors behind its tiers."""
    glass, vectors = make_model(Sizes())
    sharpen(glass)
    return glass, vectors


def make_histories(users: int, seed: int, glass: Glass) -> Batch:
    """50 newest events and 900 older ones a user, on average."""
    return make_training_batch(Sizes(batch_size=users), seed, glass.config.short_length)


def check(name: str, found: Found, beams: Beams) -> None:
    """The same SIDs with the same scores; equal up to rounding, two may have changed places.

    Raises DiffersError.
    """
    if not bool(((found.scores - beams.scores).abs() <= SCORE_TOLERANCE).all()):
        worst = float((found.scores - beams.scores).abs().max())
        raise DiffersError(f"{name}: scores differ by {worst:.1e} from ours")
    pairs = zip(found.codes.tolist(), beams.codes.tolist(), beams.scores.tolist(), strict=True)
    for user, (theirs, ours, scores) in enumerate(pairs):
        sure = [
            tuple(sid)
            for sid, score in zip(ours, scores, strict=True)
            if score > scores[-1] + 2 * SCORE_TOLERANCE
        ]
        if missing := set(sure) - {tuple(sid) for sid in theirs}:
            raise DiffersError(f"{name}: user {user} lacks the SIDs {sorted(missing)[:3]}")


def percentiles(run: Callable[[int], object], calls: int) -> Row:
    """Of single calls one after another, each on the next input."""
    times = []
    for call in range(calls + 3):
        start = Clock.now()
        run(call)
        times.append(1e3 * (Clock.now() - start))
    cuts = statistics.quantiles(times[3:], n=100, method="inclusive")
    return {f"ours p{p} ms": cuts[p - 1] for p in (50, 90, 99)}


def floor_flops(glass: Glass, setup: Setup) -> float:
    """Of the trunk's products: the encoder's pass, and each level's one position a beam."""
    config = glass.config
    width, inner = config.d_model, config.num_heads * config.head_dim
    tokens = config.short_length * glass.num_levels + 1
    feed = 4.0 * width * config.d_ff
    encoder = tokens * (8.0 * width * inner + 4.0 * inner * tokens + feed)
    memory = tokens * 4.0 * width * inner
    beams = 1 + (glass.num_levels - 1) * setup.beams
    # self-attention, both cross-attentions' queries and outputs, attention, the gate
    beam = width * inner * (8.0 + 8.0) + 4.0 * inner * tokens + 4.0 * width * width + feed
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * (
        memory + beams * beam
    )
    return setup.users * layers


@dataclass(frozen=True)
class Sides:
    """Searches of a batch, by the columns' names; each of ours has the opponent of its name."""

    ours: dict[str, Search]
    plain: dict[str, Search]


def glass_sides(glass: Glass, vectors: Tensor, width: int) -> Sides:
    """Ours and the released scheme, with the constraint and without ("free")."""
    plain = PlainGlass(glass, vectors).eval()
    search = partial(generate, glass, trie=trie_of(glass), beam_width=width)
    return Sides(
        {"": search, ", free": partial(search, constrained=False)},
        {"": searching(plain, width, legal_codes(glass.codes)), ", free": searching(plain, width)},
    )


def tiger_sides(width: int) -> tuple[Glass, Sides]:
    """Ours and Hugging Face's T5 with the same weights, with the constraint."""
    torch.manual_seed(0)
    sizes = LEVELS[64]
    tiger = Glass(ModelConfig(use_sid_tier=False, use_hard_search=False), sizes, ITEMS)
    tiger.codes.copy_(make_codes(ITEMS, sizes))
    sharpen(tiger)
    search = partial(generate, tiger, trie=trie_of(tiger), beam_width=width)
    theirs = t5_generation.searching(tiger, width, legal_codes(tiger.codes))
    return tiger, Sides({"": search}, {"": theirs})


def trie_of(glass: Glass) -> SidTrie:
    return SidTrie.build(glass.codes, glass.codebook_sizes)


def contest(glass: Glass, sides: Sides, setup: Setup, quick: bool) -> Row:
    """Times and memory of every side; raises DiffersError before anything is timed."""
    batches = [make_histories(setup.users, seed, glass) for seed in range(2)]
    row: Row = {}
    with pages_kept():
        calls: dict[str, Callable[[int], object]] = {}
        for (name, ours), batch in zip(sides.ours.items(), batches, strict=False):
            check(f"plain{name}", sides.plain[name](batch), ours(batch))
            calls[f"ours{name}"] = partial(nth, ours, batches)
            calls[f"plain{name}"] = partial(nth, sides.plain[name], batches)
        timings = interleaved(calls, seconds=1.0 if quick else 20.0, least=2 if quick else 3)
        for name, timing in timings.items():
            row |= timing.columns(name)
        for name in sides.ours:
            row[f"plain / ours{name}"] = timings[f"plain{name}"].ms / timings[f"ours{name}"].ms
        if setup.users == 1:
            many = [make_histories(1, seed, glass) for seed in range(16)]
            row |= percentiles(partial(nth, sides.ours[""], many), 20 if quick else 300)
    row["ours users / s"] = 1e3 * setup.users / number(row["ours ms"])
    row["ours extra MiB"] = peak_extra_mib(partial(sides.ours[""], batches[0]))
    row["plain extra MiB"] = peak_extra_mib(partial(sides.plain[""], batches[0]))
    return row


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side's beams differ."""
    rows = []
    glass, vectors = sharpened()
    for setup in QUICK if quick else FULL:
        sides = glass_sides(glass, vectors, setup.beams)
        row: Row = {"model": "GLASS", "B": setup.users, "W": setup.beams}
        row |= contest(glass, sides, setup, quick)
        floor = floors.ms(num_bytes=0, flops=floor_flops(glass, setup))
        row |= {"floor ms": floor, "ours / floor": number(row["ours ms"]) / floor}
        rows.append(row)
    if t5_generation.available():
        for setup in (QUICK if quick else FULL)[:2]:
            tiger, sides = tiger_sides(setup.beams)
            row = {"model": "TIGER, plain is T5", "B": setup.users, "W": setup.beams}
            rows.append(row | contest(tiger, sides, setup, quick))
    return rows


def nth(search: Search, batches: list[Batch], number: int) -> object:
    """Batches take turns."""
    return search(batches[number % len(batches)])


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "ours, free ms", "plain, free ms", "plain ms")
    plot_bars(rows, ("model", "B", "threads"), sides, "ms", path)
