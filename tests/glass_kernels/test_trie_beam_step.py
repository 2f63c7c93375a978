"""Steps of beam search against exhaustive search, and every rule of their contract."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glass_kernels import use_backend
from glass_kernels.trie import AVAILABLE, SidTrie, beam_step, trie_beam_step
from glass_kernels.trie.eager import top_candidates

INF = float("inf")
NAN = float("nan")
BACKENDS = ("cpp", "eager", "reference") if AVAILABLE else ("eager", "reference")

# Depth 1: 0 1 3. Depth 2: 02 10 11 12 30.
SIDS = torch.tensor([[0, 2], [1, 0], [1, 1], [1, 2], [3, 0], [1, 1]])
SIZES = (4, 3)
TRIE = SidTrie.build(SIDS, SIZES)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def logits_of_prefixes(sizes, seed):
    """One float64 row of logits for each prefix: as a model that reads the whole prefix."""
    generator = torch.Generator().manual_seed(seed)
    return {
        prefix: torch.randn(sizes[depth], generator=generator, dtype=torch.float64)
        for depth in range(len(sizes))
        for prefix in itertools.product(*map(range, sizes[:depth]))
    }


def log_prob(logits, prefix, code, leaves, mask_before_softmax):
    """Log-probability of `code` after `prefix`, from the definition."""
    row = logits[prefix]
    legal = sorted({leaf[len(prefix)] for leaf in leaves if leaf[: len(prefix)] == prefix})
    assert code in legal
    return float(row[code] - (row[legal] if mask_before_softmax else row).logsumexp(0))


def search_by_loops(logits, leaves, num_levels, beam_width, mask_before_softmax):
    """[(score, SID)] of beam search written with lists; wide enough it is exhaustive."""
    beams = [(0.0, ())]
    for depth in range(num_levels):
        longer = sorted({leaf[: depth + 1] for leaf in leaves})
        beams = [
            (score + log_prob(logits, prefix, new[-1], leaves, mask_before_softmax), new)
            for score, prefix in beams
            for new in longer
            if new[:-1] == prefix
        ]
        beams = sorted(beams, key=lambda beam: -beam[0])[:beam_width]
    return beams


def search(logits, trie, beam_width, dtype=torch.float64, **options):
    """(scores, SIDs, leaves) after all levels, from `trie_beam_step`; a batch of two equal rows."""
    scores = torch.zeros(2, 1, dtype=dtype)
    nodes = torch.zeros(2, 1, dtype=torch.int32)
    prefixes = torch.zeros(2, 1, 0, dtype=torch.int64)
    for level, size in enumerate(trie.codebook_sizes):
        rows = [
            logits[tuple(prefix)] if min(prefix, default=0) >= 0 else torch.full((size,), NAN)
            for prefix in prefixes[0].tolist()
        ]
        step = torch.stack([row.to(dtype) for row in rows]).expand(2, -1, -1)
        scores, nodes, parents, codes = trie_beam_step(
            step, scores, nodes, trie, level, beam_width, **options
        )
        parents = parents.long()[..., None].expand(-1, -1, level)
        prefixes = torch.cat((prefixes.gather(1, parents), codes[..., None]), -1)
        prefixes[codes < 0] = -1
        assert torch.equal(scores[0], scores[1])
        assert torch.equal(nodes[0], nodes[1])
    return scores[0], prefixes[0], nodes[0]


@st.composite
def catalogues(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return draw(st.lists(sid, min_size=1, max_size=25)), sizes


class TestAgainstLoops:
    @settings(deadline=None, max_examples=60)
    @given(catalogues(), st.integers(0, 99), st.booleans(), st.sampled_from(BACKENDS))
    def test_wide_beam_ranks_the_whole_catalogue(self, catalogue, seed, mask, backend):
        sids, sizes = catalogue
        trie = SidTrie.build(torch.tensor(sids), sizes)
        logits, leaves = logits_of_prefixes(sizes, seed), set(sids)
        # Every leaf by its definition, with no search at all.
        exact = {
            leaf: sum(log_prob(logits, leaf[:d], leaf[d], leaves, mask) for d in range(len(sizes)))
            for leaf in leaves
        }
        width = len(leaves) + 3
        scores, found, nodes = search(
            logits, trie, width, mask_before_softmax=mask, backend=backend
        )
        count = len(leaves)
        ranked = sorted(leaves, key=lambda leaf: -exact[leaf])
        assert [tuple(sid) for sid in found[:count].tolist()] == ranked
        expected = torch.tensor([exact[leaf] for leaf in ranked], dtype=torch.float64)
        torch.testing.assert_close(scores[:count], expected)
        assert trie.leaf_sids()[nodes[:count]].tolist() == found[:count].tolist()
        assert scores[count:].tolist() == [-INF] * 3
        assert nodes[count:].tolist() == [-1] * 3
        if mask:
            torch.testing.assert_close(scores.exp().sum(), torch.tensor(1.0, dtype=torch.float64))

    @settings(deadline=None, max_examples=60)
    @given(
        catalogues(),
        st.integers(0, 99),
        st.integers(1, 6),
        st.booleans(),
        st.sampled_from(BACKENDS),
    )
    def test_narrow_beam(self, catalogue, seed, width, mask, backend):
        sids, sizes = catalogue
        trie = SidTrie.build(torch.tensor(sids), sizes)
        logits = logits_of_prefixes(sizes, seed)
        expected = search_by_loops(logits, set(sids), len(sizes), width, mask)
        scores, found, nodes = search(
            logits, trie, width, mask_before_softmax=mask, backend=backend
        )
        count = len(expected)
        assert [tuple(sid) for sid in found[:count].tolist()] == [sid for _, sid in expected]
        torch.testing.assert_close(
            scores[:count], torch.tensor([score for score, _ in expected], dtype=torch.float64)
        )
        assert trie.lookup(found[:count]).tolist() == nodes[:count].tolist()
        assert nodes[count:].tolist() == [-1] * (width - count)

    @pytest.mark.parametrize("mask", [True, False])
    def test_restricted_trie_finds_what_a_rebuilt_one_finds(self, backend, mask):
        sizes = (6, 6, 6)
        sids = torch.randint(6, (60, 3), generator=torch.Generator().manual_seed(0))
        kept = torch.arange(0, 60, 3)
        logits = logits_of_prefixes(sizes, 5)
        options = {"mask_before_softmax": mask, "backend": backend}
        restricted = search(logits, SidTrie.build(sids, sizes).restrict(kept), 10, **options)
        rebuilt = search(logits, SidTrie.build(sids[kept], sizes), 10, **options)
        for one, other in zip(restricted, rebuilt, strict=True):
            assert torch.equal(one, other)


class TestByHand:
    def test_root(self, backend):
        logits = torch.tensor([[[0.0, 1.0, 50.0, 2.0]]])
        scores, nodes, parents, codes = trie_beam_step(
            logits, torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int32), TRIE, 0, 2,
            backend=backend,
        )  # fmt: skip
        normaliser = torch.tensor([0.0, 1.0, 2.0]).logsumexp(0)
        torch.testing.assert_close(scores, torch.stack((2 - normaliser, 1 - normaliser))[None])
        assert scores.dtype == torch.float32
        assert (nodes.tolist(), parents.tolist(), codes.tolist()) == ([[2, 1]], [[0, 0]], [[3, 1]])
        assert {nodes.dtype, parents.dtype, codes.dtype} == {torch.int32}

    def test_mask_after_softmax(self, backend):
        logits = torch.tensor([[[0.0, 1.0, 50.0, 2.0]]])
        scores, nodes, _, codes = trie_beam_step(
            logits, torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int32), TRIE, 0, 5,
            mask_before_softmax=False, backend=backend,
        )  # fmt: skip
        torch.testing.assert_close(scores[0, :3], torch.tensor([-48.0, -49.0, -50.0]))
        assert codes.tolist() == [[3, 1, 0, -1, -1]]
        assert nodes.tolist() == [[2, 1, 0, -1, -1]]

    def test_several_beams(self, backend):
        # Beams at 3, dead, 1, 0. Their only children or, for 1, three equal ones.
        scores, nodes, parents, codes = trie_beam_step(
            torch.zeros(1, 4, 3),
            torch.tensor([[-2.0, 9.0, -1.0, -5.0]]),
            torch.tensor([[2, -1, 1, 0]], dtype=torch.int32),
            TRIE, 1, 7, backend=backend,
        )  # fmt: skip
        third = float(-1 - torch.tensor(3.0).log())
        torch.testing.assert_close(scores[0, :5], torch.tensor([-2.0, third, third, third, -5.0]))
        assert nodes.tolist() == [[4, 1, 2, 3, 0, -1, -1]]
        assert parents.tolist() == [[0, 2, 2, 2, 3, 0, 0]]
        assert codes.tolist() == [[0, 0, 1, 2, 2, -1, -1]]
        assert scores[0, 5:].tolist() == [-INF, -INF]

    def test_unconstrained(self, backend):
        logits = torch.tensor([[[0.0, 1.0], [5.0, -INF], [3.0, 3.0]]])
        scores, parents, codes = beam_step(
            logits, torch.tensor([[0.0, -0.5, -INF]]), 4, backend=backend
        )
        first = torch.tensor([0.0, 1.0]).log_softmax(0)
        expected = torch.tensor([[float(first[1]), -0.5, float(first[0]), -INF]])
        torch.testing.assert_close(scores, expected)
        assert parents.tolist() == [[0, 1, 0, 0]]
        assert codes.tolist() == [[1, 0, 0, -1]]
        assert {parents.dtype, codes.dtype} == {torch.int32}


class TestTies:
    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 40), st.data())
    def test_top_candidates_is_a_stable_sort(self, seed, num_rows, num_columns, data):
        generator = torch.Generator().manual_seed(seed)
        total = torch.randint(-2, 3, (num_rows, num_columns), generator=generator).double()
        total[total == -2] = -INF
        total[total == 1] *= data.draw(st.sampled_from([1, 0.0, -0.0]))
        k = data.draw(st.integers(1, num_columns))
        values, columns = top_candidates(total, k)
        expected, order = total.sort(dim=1, descending=True, stable=True)
        assert torch.equal(values, expected[:, :k])
        assert torch.equal(columns, order[:, :k])

    @pytest.mark.parametrize("width", range(1, 8))
    def test_lowest_parent_then_lowest_code(self, backend, width):
        # Both beams stand on node 1 with equal scores and logits: six equal candidates.
        scores, nodes, parents, codes = trie_beam_step(
            torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.int64), TRIE, 1,
            width, backend=backend,
        )  # fmt: skip
        count = min(width, 6)
        assert parents[0, :count].tolist() == [0, 0, 0, 1, 1, 1][:count]
        assert codes[0, :count].tolist() == [0, 1, 2, 0, 1, 2][:count]
        assert nodes[0, :count].tolist() == [1, 2, 3, 1, 2, 3][:count]
        assert scores[0, :count].unique().numel() == 1

    @pytest.mark.parametrize("width", range(1, 8))
    def test_unconstrained(self, backend, width):
        _, parents, codes = beam_step(
            torch.ones(1, 2, 3), torch.zeros(1, 2), width, backend=backend
        )
        assert parents[0].tolist() == [0, 0, 0, 1, 1, 1, 0][:width]
        assert codes[0].tolist() == [0, 1, 2, 0, 1, 2, -1][:width]

    @pytest.mark.parametrize("mask", [True, False])
    def test_many_equal_logits(self, mask):
        generator = torch.Generator().manual_seed(3)
        sids = torch.randint(16, (900, 3), generator=generator)
        trie = SidTrie.build(sids, (16, 16, 16))
        # Every node has the same logits for its children, so a beam's candidates are ties.
        logits = torch.zeros(3, 12, 16)
        scores = torch.randint(-2, 1, (3, 12), generator=generator).float()
        nodes = torch.randint(16, (3, 12), generator=generator)
        options = {"mask_before_softmax": mask}
        *fast, slow = (
            trie_beam_step(logits, scores, nodes, trie, 1, 30, backend=b, **options)
            for b in BACKENDS
        )
        for result in (*fast, slow):
            torch.testing.assert_close(result[0], slow[0])
            rows = zip(*(part.tolist() for part in (result[0], *result[2:])), strict=True)
            for row in rows:
                keys = [(-score, parent, code) for score, parent, code in zip(*row, strict=True)]
                assert keys == sorted(keys)


class TestDefinedValues:
    def test_dead_beams_have_no_continuation(self, backend):
        scores, nodes, parents, codes = trie_beam_step(
            torch.randn(2, 3, 3), torch.zeros(2, 3), torch.full((2, 3), -1), TRIE, 1, 4,
            backend=backend,
        )  # fmt: skip
        assert bool((scores == -INF).all())
        assert bool((nodes == -1).all())
        assert bool((codes == -1).all())
        assert bool((parents == 0).all())

    def test_the_rest_of_one_step_is_dead_in_the_next(self, backend):
        scores, nodes, _, _ = trie_beam_step(
            torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int32), TRIE, 0,
            9, backend=backend,
        )  # fmt: skip
        scores, nodes, parents, codes = trie_beam_step(
            torch.full((1, 9, 3), NAN).index_fill(1, torch.arange(3), 0.0), scores, nodes, TRIE, 1,
            9, backend=backend,
        )  # fmt: skip
        assert nodes.tolist() == [[0, 4, 1, 2, 3, -1, -1, -1, -1]]
        assert parents.tolist() == [[0, 2, 1, 1, 1, 0, 0, 0, 0]]
        assert codes.tolist() == [[2, 0, 0, 1, 2, -1, -1, -1, -1]]
        torch.testing.assert_close(scores[0, :5].exp().sum(), torch.tensor(1.0))

    @pytest.mark.parametrize("mask", [True, False])
    @pytest.mark.parametrize("undefined", [NAN, -INF])
    def test_nan_counts_as_minus_infinity(self, backend, mask, undefined):
        logits = torch.tensor([[[1.0, undefined, 2.0], [undefined] * 3]])
        scores, nodes, parents, codes = trie_beam_step(
            logits, torch.zeros(1, 2), torch.tensor([[1, 1]]), TRIE, 1, 4,
            mask_before_softmax=mask, backend=backend,
        )  # fmt: skip
        expected = torch.tensor([1.0, 2.0]).log_softmax(0)
        torch.testing.assert_close(scores[0, :2], expected.flip(0))
        assert codes.tolist() == [[2, 0, -1, -1]]
        assert nodes.tolist() == [[3, 1, -1, -1]]
        assert parents.tolist() == [[0, 0, 0, 0]]
        assert scores[0, 2:].tolist() == [-INF, -INF]

    def test_nan_of_an_illegal_code_does_no_harm(self, backend):
        logits = torch.tensor([[[0.0, 0.0, NAN, 0.0]]])
        for mask in (True, False):
            scores, _, _, codes = trie_beam_step(
                logits, torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int32), TRIE, 0, 3,
                mask_before_softmax=mask, backend=backend,
            )  # fmt: skip
            torch.testing.assert_close(scores, torch.full((1, 3), 1 / 3).log())
            assert codes.tolist() == [[0, 1, 3]]

    @pytest.mark.parametrize("mask", [True, False])
    def test_plus_infinity_is_the_largest_number(self, backend, mask):
        logits = torch.tensor([[[INF, 0.0, INF]]])
        scores, _, _, codes = trie_beam_step(
            logits, torch.zeros(1, 1), torch.tensor([[1]]), TRIE, 1, 2,
            mask_before_softmax=mask, backend=backend,
        )  # fmt: skip
        assert codes.tolist() == [[0, 2]]
        torch.testing.assert_close(scores, torch.full((1, 2), 0.5).log())

    @pytest.mark.parametrize("score", [NAN, -INF])
    def test_a_beam_without_score_is_dead(self, backend, score):
        scores = torch.tensor([[score, -7.0]])
        _, nodes, parents, _ = trie_beam_step(
            torch.zeros(1, 2, 3), scores, torch.tensor([[1, 2]]), TRIE, 1, 3, backend=backend
        )
        assert nodes.tolist() == [[4, -1, -1]]
        assert parents.tolist() == [[1, 0, 0]]
        _, parents, codes = beam_step(torch.zeros(1, 2, 1), scores, 3, backend=backend)
        assert (parents.tolist(), codes.tolist()) == ([[1, 0, 0]], [[0, -1, -1]])

    @pytest.mark.parametrize("backend", ["eager", "reference"])
    def test_a_node_that_the_trie_lacks_is_dead_where_values_are_not_checked(
        self, backend, monkeypatch
    ):
        monkeypatch.setattr("glass_kernels.checks.checks_values", lambda value: False)
        nodes = torch.tensor([[99, 2]])
        result = trie_beam_step(
            torch.zeros(1, 2, 3), torch.zeros(1, 2), nodes, TRIE, 1, 2, backend=backend
        )
        assert [part.tolist() for part in result] == [[[0.0, -INF]], [[4, -1]], [[1, 0]], [[0, -1]]]


class TestTypesAndLayouts:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_accumulates_in_float32(self, backend, dtype):
        logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        nodes = torch.tensor([[0, 1, 2], [1, 1, -1]])
        scores = torch.tensor([[0.0, -1.0, -3.0]] * 2).to(dtype)
        half = trie_beam_step(logits, scores, nodes, TRIE, 1, 5, backend=backend)
        full = trie_beam_step(logits.float(), scores.float(), nodes, TRIE, 1, 5, backend=backend)
        for one, other in zip(half, full, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype

    def test_float64_stays_float64(self, backend):
        nodes = torch.zeros(1, 1, dtype=torch.int32)
        scores = torch.zeros(1, 1, dtype=torch.float64)
        for logits in (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4, dtype=torch.float64)):
            result = trie_beam_step(logits, scores, nodes, TRIE, 0, 2, backend=backend)
            assert result[0].dtype == torch.float64
            assert beam_step(logits, scores, 2, backend=backend)[0].dtype == torch.float64

    def test_layouts_and_integer_types(self, backend):
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(3, 5, 4, generator=generator).permute(2, 1, 0)
        scores = torch.randn(5, 4, generator=generator).t()
        nodes = torch.randint(-1, 3, (5, 4), generator=generator).t()
        strided = trie_beam_step(logits, scores, nodes, TRIE, 1, 8, backend=backend)
        packed = trie_beam_step(
            logits.contiguous(), scores.contiguous(), nodes.int().contiguous(), TRIE, 1, 8,
            backend=backend,
        )  # fmt: skip
        for one, other in zip(strided, packed, strict=True):
            assert torch.equal(one, other)

    def test_no_histories(self, backend):
        result = trie_beam_step(
            torch.zeros(0, 2, 3), torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int32), TRIE, 1,
            4, backend=backend,
        )  # fmt: skip
        assert [part.shape for part in result] == [(0, 4)] * 4
        result = beam_step(torch.zeros(0, 2, 3), torch.zeros(0, 2), 9, backend=backend)
        assert [part.shape for part in result] == [(0, 9)] * 3

    def test_no_gradient_passes(self, backend):
        logits = torch.zeros(1, 1, 4, requires_grad=True)
        nodes = torch.zeros(1, 1, dtype=torch.int32)
        step = trie_beam_step(logits, torch.zeros(1, 1), nodes, TRIE, 0, 2, backend=backend)
        assert not step[0].requires_grad
        assert not beam_step(logits, torch.zeros(1, 1), 2, backend=backend)[0].requires_grad

    def test_compiles_and_exports_as_one_graph(self, backend):
        class Step(torch.nn.Module):
            def forward(self, logits, scores, nodes):
                before, after = (
                    trie_beam_step(
                        logits, scores, nodes, TRIE, 1, 5, mask_before_softmax=mask, backend=backend
                    )
                    for mask in (True, False)
                )
                return *before, *after, *beam_step(logits, scores, 5, backend=backend)

        generator = torch.Generator().manual_seed(2)
        arguments = (
            torch.randn(2, 3, 3, generator=generator),
            torch.randn(2, 3, generator=generator),
            torch.tensor([[0, 1, -1], [2, 1, 0]], dtype=torch.int32),
        )
        expected = Step()(*arguments)
        compiled = torch.compile(Step(), fullgraph=True, backend="aot_eager")(*arguments)
        exported = torch.export.export(Step(), arguments).module()(*arguments)
        for results in (compiled, exported):
            for one, other in zip(results, expected, strict=True):
                assert torch.equal(one, other)

    def test_inputs_are_left_alone(self, backend):
        logits = torch.tensor([[[NAN, INF, 1.0]]])
        scores, nodes = torch.tensor([[NAN]]), torch.tensor([[-1]])
        copies = logits.clone(), scores.clone(), nodes.clone()
        trie_beam_step(logits, scores, nodes, TRIE, 1, 2, backend=backend)
        beam_step(logits, scores, 2, backend=backend)
        for one, other in zip((logits, scores, nodes), copies, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=0)


class TestRefuses:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"level": 2}, r"level must be in \[0, 2\), was 2"),
            ({"level": -1}, r"level must be in \[0, 2\), was -1"),
            ({"level": 0}, "logits must have the 4 codes of level 0 last"),
            ({"beam_width": 0}, "beam_width must be at least 1, was 0"),
            ({"logits": torch.zeros(2, 3)}, "logits must have 3 dimensions"),
            ({"logits": torch.zeros(1, 2, 4)}, "logits must have the 3 codes of level 1 last"),
            ({"logits": torch.zeros(1, 0, 3)}, "logits must be .* at least 1"),
            ({"logits": torch.zeros(1, 2, 3, dtype=torch.int64)}, "logits must be float32"),
            ({"scores": torch.zeros(1, 3)}, r"scores must have shape \[1, 2\]"),
            ({"scores": torch.zeros(1, 2, dtype=torch.int32)}, "scores must be float32"),
            ({"scores": torch.zeros(1, 2, device="meta")}, "scores must be on cpu"),
            ({"nodes": torch.zeros(2, dtype=torch.int32)}, r"nodes must have shape \[1, 2\]"),
            ({"nodes": torch.zeros(1, 2)}, "nodes must be int32 or int64"),
            ({"nodes": torch.tensor([[0, 3]])}, r"nodes must be in \[-1, 3\), held 3"),
            ({"nodes": torch.tensor([[-2, 0]])}, r"nodes must be in \[-1, 3\), held -2"),
            ({"trie": SIDS}, "trie must be a SidTrie, was Tensor"),
            ({"trie": TRIE.to("meta")}, "trie must be on cpu .* trie.to"),
            ({"backend": "fast"}, "backend is 'fast'"),
        ],
    )
    def test_bad_input(self, changes, message):
        arguments = {
            "logits": torch.zeros(1, 2, 3),
            "scores": torch.zeros(1, 2),
            "nodes": torch.zeros(1, 2, dtype=torch.int32),
            "trie": TRIE,
            "level": 1,
            "beam_width": 4,
        }
        trie_beam_step(**arguments)
        with pytest.raises(ValueError, match=message):
            trie_beam_step(**arguments | changes)

    def test_bad_input_without_a_trie(self):
        with pytest.raises(ValueError, match="logits must have 3 dimensions"):
            beam_step(torch.zeros(2, 3), torch.zeros(2), 2)
        with pytest.raises(ValueError, match=r"logits must be .* at least 1"):
            beam_step(torch.zeros(2, 3, 0), torch.zeros(2, 3), 2)
        with pytest.raises(ValueError, match="scores must have shape"):
            beam_step(torch.zeros(2, 3, 4), torch.zeros(2, 4), 2)
        with pytest.raises(ValueError, match="beam_width must be at least 1"):
            beam_step(torch.zeros(2, 3, 4), torch.zeros(2, 3), 0)

    def test_a_backend_that_is_missing(self):
        arguments = (torch.zeros(1, 1, 4), torch.zeros(1, 1))
        with use_backend("cuda"), pytest.raises(RuntimeError, match=r"beam_step.*'cuda'"):
            beam_step(*arguments, 2)
        with pytest.raises(RuntimeError, match=r"trie_beam_step.*'cuda'"):
            trie_beam_step(*arguments, torch.zeros(1, 1).int(), TRIE, 0, 2, backend="cuda")
