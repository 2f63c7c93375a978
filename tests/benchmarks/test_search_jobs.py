"""Hard search, its attention and the fusion: opponents are right, wrong sides are not timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import gated_fusion, hard_search, hard_search_attention, hard_search_growth
from benchmarks.agreement import FLOAT32, DiffersError, exactly, float32_close
from benchmarks.eager_attention import Layer
from benchmarks.eager_search import search_forms
from benchmarks.hard_search import Search, by_reference
from benchmarks.histories import Batch
from benchmarks.output import Row
from benchmarks.searches import Searches, make_neighbours, make_searches

SEARCH_FORMS = tuple(search_forms(1, None, 0))


def small_searches(num_codes: int = 6, sets: int = 7) -> Searches:
    """Users with 9, 0, 1 and 30 events; code 0 does not occur, code 1 is most of the last user."""
    lengths = torch.tensor([9, 0, 1, 30])
    generator = torch.Generator().manual_seed(0)
    sid1 = torch.randint(1, num_codes, (40,), generator=generator).int()
    sid1[15:] = 1
    query = torch.randint(0, num_codes, (4, sets), generator=generator)
    return Searches(Batch(torch.zeros(40).long(), lengths), sid1, query, num_codes)


@pytest.mark.parametrize("form", SEARCH_FORMS)
@pytest.mark.parametrize("max_items", [1, 4, 12, 50])
@pytest.mark.parametrize("neighbours", [0, 3])
def test_search_forms_are_the_reference(form: str, max_items: int, neighbours: int) -> None:
    batch = small_searches()
    search = Search(batch.num_codes, max_items, make_neighbours(batch.num_codes, neighbours))
    forms = search_forms(max_items, search.neighbours, hard_search.TAU)
    exactly(form, forms[form](batch), by_reference(search, batch), batch)


def test_repeated_and_own_neighbours_are_skipped_by_the_opponent() -> None:
    batch = small_searches()
    neighbours = torch.tensor([[1, 1, 2], [1, 2, 2], [3, 3, 3], [4, 3, 5], [0, 1, 0], [5, 5, 1]])
    search = Search(batch.num_codes, 20, neighbours.int())
    for name, form in search_forms(20, neighbours.int(), hard_search.TAU).items():
        exactly(name, form(batch), by_reference(search, batch), batch)


def test_a_wrong_search_is_not_timed() -> None:
    batch = small_searches()
    search = Search(batch.num_codes, 4, None)

    def oldest_first(batch: Searches) -> tuple[Tensor, Tensor]:
        positions, lengths = search(batch)
        return positions.flip(2), lengths

    contest = replace(hard_search.make_contest(search, [batch]), ours=oldest_first)
    with pytest.raises(DiffersError, match="ours"):
        contest.run(seconds=0.0)


def test_beams_share_codes_unless_distinct() -> None:
    setup = hard_search.Setup(users=5, codes=64)
    (shared,) = hard_search.make_inputs(setup, 1)
    (distinct,) = hard_search.make_inputs(replace(setup, distinct=True), 1)
    assert all(len(set(row.tolist())) < 20 for row in shared.query)
    assert all(len(set(row.tolist())) == 20 for row in distinct.query)
    history = Batch(torch.zeros(0).long(), torch.zeros(3).long())
    assert make_searches(history, torch.zeros(0).int(), 8, 4, 0).query.shape == (3, 4)


def test_floor_of_a_search_counts_what_must_move() -> None:
    found = hard_search.floor_bytes(events=10, users=2, codes=8, sets=6, slots=4, found=7)
    assert found == 4 * (10 + 10 + 2 * 9 + 6 + 6 * 4 + 6 + 7)


def test_growth_is_drawn_without_every_side(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"sweep": "L", "L": length, "threads": 1, "ours ms": 1.0} for length in (10, 100)
    ]
    hard_search_growth.plot(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 0


ATTENTION = hard_search_attention.Setup(users=3, sets=3, positions=2, max_items=7)


def layer_with_an_empty_set() -> Layer:
    layer = hard_search_attention.make_layer(ATTENTION, 0)
    lengths = layer.lengths.clone()
    lengths[0, 1] = 0
    return replace(layer, lengths=lengths)


@pytest.mark.parametrize("backward", [False, True])
def test_attention_forms_are_the_reference(backward: bool) -> None:
    setup = replace(ATTENTION, backward=backward)
    contest = hard_search_attention.make_contest(setup, 1)
    layer = layer_with_an_empty_set()
    truth = contest.reference(layer)
    assert len(truth) == (4 if backward else 1)
    for name, form in {"ours": contest.ours, **contest.plain, **contest.others}.items():
        float32_close(name, form(layer), truth, layer)
        assert float(form(layer)[0][0, 1].abs().max()) == 0.0


def test_a_wrong_gradient_is_not_timed() -> None:
    contest = hard_search_attention.make_contest(replace(ATTENTION, backward=True), 1)

    def wrong(layer: Layer) -> tuple[Tensor, ...]:
        *right, last = contest.ours(layer)
        last = last.clone()
        last.view(-1)[3] += 3 * FLOAT32 * last.abs().max()
        return (*right, last)

    with pytest.raises(DiffersError, match="ours: result 3"):
        replace(contest, ours=wrong).run(seconds=0.0)


def test_not_a_number_is_not_close() -> None:
    truth = torch.ones(3, dtype=torch.float64)
    float32_close("right", torch.ones(3), truth, None)
    with pytest.raises(DiffersError, match="broken"):
        float32_close("broken", torch.tensor([1.0, torch.nan, 1.0]), truth, None)


def test_work_of_attention_counts_distinct_tokens() -> None:
    setup = hard_search_attention.Setup(users=1, sets=2, positions=5, max_items=3)
    layer = hard_search_attention.make_layer(setup, 0)
    tokens = torch.tensor([[1, 70, 200], [1, 71, 200], [2, 70, 200]])
    layer = replace(
        layer,
        tokens=tokens,
        positions=torch.tensor([[[1, 0, -1], [2, -1, -1]]]),
        lengths=torch.tensor([[2, 1]]),
    )
    num_bytes, flops = hard_search_attention.work(setup, layer)
    inner = 6 * 32
    assert flops == 4 * inner * ((4 + 3) * 5 + 320 * 96)
    assert num_bytes == 8 * 10 * inner + 8 * 18


@pytest.mark.parametrize("backward", [False, True])
def test_fusion_forms_are_the_reference(backward: bool) -> None:
    setup = gated_fusion.Setup(backward, width=5, rows=31, compiled=False)
    contest = gated_fusion.make_contest(setup, 1)
    assert not contest.batches[0].has.all()
    contest.check(contest.plain)
