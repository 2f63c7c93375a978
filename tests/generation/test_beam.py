"""generate() against enumeration of all SIDs and against beam search without any cache."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from generation_cases import (
    CATALOGUE,
    HISTORIES,
    TIGER,
    TRIE,
    alive,
    assert_same,
    histories,
    sharp_model,
)
from slow_beam import Sid, legal_codes, slow_beam_search
from toy import SIZES, SMALL, toy_batch, toy_model, toy_sids

from glass.data.batches import Batch
from glass.generation import generate
from glass.models import Glass
from glass_kernels import SidTrie

CONFIGS = {
    "glass": SMALL,
    "tier first": dataclasses.replace(SMALL, tier_token_last=False, gate_input="state"),
    "copy head": dataclasses.replace(SMALL, copy_head=True, long_history="all"),
    "empty by gate": dataclasses.replace(SMALL, empty_retrieval="gate", num_neighbours=0),
    "tiger": TIGER,
}
WIDE = 50


def enumerate_catalogue(model: Glass, batch: Batch) -> list[tuple[float, Sid]]:
    """(log-probability, SID) of the whole catalogue by teacher forcing, best first."""
    sids = sorted(CATALOGUE)
    codes = torch.tensor(sids)[None]
    encoded = model.encode(batch)
    retrieval = model.retrieve(encoded, codes[..., 0])
    hidden, _ = model.decode(encoded, codes[..., :-1], retrieval)
    totals = [0.0] * len(sids)
    for level in range(len(SIZES)):
        state = hidden[..., level, :]
        logits = model.level_logits(state, level, encoded, retrieval, codes)[0].double().tolist()
        for row, sid in enumerate(sids):
            legal = legal_codes(CATALOGUE, sid[:level])
            mass = sum(math.exp(logits[row][code]) for code in legal)
            totals[row] += logits[row][sid[level]] - math.log(mass)
    return sorted(zip(totals, sids, strict=True), key=lambda pair: (-pair[0], pair[1]))


@pytest.mark.parametrize("name", CONFIGS)
def test_wide_beam_is_the_exact_ranking_of_the_catalogue(name: str) -> None:
    config = CONFIGS[name]
    model = sharp_model(config)
    beams = generate(model, histories(config), TRIE, beam_width=WIDE)
    for row in range(len(HISTORIES)):
        with torch.no_grad():
            expected = enumerate_catalogue(model, histories(config, slice(row, row + 1)))
        found = alive(beams, row)
        assert_same(found, expected)
        assert sum(math.exp(score) for score, _ in found) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_search_is_the_search_over_whole_prefixes(
    name: str, width: int, constrained: bool
) -> None:
    config = CONFIGS[name]
    model = sharp_model(config)
    found = generate(model, histories(config), TRIE, beam_width=width, constrained=constrained)
    catalogue = CATALOGUE if constrained else None
    for row in range(len(HISTORIES)):
        batch = histories(config, slice(row, row + 1))
        levels = slow_beam_search(model, batch, width, catalogue)
        assert_same(alive(found, row), levels[-1])
        for prefixes, beams in zip(found.prefixes, levels, strict=True):
            kept = [tuple(p) for p in prefixes[row].tolist() if p[-1] >= 0]
            assert kept == [sid for _, sid in beams]


def test_search_uses_the_bucket_of_each_beam() -> None:
    """Without SID-Tier and neighbours, the long history changes the SIDs of its buckets alone."""
    config = dataclasses.replace(SMALL, use_sid_tier=False, num_neighbours=0)
    model = sharp_model(config)
    codes = toy_sids().codes[:, 0]
    older = [item for item in range(40) if codes[item] in (1, 4)]
    short = [5, 6, 7, 8]
    with_history, without = (
        {sid: score for score, sid in alive(generate(model, batch, TRIE, beam_width=WIDE), 0)}
        for batch in (toy_batch([h], [[1]], config) for h in ([*older, *short], short))
    )
    for code in range(SIZES[0]):
        same = [
            math.isclose(without[sid], with_history[sid], abs_tol=1e-6)
            for sid in CATALOGUE
            if sid[0] == code
        ]
        assert any(same) == all(same) == (code not in (1, 4)), code


@pytest.mark.parametrize("width", [1, 5, WIDE])
def test_constrained_search_gives_distinct_sids_of_the_catalogue(width: int) -> None:
    beams = generate(sharp_model(), histories(), TRIE, beam_width=width)
    for row in range(len(HISTORIES)):
        sids = [sid for _, sid in alive(beams, row)]
        assert len(sids) == len(set(sids)) == min(width, len(CATALOGUE))
        assert set(sids) <= CATALOGUE
    assert (TRIE.lookup(beams.codes) >= 0).sum() == len(HISTORIES) * min(width, len(CATALOGUE))


def test_beam_wider_than_the_catalogue_ends_in_nothing() -> None:
    beams = generate(sharp_model(), histories(), TRIE, beam_width=WIDE)
    assert beams.codes.shape == (4, WIDE, 3)
    assert beams.codes.dtype == torch.int64
    assert beams.scores.dtype == torch.float32
    dead = beams.scores.isneginf()
    assert dead.sum(1).tolist() == [WIDE - len(CATALOGUE)] * 4
    assert (beams.codes[dead] == -1).all()
    assert (beams.codes[~dead] >= 0).all()
    assert (beams.scores.diff(dim=1).nan_to_num(nan=-1.0) <= 0).all()


def test_unconstrained_search_leaves_the_catalogue_and_its_scores_are_of_all_codes() -> None:
    count = math.prod(SIZES)
    beams = generate(sharp_model(), histories(), TRIE, beam_width=count + 3, constrained=False)
    for row in range(len(HISTORIES)):
        found = alive(beams, row)
        assert len({sid for _, sid in found}) == count > len(CATALOGUE)
        assert sum(math.exp(score) for score, _ in found) == pytest.approx(1, abs=1e-5)
        for _, sid in found:
            assert all(0 <= code < size for code, size in zip(sid, SIZES, strict=True))


def test_prefixes_are_the_beams_of_each_level() -> None:
    beams = generate(sharp_model(), histories(), TRIE, beam_width=6)
    assert [p.shape for p in beams.prefixes] == [(4, 6, 1), (4, 6, 2), (4, 6, 3)]
    assert torch.equal(beams.prefixes[-1], beams.codes)
    for longer, shorter in zip(beams.prefixes[1:], beams.prefixes, strict=False):
        for row in range(4):
            known = {tuple(prefix) for prefix in shorter[row].tolist()}
            assert {tuple(p[:-1]) for p in longer[row].tolist() if p[-1] >= 0} <= known
    first = beams.prefixes[0][..., 0]
    assert (first[:, -1] == -1).all()  # five codes, six beams


@pytest.mark.parametrize("constrained", [True, False])
def test_prefix_of_a_dead_beam_is_minus_one_throughout(constrained: bool) -> None:
    width = math.prod(SIZES) + 1  # wider than whatever there is at every level
    beams = generate(sharp_model(), histories(), TRIE, beam_width=width, constrained=constrained)
    for depth, prefixes in enumerate(beams.prefixes, start=1):
        kept = {sid[:depth] for sid in CATALOGUE} if constrained else None
        count = len(kept) if kept is not None else math.prod(SIZES[:depth])
        dead = (prefixes == -1).any(-1)
        assert (prefixes[dead] == -1).all()
        assert (~dead).sum(1).tolist() == [count] * len(HISTORIES)
        assert not dead[:, :count].any()


@pytest.mark.parametrize("constrained", [True, False])
def test_batch_size_does_not_matter(constrained: bool) -> None:
    model = sharp_model()
    together = generate(model, histories(), TRIE, beam_width=8, constrained=constrained)
    for row in range(len(HISTORIES)):
        alone = generate(
            model, histories(rows=slice(row, row + 1)), TRIE, beam_width=8, constrained=constrained
        )
        assert_same(alive(alone, 0), alive(together, row))


def test_generation_is_deterministic_and_ignores_the_targets() -> None:
    model = sharp_model()
    one, two = (
        generate(model, toy_batch(HISTORIES, targets), TRIE, beam_width=8)
        for targets in ([[1]] * 4, [[5, 6], [30], [2], [0, 1, 2]])
    )
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.scores, two.scores)
    assert not one.scores.requires_grad


def test_restricted_trie_keeps_other_items_out() -> None:
    allowed = torch.arange(10)
    beams = generate(sharp_model(), histories(), TRIE.restrict(allowed), beam_width=WIDE)
    kept = {tuple(codes) for codes in toy_sids().codes[:10].tolist()}
    for row in range(len(HISTORIES)):
        assert {sid for _, sid in alive(beams, row)} == kept


def test_single_level_catalogue() -> None:
    sids = toy_sids(sizes=(5,))
    model = toy_model(SMALL, sids=sids).eval()
    trie = SidTrie.build(torch.from_numpy(sids.codes), (5,))
    beams = generate(model, histories(), trie, beam_width=3)
    assert beams.codes.shape == (4, 3, 1)
    assert beams.scores.isfinite().all()


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training mode; call model\.eval\(\)"):
        generate(toy_model(), histories(), TRIE, beam_width=2)


def test_trie_of_other_codebooks_is_refused() -> None:
    trie = SidTrie.build(torch.from_numpy(toy_sids().codes), (5, 4, 9))
    with pytest.raises(ValueError, match=r"codebook_sizes \(5, 4, 9\), the model \(5, 4, 3\)"):
        generate(sharp_model(), histories(), trie, beam_width=2)


@pytest.mark.parametrize("constrained", [True, False])
def test_beam_width_below_one_is_refused(constrained: bool) -> None:
    with pytest.raises(ValueError, match=r"beam_width must be at least 1, was 0"):
        generate(sharp_model(), histories(), TRIE, beam_width=0, constrained=constrained)
