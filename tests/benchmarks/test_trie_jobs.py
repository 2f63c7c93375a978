"""Decoding over a catalogue: opponents are right, wrong sides are not timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import trie_decode, trie_growth, trie_step
from benchmarks.agreement import DiffersError
from benchmarks.catalogues import CODES, LEVELS, Decoding, make_decoding, make_sids, make_trie
from benchmarks.output import Row
from benchmarks.plain_decoding import Found, PrefixTable
from benchmarks.trie_decode import Setup, decode, ranks_alike


def small(setup: Setup) -> list[Decoding]:
    trie = make_trie(setup.sids, setup.items)
    return [make_decoding(trie, 2, 7, setup.mask == "before", 0)]


@pytest.mark.parametrize("mask", ["before", "after"])
@pytest.mark.parametrize(("items", "kind"), [(300, "clustered"), (20_000, "random"), (4, "random")])
def test_every_decoding_is_the_reference(items: int, kind: str, mask: str) -> None:
    """With 4 items, fewer SIDs than beams."""
    setup = Setup(items, kind, mask)
    batches = small(setup)
    contest = trie_decode.make_contest(setup, batches)
    table = PrefixTable(make_sids(kind, items))
    contest.check({**contest.plain, **contest.others, "prefix dict": table.decode})
    scores, sids = contest.reference(batches[0])
    found = {tuple(sid) for sid in sids[scores > trie_decode.NEVER].tolist()}
    assert found <= {tuple(sid) for sid in make_sids(kind, items).tolist()}
    assert int((scores[0] > trie_decode.NEVER).sum()) == min(7, items)


@pytest.mark.parametrize("mask", ["before", "after"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_step_is_the_reference(level: int, mask: str) -> None:
    batches = trie_step.make_inputs(trie_step.Setup(2_000, level, mask), 1)
    contest = trie_step.make_contest(batches)
    contest.check({**contest.plain, **contest.others})
    legal = contest.yardsticks["mask alone"](batches[0])
    trie, nodes = batches[0].trie, batches[0].nodes.long()
    assert torch.equal(legal.sum(2), trie.child_offsets[level].diff()[nodes])


def test_a_wrong_decoding_is_not_timed() -> None:
    setup = Setup(300)
    batches = small(setup)
    contest = trie_decode.make_contest(setup, batches)

    def one_code_wrong(batch: Decoding) -> Found:
        scores, sids = decode(batch)
        sids[1, 2, 3] += 1
        return scores, sids

    def one_score_wrong(batch: Decoding) -> Found:
        scores, sids = decode(batch)
        scores[0, 0] += 1e-3
        return scores, sids

    for wrong in (one_code_wrong, one_score_wrong):
        with pytest.raises(DiffersError, match="ours"):
            replace(contest, ours=wrong).run(seconds=0.0)


def test_swapped_by_rounding_is_alike_and_by_more_is_not() -> None:
    scores = torch.tensor([[-1.0, -2.0, -2.00001, -4.0, -trie_decode.BEAMS]])
    sids = torch.arange(5).view(1, 5, 1)
    near = sids[:, [0, 2, 1, 3, 4]]
    ranks_alike("near", (scores, near), (scores, sids), None)
    with pytest.raises(DiffersError, match="SIDs differ"):
        ranks_alike("far", (scores, sids[:, [0, 1, 3, 2, 4]]), (scores, sids), None)
    with pytest.raises(DiffersError, match="scores differ"):
        ranks_alike("none", (scores * torch.nan, sids), (scores, sids), None)


def test_clustered_codes_branch_unevenly() -> None:
    random, clustered = make_trie("random", 20_000), make_trie("clustered", 20_000)
    assert random.nodes_per_depth[1] == clustered.nodes_per_depth[1] == CODES
    assert len(make_sids("clustered", 20_000)[0]) == LEVELS
    spread = [trie.child_offsets[2].diff().float() for trie in (random, clustered)]
    assert spread[1].max() > 5 * spread[0].max()
    assert clustered.num_leaves > 0.5 * 20_000


def test_floor_counts_what_must_move() -> None:
    trie = make_trie("random", 4)
    batch = make_decoding(trie, 1, 2, True, 0)
    roots = trie.nodes_per_depth[1]
    assert roots > 2
    # logits and codes of children, offsets, beams read and written, in words of 4 bytes
    first = 2 * roots + 2 + 2 + 8
    later = 2 * 2 + 2 * 2 + 2 * 2 + 8
    assert trie_decode.floor_bytes(batch) == 4 * (first + 3 * later)


def test_growth_is_drawn_without_every_side(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"SIDs": "random", "mask": mask, "items": items, "threads": 1, "ours ms": 1.0}
        for mask in ("before", "after")
        for items in (10, 100)
    ]
    trie_growth.plot(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 0
