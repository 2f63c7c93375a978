"""Options of generate(): filters, where the mask is put, diversity, and SIDs that end early."""

from __future__ import annotations

import pytest
import torch
from generation_cases import (
    CATALOGUE,
    HISTORIES,
    SIDS,
    TIGER,
    TRIE,
    alive,
    assert_same,
    histories,
    sharp_model,
)
from slow_beam import END, Sid, slow_beam_search
from toy import SIZES, SMALL

from glass.config import ModelConfig
from glass.generation import Beams, generate
from glass.generation import beam as beam_module
from glass_kernels import SidTrie, TrieFilter, lengths_to_offsets

USERS = len(HISTORIES)
Lists = list[list[int]]
SHORTER = torch.from_numpy(SIDS).clone()
SHORTER[::3, 2] = END  # some of them prefixes of others
SHORTER[7:16, 1:] = END
ENDING = SidTrie.build(SHORTER, SIZES)


def jagged(lists: Lists) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([item for part in lists for item in part], dtype=torch.int64)
    return values, lengths_to_offsets(torch.tensor([len(part) for part in lists]))


SEEN = jagged([list(range(0, 40, 2)), [], list(range(38)), [5, 5, 6]])
OPEN = jagged([[1, 2, 3, 30], list(range(40)), [], [7]])
FILTERS = {
    "seen": TRIE.filter(exclude=SEEN),
    "allowed": TRIE.filter(allow=OPEN),
    "both": TRIE.filter(exclude=SEEN, allow=OPEN),
}


def left(name: str, row: int) -> set[Sid]:
    """SIDs of which a user may get an item."""

    def of(lists: tuple[torch.Tensor, torch.Tensor]) -> set[int]:
        values, offsets = lists
        return set(values[offsets[row] : offsets[row + 1]].tolist())

    items = set(range(40)) if name == "seen" else of(OPEN)
    if name != "allowed":
        items -= of(SEEN)
    return {tuple(SIDS[item].tolist()) for item in items}


@pytest.mark.parametrize("width", [4, 50])
@pytest.mark.parametrize("name", FILTERS)
def test_filter_takes_sids_away_and_leaves_scores(name: str, width: int) -> None:
    model = sharp_model()
    beams = generate(model, histories(), TRIE, beam_width=width, filter=FILTERS[name])
    for row in range(USERS):
        batch = histories(rows=slice(row, row + 1))
        allowed = left(name, row)
        levels = slow_beam_search(model, batch, width, CATALOGUE, allowed=allowed)
        assert_same(alive(beams, row), levels[-1])
        if width == 50:
            assert {sid for _, sid in alive(beams, row)} == allowed


def test_filter_that_leaves_nothing_gives_dead_beams_alone() -> None:
    nothing = TRIE.filter(allow=jagged([[]] * USERS))
    beams = generate(sharp_model(), histories(), TRIE, beam_width=3, filter=nothing)
    assert beams.scores.isneginf().all()
    assert (beams.codes == -1).all()
    assert (beams.nodes == -1).all()
    assert all((prefix == -1).all() for prefix in beams.prefixes)


@pytest.mark.parametrize("width", [4])
def test_mask_after_softmax_keeps_the_probability_of_illegal_codes(width: int) -> None:
    model = sharp_model()
    beams = generate(model, histories(), TRIE, beam_width=width, mask_before_softmax=False)
    for row in range(USERS):
        batch = histories(rows=slice(row, row + 1))
        levels = slow_beam_search(model, batch, width, CATALOGUE, mask_before_softmax=False)
        assert_same(alive(beams, row), levels[-1])


@pytest.mark.parametrize("width", [4, 50])
@pytest.mark.parametrize("config", [SMALL, TIGER], ids=["glass", "tiger"])
def test_sids_that_end_early(config: ModelConfig, width: int) -> None:
    model = sharp_model(config)
    catalogue = {tuple(sid) for sid in SHORTER.tolist()}
    beams = generate(model, histories(config), ENDING, beam_width=width)
    for row in range(USERS):
        levels = slow_beam_search(model, histories(config, slice(row, row + 1)), width, catalogue)
        assert_same(alive(beams, row), levels[-1])
        for prefixes, expected in zip(beams.prefixes, levels, strict=True):
            there = [tuple(prefix) for prefix in prefixes[row].tolist() if prefix[0] >= 0]
            assert there == [sid for _, sid in expected]
    if width == 50:
        assert {sid for _, sid in alive(beams, 0)} == catalogue
    found = ENDING.lookup(beams.codes)
    assert torch.equal(found, beams.nodes)
    assert torch.equal(found < 0, beams.scores.isneginf())


@pytest.mark.parametrize("name", ["plain", "seen", "allowed", "unconstrained", "ending"])
@pytest.mark.parametrize("most", [1, 3])
def test_diversity_is_the_search_with_a_limit_on_sid1(most: int, name: str) -> None:
    model = sharp_model()
    trie = ENDING if name == "ending" else TRIE
    catalogue = {tuple(sid) for sid in SHORTER.tolist()} if name == "ending" else CATALOGUE
    beams = generate(
        model, histories(), trie, beam_width=8, constrained=name != "unconstrained",
        filter=FILTERS.get(name), max_per_sid1=most,
    )  # fmt: skip
    for row in range(USERS):
        levels = slow_beam_search(
            model,
            histories(rows=slice(row, row + 1)),
            8,
            None if name == "unconstrained" else catalogue,
            allowed=left(name, row) if name in FILTERS else None,
            max_per_sid1=most,
        )
        assert_same(alive(beams, row), levels[-1])
        for prefixes, expected in zip(beams.prefixes, levels, strict=True):
            there = [tuple(prefix) for prefix in prefixes[row].tolist() if prefix[0] >= 0]
            assert there == [sid for _, sid in expected]


def test_equal_scores_go_to_the_lower_parent_then_the_lower_code() -> None:
    """A model that says nothing: all orders are ties."""
    model = sharp_model(TIGER)
    with torch.no_grad():
        model.token_table.zero_()
    beams = generate(model, histories(TIGER), TRIE, beam_width=4, constrained=False)
    assert beams.codes[0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    beams = generate(model, histories(TIGER), TRIE, beam_width=4, constrained=False, max_per_sid1=1)
    assert beams.codes[0].tolist() == [[code, 0, 0] for code in range(4)]


def close(one: Beams, other: Beams) -> None:
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.nodes, other.nodes)
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)
    for left_prefix, right_prefix in zip(one.prefixes, other.prefixes, strict=True):
        assert torch.equal(left_prefix, right_prefix)


@pytest.mark.parametrize("name", FILTERS)
def test_parts_of_a_batch_get_their_own_rows_of_a_filter(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sharp_model()
    options = {"beam_width": 5, "filter": FILTERS[name], "max_per_sid1": 2}
    together = generate(model, histories(), TRIE, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(beam_module, "_PART", 3)
    apart = generate(model, histories(), TRIE, **options)  # type: ignore[arg-type]
    close(together, apart)


def test_logits_that_are_not_numbers_end_in_no_beam() -> None:
    model = sharp_model(TIGER)
    with torch.no_grad():
        model.token_table.fill_(torch.nan)
    for constrained in (True, False):
        beams = generate(model, histories(TIGER), TRIE, beam_width=3, constrained=constrained)
        assert beams.scores.isneginf().all()
        assert (beams.codes == -1).all()


@pytest.mark.parametrize("constrained", [True, False])
def test_empty_batch(constrained: bool) -> None:
    nobody = histories().part(torch.zeros(0, dtype=torch.int64))
    beams = generate(sharp_model(), nobody, TRIE, beam_width=3, constrained=constrained)
    assert beams.codes.shape == (0, 3, 3)
    assert beams.scores.shape == beams.nodes.shape == (0, 3)
    assert [prefix.shape for prefix in beams.prefixes] == [(0, 3, 1), (0, 3, 2), (0, 3, 3)]


def test_results_are_ordinary_tensors() -> None:
    beams = generate(sharp_model(), histories(), TRIE, beam_width=3)
    tensors = (beams.codes, beams.scores, beams.nodes, *beams.prefixes)
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in tensors)


def refused(message: str, **options: object) -> None:
    with pytest.raises(ValueError, match=message):
        generate(sharp_model(), histories(), TRIE, **{"beam_width": 2, **options})  # type: ignore[arg-type]


def test_options_that_make_no_sense_are_refused() -> None:
    refused(r"beam_width must be at least 1, was 0", beam_width=0)
    refused(r"max_per_sid1 must be at least 1, was 0", max_per_sid1=0)
    refused(r"filter needs constrained=True", constrained=False, filter=FILTERS["seen"])
    refused(r"filter must be the TrieFilter of trie.filter\(\), was dict", filter={})
    two = TRIE.filter(exclude=jagged([[1], [2]]))
    refused(r"filter must be of the 4 users of the batch, was of 2", filter=two)
    other = TRIE.restrict(torch.arange(9)).filter(exclude=jagged([[1]] * USERS))
    assert isinstance(other, TrieFilter)
    refused(r"filter was made for another trie; make it with trie.filter\(\)", filter=other)
