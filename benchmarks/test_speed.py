"""`python -m pytest benchmarks --benchmark-only`: single sides of the jobs, for pytest-benchmark.

For watching one kernel while working on it. The jobs of `python -m benchmarks` interleave the sides
and have the floors; take ratios from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from benchmarks import (
    codebook_assign,
    gated_fusion,
    hard_search,
    hard_search_attention,
    intrr_models,
    intrr_training,
    residual_quantize,
    sid_tier,
    sid_tier_embeddings,
    sid_tier_update,
    training_step,
    trie_decode,
    trie_step,
    union,
)
from benchmarks.catalogues import make_trie
from benchmarks.contest import Contest
from benchmarks.histories import make_table
from benchmarks.searches import make_neighbours

Benchmark = Callable[[Callable[[], object]], object]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def time_side(benchmark: Benchmark, contest: Contest, side: str) -> None:
    run = contest.ours if side == "ours" else contest.plain[side]
    contest.check({} if side == "ours" else {side: run})
    benchmark(partial(run, contest.batches[0]))


@pytest.mark.parametrize("side", ["ours", "bincount", "scatter_add", "index_add"])
@pytest.mark.parametrize("tiers", [4, 20])
def test_sid_tier(benchmark: Benchmark, tiers: int, side: str) -> None:
    setup = sid_tier.Setup(users=16, tiers=tiers)
    time_side(benchmark, sid_tier.make_contest(setup, num_batches=1), side)


@pytest.mark.parametrize("side", ["ours", "bincount", "scatter_add", "index_add"])
@pytest.mark.parametrize("tiers", [4, 20])
def test_sid_tier_from_embeddings(benchmark: Benchmark, tiers: int, side: str) -> None:
    setup = sid_tier_embeddings.Setup(tiers, users=8)
    time_side(benchmark, sid_tier_embeddings.make_contest(setup, compiled=False), side)


@pytest.mark.parametrize(("side", "remove"), [("add", "remove"), ("eager", "eager remove")])
def test_sid_tier_update(benchmark: Benchmark, side: str, remove: str) -> None:
    """Adds 64 events and removes them, call after call."""
    sid_tier_update.need_library()
    setup = sid_tier_update.Setup(users=32, tiers=20, events=64)
    table = make_table(sid_tier_update.ITEMS, sid_tier_update.CODES, setup.tiers)
    stream = sid_tier_update.make_stream(setup)
    sides = sid_tier_update.sides_of(table)
    sid_tier_update.check(stream, table, sides)

    def there_and_back() -> None:
        stream.apply(sides[side])
        stream.apply(sides[remove])

    benchmark(there_and_back)


@pytest.mark.parametrize("side", ["ours", "top-k float", "top-k, distinct"])
@pytest.mark.parametrize("neighbours", [0, 4])
def test_hard_search(benchmark: Benchmark, neighbours: int, side: str) -> None:
    setup = hard_search.Setup(users=32, neighbours=neighbours)
    search = hard_search.Search(
        setup.codes, setup.max_items, make_neighbours(setup.codes, neighbours)
    )
    contest = hard_search.make_contest(search, hard_search.make_inputs(setup, 1))
    time_side(benchmark, contest, side)


@pytest.mark.parametrize("side", ["ours", "SDPA, trimmed", "SDPA, packed"])
@pytest.mark.parametrize("backward", [False, True])
def test_hard_search_attention(benchmark: Benchmark, backward: bool, side: str) -> None:
    setup = hard_search_attention.Setup(users=8, backward=backward)
    time_side(benchmark, hard_search_attention.make_contest(setup, 1), side)


@pytest.mark.parametrize("side", ["ours", "cat + lerp", "rows"])
@pytest.mark.parametrize("backward", [False, True])
def test_gated_fusion(benchmark: Benchmark, backward: bool, side: str) -> None:
    setup = gated_fusion.Setup(backward, rows=3_072, compiled=False)
    time_side(benchmark, gated_fusion.make_contest(setup, 1), side)


@pytest.mark.parametrize("side", ["ours", "plain"])
def test_training_step(benchmark: Benchmark, side: str) -> None:
    _, steps = training_step.make_steps(training_step.Setup(batch_size=4))
    benchmark(partial(steps[side], 0))


@pytest.mark.parametrize("side", ["ours", "one log-softmax", "logsumexp"])
@pytest.mark.parametrize("backward", [False, True])
def test_codebook_assign(benchmark: Benchmark, backward: bool, side: str) -> None:
    setup = codebook_assign.Setup(backward, rows=2_048, width=128, compiled=False)
    time_side(benchmark, codebook_assign.make_contest(setup, 1), side)


@pytest.mark.parametrize("side", ["ours", "addmm"])
def test_residual_quantize(benchmark: Benchmark, side: str) -> None:
    setup = residual_quantize.Setup(4_096, compiled=False)
    time_side(benchmark, residual_quantize.make_contest(setup), side)


@pytest.mark.parametrize("side", ["ours", "STATIC, narrow"])
def test_trie_step(benchmark: Benchmark, side: str) -> None:
    batches = trie_step.make_inputs(trie_step.Setup(12_000, level=1), 1)
    time_side(benchmark, trie_step.make_contest(batches), side)


@pytest.mark.parametrize("side", ["ours", "STATIC, narrow"])
def test_trie_decode(benchmark: Benchmark, side: str) -> None:
    setup = trie_decode.Setup(12_000)
    batches = trie_decode.make_inputs(setup, make_trie(setup.sids, setup.items))[:1]
    time_side(benchmark, trie_decode.make_contest(setup, batches), side)


@pytest.mark.parametrize("side", list(intrr_models.SIDES))
def test_intrr_training(benchmark: Benchmark, side: str) -> None:
    setup, chosen = intrr_models.Setup("transformer", 8), intrr_models.SIDES[side]
    model = intrr_models.make_model(setup, chosen).train()
    batch = intrr_models.make_histories(setup.users, chosen.items, 0)
    intrr_training.check(side, model, batch)
    benchmark(partial(intrr_training.make_step(model, [batch]), 0))


@pytest.mark.parametrize("side", ["TIGER", "GLASS", "union"])
def test_union_training(benchmark: Benchmark, side: str) -> None:
    model = union.make_model(side).train()
    batch = union.make_batch(union.Setup("training", 4), 0)
    intrr_training.check(side, model, batch)
    benchmark(partial(intrr_training.make_step(model, [batch]), 0))
