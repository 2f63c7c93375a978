"""SIDs of different lengths and filters, in `SidTrie.filter` and `trie_beam_step`."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glass_kernels import SidTrie, TrieFilter, lengths_to_offsets, trie_beam_step
from glass_kernels.trie import AVAILABLE

INF = float("inf")
NAN = float("nan")
BACKENDS = ("cpp", "eager", "reference") if AVAILABLE else ("eager", "reference")

# Items 2 and 5 share a SID. Depth 1: 0 1 2. Depth 2: 0. 01 10 20. Depth 3: 0.. 01. 012 100 20.
SIDS = torch.tensor([[0, -1, -1], [0, 1, -1], [0, 1, 2], [1, 0, 0], [2, 0, -1], [0, 1, 2]])
SIZES = (4, 3, 3)
TRIE = SidTrie.build(SIDS, SIZES)
ROOT = torch.zeros(1, 1, dtype=torch.int32)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def jagged(rows):
    """(item_ids, offsets) of lists of items."""
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return items, lengths_to_offsets(torch.tensor([len(row) for row in rows], dtype=torch.int64))


def listed(trie_filter, level, request):
    offsets = trie_filter.offsets[level]
    return trie_filter.nodes[level][offsets[request] : offsets[request + 1]].tolist()


def step(trie, level, logits, scores, nodes, width, **options):
    """Lists of one request: scores, nodes, parents, codes."""
    results = trie_beam_step(
        torch.tensor([logits]), torch.tensor([scores]), torch.tensor([nodes]), trie, level, width,
        **options,
    )  # fmt: skip
    return [result[0].tolist() for result in results]


@st.composite
def catalogues(draw):
    """(SIDs padded with -1, codebook sizes), small enough to collide and to be prefixes often."""
    sizes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    sid = st.integers(1, len(sizes)).flatmap(
        lambda length: st.tuples(*(st.integers(0, size - 1) for size in sizes[:length]))
    )
    sids = draw(st.lists(sid, min_size=1, max_size=20))
    return [(*sid, *[-1] * (len(sizes) - len(sid))) for sid in sids], sizes


class TestEnds:
    def test_an_end_keeps_its_score_and_comes_first(self, backend):
        # On node 0 (codes 0): its end, and code 1, which is sure. Both have score -1.
        scores, nodes, parents, codes = step(
            TRIE, 1, [[9.0, 3.0, 9.0], [NAN, NAN, NAN]], [-1.0, -2.0], [0, -1], 3, backend=backend
        )
        assert scores == [-1.0, -1.0, -INF]
        assert (nodes, parents, codes) == ([0, 1, -1], [0, 0, 0], [-1, 1, -1])

    def test_an_end_has_no_part_in_the_softmax_over_all_codes(self, backend):
        scores, nodes, _, codes = step(
            TRIE, 1, [[0.0, 0.0, 0.0]], [-1.0], [0], 3, backend=backend, mask_before_softmax=False
        )
        torch.testing.assert_close(scores[:2], [-1.0, -1.0 - float(torch.tensor(3.0).log())])
        assert (scores[2], nodes, codes) == (-INF, [0, 1, -1], [-1, 1, -1])

    @pytest.mark.parametrize("mask", [True, False])
    def test_an_ended_beam_passes_through_whatever_the_logits(self, backend, mask):
        for value in (NAN, INF, -INF, 0.0):
            scores, nodes, parents, codes = step(
                TRIE, 2, [[value] * 3] * 2, [-3.0, -0.5], [0, 3], 2, backend=backend,
                mask_before_softmax=mask,
            )  # fmt: skip
            assert scores == [-0.5, -3.0]
            assert (nodes, parents, codes) == ([4, 0], [1, 0], [-1, -1])

    @pytest.mark.parametrize("score", [NAN, -INF])
    def test_an_ended_beam_without_score_is_dead(self, backend, score):
        scores, nodes, parents, codes = step(TRIE, 2, [[0.0] * 3], [score], [0], 1, backend=backend)
        assert (scores, nodes, parents, codes) == ([-INF], [-1], [0], [-1])


class TestFilter:
    def test_exclude_by_hand(self):
        # Request 0 excludes one of two items of 012; request 1 both, and all below 1; request 3
        # everything.
        lists = [[2, 0], [5, 3, 2, 5], [], [0, 1, 2, 3, 4, 5]]
        excluded = TRIE.filter(exclude=jagged(lists))
        assert [listed(excluded, 2, request) for request in range(4)] == [
            [0], [2, 3], [], [0, 1, 2, 3, 4],
        ]  # fmt: skip
        assert [listed(excluded, 1, request) for request in range(4)] == [
            [0], [2], [], [0, 1, 2, 3],
        ]  # fmt: skip
        assert [listed(excluded, 0, request) for request in range(4)] == [[], [1], [], [0, 1, 2]]
        assert (len(excluded), excluded.keeps, excluded.device.type) == (4, False, "cpu")
        assert {nodes.dtype for nodes in excluded.nodes} == {torch.int32}
        assert {offsets.dtype for offsets in excluded.offsets} == {torch.int64}
        assert "4 requests, removes 8 SIDs" in repr(excluded)

    def test_allow_by_hand(self):
        allowed = TRIE.filter(allow=jagged([[5], [4, 1], []]))
        assert [listed(allowed, 2, request) for request in range(3)] == [[2], [1, 4], []]
        assert [listed(allowed, 1, request) for request in range(3)] == [[1], [1, 3], []]
        assert [listed(allowed, 0, request) for request in range(3)] == [[0], [0, 2], []]
        assert allowed.keeps

    def test_allowed_less_excluded(self):
        both = TRIE.filter(allow=jagged([[2, 3, 5], [2, 5]]), exclude=jagged([[2, 3], [2, 5, 0]]))
        assert both.keeps
        assert [[listed(both, level, b) for level in range(3)] for b in range(2)] == [
            [[0], [1], [2]],
            [[], [], []],
        ]

    @settings(deadline=None, max_examples=60)
    @given(catalogues(), st.data())
    def test_against_sets(self, catalogue, data):
        sids, sizes = catalogue
        some = st.lists(st.lists(st.integers(0, len(sids) - 1)), min_size=3, max_size=3)
        # A restricted trie: items that it does not hold are ignored.
        held = data.draw(st.lists(st.integers(0, len(sids) - 1), min_size=1).map(set))
        trie = SidTrie.build(torch.tensor(sids), sizes).restrict(torch.tensor(list(held)))
        allow, exclude = data.draw(some | st.none()), data.draw(some)
        made = trie.filter(exclude=jagged(exclude), allow=None if allow is None else jagged(allow))
        for level, request in itertools.product(range(len(sizes)), range(3)):
            prefixes = sorted({sids[item][: level + 1] for item in held})
            items = [{i for i in held if sids[i][: level + 1] == prefix} for prefix in prefixes]
            removed = set(exclude[request])
            if allow is None:
                nodes = [n for n, under in enumerate(items) if not under - removed]
            else:
                left = set(allow[request]) - removed
                nodes = [n for n, under in enumerate(items) if under & left]
            assert listed(made, level, request) == nodes

    def test_integer_types_and_layouts(self):
        items, offsets = jagged([[5, 2], [0]])
        strided = torch.stack((items, items), 1)[:, 0].int()
        one, other = TRIE.filter(exclude=(items, offsets)), TRIE.filter(exclude=(strided, offsets))
        for a, b in zip((*one.offsets, *one.nodes), (*other.offsets, *other.nodes), strict=True):
            assert torch.equal(a, b)

    def test_no_requests(self):
        none = TRIE.filter(exclude=jagged([]))
        assert len(none) == 0
        results = trie_beam_step(
            torch.zeros(0, 1, 4), torch.zeros(0, 1), ROOT[:0], TRIE, 0, 2, filter=none
        )
        assert [result.shape for result in results] == [(0, 2)] * 4

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "filter needs exclude or allow"),
            ({"exclude": torch.tensor([1])}, r"exclude must be a pair .* was Tensor"),
            ({"allow": jagged([[6]])}, r"allow item_ids must be in \[0, 6\), held 6"),
            ({"exclude": jagged([[-1]])}, "exclude item_ids must be in .* held -1"),
            ({"exclude": (torch.tensor([1.0]), torch.tensor([0, 1]))}, "item_ids must be int32"),
            ({"exclude": (torch.tensor([1]), torch.tensor([0, 2]))}, "must end at the number"),
            ({"exclude": (torch.tensor([1]), torch.tensor([0, 1]).int())}, "offsets must be int64"),
            ({"exclude": jagged([[1]]), "allow": jagged([[1], []])}, "had 1 and 2"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            TRIE.filter(**arguments)


class TestFilteredStep:
    def test_removes_candidates_and_nothing_else(self, backend):
        logits, options = [[3.0, 2.0, 1.0, 50.0]], {"backend": backend}
        free = step(TRIE, 0, logits, [0.0], [0], 3, **options)
        # Removing item 3 removes code 1.
        result = step(TRIE, 0, logits, [0.0], [0], 3, filter=TRIE.filter(exclude=jagged([[3]])),
                      **options)  # fmt: skip
        assert result[0] == [free[0][0], free[0][2], -INF]
        assert result[1:] == [[0, 2, -1], [0, 0, 0], [0, 2, -1]]
        kept = step(TRIE, 0, logits, [0.0], [0], 3, filter=TRIE.filter(allow=jagged([[3]])),
                    **options)  # fmt: skip
        assert kept == [[free[0][1], -INF, -INF], [1, -1, -1], [0, 0, 0], [1, -1, -1]]

    def test_removes_ended_sids(self, backend):
        without = TRIE.filter(exclude=jagged([[0]]))
        result = step(TRIE, 1, [[0.0] * 3], [-1.0], [0], 2, filter=without, backend=backend)
        assert result == [[-1.0, -INF], [1, -1], [0, 0], [1, -1]]

    def test_a_request_that_allows_nothing_has_dead_beams(self, backend):
        nothing = TRIE.filter(allow=jagged([[]]))
        result = step(TRIE, 0, [[0.0] * 4], [0.0], [0], 2, filter=nothing, backend=backend)
        assert result == [[-INF] * 2, [-1] * 2, [0] * 2, [-1] * 2]

    @pytest.mark.parametrize(
        ("trie_filter", "message"),
        [
            (TRIE.filter(exclude=jagged([[1], [2]])), "of the 1 requests of the logits, was of 2"),
            (jagged([[1]]), "filter must be the TrieFilter of trie.filter.*, was tuple"),
            (
                TRIE.restrict(torch.tensor([0, 3, 4])).filter(exclude=jagged([[1]])),
                "filter was made for another trie",
            ),
            (TRIE.filter(exclude=jagged([[1]])).to("meta"), "must be on cpu .* filter.to"),
        ],
    )
    def test_refuses(self, trie_filter, message):
        with pytest.raises(ValueError, match=message):
            trie_beam_step(
                torch.zeros(1, 1, 4), torch.zeros(1, 1), ROOT, TRIE, 0, 2, filter=trie_filter
            )

    def test_a_filter_survives_compilation(self, backend):
        class Step(torch.nn.Module):
            def forward(self, logits, scores, nodes, trie_filter):
                return trie_beam_step(
                    logits, scores, nodes, TRIE, 1, 3, filter=trie_filter, backend=backend
                )

        logits = torch.randn(2, 2, 3)
        nodes = torch.tensor([[0, 1], [2, 0]], dtype=torch.int32)
        without = TRIE.filter(exclude=jagged([[0, 3], [1, 2, 4]]))
        arguments = (logits, torch.zeros(2, 2), nodes, without)
        compiled = torch.compile(Step(), fullgraph=True, backend="aot_eager")(*arguments)
        for one, other in zip(compiled, Step()(*arguments), strict=True):
            assert torch.equal(one, other)


def search_by_lists(logits, prefixes, sizes, width, mask, may_generate):
    """[(score, padded SID)] of beam search written from the definition."""
    beams = [(0.0, ())]
    for depth in range(len(sizes)):
        extended = []
        for score, prefix in beams:
            codes = sorted(p[depth] for p in prefixes[depth] if p[:depth] == prefix)
            legal = [code for code in codes if code >= 0]
            row = logits[depth]
            normaliser = (row[legal] if mask else row).logsumexp(0)
            for code in codes:
                if may_generate((*prefix, code)):
                    gain = float(row[code] - normaliser) if code >= 0 else 0.0
                    extended.append((score + gain, (*prefix, code)))
        beams = sorted(extended, key=lambda beam: -beam[0])[:width]
    return beams


class TestSearch:
    @settings(deadline=None, max_examples=80)
    @given(catalogues(), st.integers(0, 99), st.integers(1, 12), st.booleans(), st.data())
    def test_against_lists(self, catalogue, seed, width, mask, data):
        sids, sizes = catalogue
        trie = SidTrie.build(torch.tensor(sids), sizes)
        generator = torch.Generator().manual_seed(seed)
        logits = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
        listed_items = data.draw(st.lists(st.integers(0, len(sids) - 1)).map(set))
        kind = data.draw(st.sampled_from([None, "exclude", "allow"]))
        removed = {"allow": set(range(len(sids))) - listed_items}.get(kind, listed_items)
        left = {sids[i] for i in range(len(sids)) if kind is None or i not in removed}
        made = trie.filter(**{kind: jagged([listed_items])}) if kind else None
        prefixes = [{sid[: depth + 1] for sid in sids} for depth in range(len(sizes))]
        expected = search_by_lists(
            logits, prefixes, sizes, width, mask,
            lambda prefix: any(sid[: len(prefix)] == prefix for sid in left),
        )  # fmt: skip
        for backend in BACKENDS:
            scores, nodes = torch.zeros(1, 1, dtype=torch.float64), ROOT
            found = torch.zeros(1, 0, dtype=torch.int64)
            for level, row in enumerate(logits):
                scores, nodes, parents, codes = trie_beam_step(
                    row.expand(1, nodes.shape[1], -1), scores, nodes, trie, level, width,
                    filter=made, mask_before_softmax=mask, backend=backend,
                )  # fmt: skip
                if level == 0:
                    found = found.new_zeros(1, 0)
                found = torch.cat((found[parents[0].long()], codes[0, :, None]), 1)
            count = len(expected)
            # Equal scores of different parents may round differently, so ranks may swap there.
            torch.testing.assert_close(
                scores[0, :count], torch.tensor([s for s, _ in expected], dtype=torch.float64)
            )
            assert trie.lookup(found[:count]).tolist() == nodes[0, :count].tolist()
            ranked = [tuple(sid) for sid in found[:count].tolist()]
            assert len(set(ranked)) == count
            assert ranked == [sid for _, sid in expected]
            assert scores[0, count:].tolist() == [-INF] * (width - count)
            assert nodes[0, count:].tolist() == [-1] * (width - count)
            assert codes[0, count:].tolist() == [-1] * (width - count)


def test_filters_are_public():
    assert isinstance(TRIE.filter(exclude=jagged([[0]])), TrieFilter)
