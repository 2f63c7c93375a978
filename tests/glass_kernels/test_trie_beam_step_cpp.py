"""The C++ steps of beam search where they differ from the reference in how they work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels.trie import AVAILABLE, SidTrie, beam_step, trie_beam_step
from glass_kernels.trie.library import beam_step_cpp, trie_beam_step_cpp
from glass_kernels.trie.reference import beam_step_reference, trie_beam_step_reference

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")

STEP, PLAIN_STEP = torch.ops.glass.trie_beam_step, torch.ops.glass.beam_step
INF, NAN = float("inf"), float("nan")
MOST = torch.finfo(torch.float32).max


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture(params=["base", "avx2", "avx512"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A width the processor lacks is its widest."""
    monkeypatch.setenv("GLASS_CPU_SIMD", request.param)


@dataclass(frozen=True)
class Level:
    """The children of a depth's nodes."""

    offsets: Tensor
    codes: Tensor
    num_codes: int

    @classmethod
    def make(cls, num_nodes: int, num_codes: int, share: float, ends: float, seed: int) -> Level:
        """Each code is a node's child with probability `share`, an end with `ends`."""
        generator = torch.Generator().manual_seed(seed)
        legal = torch.rand(num_nodes, num_codes + 1, generator=generator) < share
        legal[:, 0] = torch.rand(num_nodes, generator=generator) < ends
        offsets = torch.zeros(num_nodes + 1, dtype=torch.int32)
        offsets[1:] = legal.sum(1).cumsum(0)
        return cls(offsets, (legal.nonzero()[:, 1] - 1).int(), num_codes)

    @property
    def num_nodes(self) -> int:
        return len(self.offsets) - 1

    def filter(self, requests: int, share: float, keeps: bool) -> tuple[Tensor, Tensor, bool]:
        """Each child is listed with probability `share`; for the last request none is."""
        chosen = torch.rand(requests, len(self.codes)) < share
        chosen[-1:] = False
        offsets = torch.zeros(requests + 1, dtype=torch.int64)
        offsets[1:] = chosen.sum(1).cumsum(0)
        return offsets, chosen.nonzero()[:, 1].int(), keeps


@dataclass(frozen=True)
class Case:
    logits: Tensor
    scores: Tensor
    nodes: Tensor
    level: Level
    width: int
    mask: bool = True
    filter: tuple[Tensor | None, Tensor | None, bool] = (None, None, False)

    @classmethod
    def make(cls, level: Level, requests: int, beams: int, width: int, **options) -> Case:
        """Logits that are exact in half precision; beams in no order, some dead, some on one
        node."""
        logits = torch.randn(requests, beams, level.num_codes).bfloat16().float()
        scores = -10 * torch.rand(requests, beams)
        nodes = torch.randint(-1, level.num_nodes, (requests, beams))
        return cls(logits, scores, nodes, level, width, **options)

    def arguments(self) -> tuple:
        of_level = self.level.offsets, self.level.codes, int(self.level.offsets.diff().max())
        return (
            self.logits, self.scores, self.nodes, *of_level, self.width, self.mask, *self.filter
        )  # fmt: skip

    def ours(self) -> tuple[Tensor, ...]:
        return trie_beam_step_cpp(*self.arguments())

    def check(self) -> tuple[Tensor, ...]:
        """Ours must be the reference's, but for candidates that rounding puts on a par."""
        found = self.ours()
        everything = self.logits.shape[1] * (self.level.num_codes + 1)
        every = trie_beam_step_reference(*replace(self, width=everything).arguments())
        assert [part.dtype for part in found] == [part.dtype for part in every]
        for row in range(len(self.logits)):
            check_row([part[row] for part in found], [part[row] for part in every])
        return found


def check_row(found: list[Tensor], every: list[Tensor]) -> None:
    """`every` holds all candidates, best first."""
    scores, *candidate = (part.tolist() for part in found)
    best = every[0][: len(scores)].tolist() + [-INF] * (len(scores) - len(every[0]))
    score_of = dict(
        zip(zip(*(p.tolist() for p in every[1:]), strict=True), every[0].tolist(), strict=True)
    )
    seen = set()
    for score, wanted, *which in zip(scores, best, *candidate, strict=True):
        nothing = wanted == -INF
        if nothing:
            assert (score, *which) == (-INF, *NOTHING[len(which)])
            continue
        assert score == pytest.approx(wanted, rel=1e-6, abs=2e-6)
        assert score == pytest.approx(score_of[tuple(which)], rel=1e-6, abs=2e-6)
        assert tuple(which) not in seen
        seen.add(tuple(which))
    assert scores == sorted(scores, reverse=True)


NOTHING = {3: (-1, 0, -1), 2: (0, -1)}
"""(node, parent, code) or (parent, code) where no candidate is left."""

SPARSE = Level.make(7, 40, 0.1, 0.3, 0)
SHAPES = [  # level, B, W, W'
    (Level.make(5, 1, 0.7, 0.5, 0), 3, 2, 4),
    (Level.make(1, 256, 1.0, 0.0, 0), 2, 1, 50),
    (Level.make(9, 300, 0.02, 0.5, 1), 3, 17, 23),
    (Level.make(9, 67, 0.9, 0.2, 2), 2, 30, 1),
    (Level.make(4, 128, 1.0, 0.0, 3), 1, 6, 1_000),
    (SPARSE, 5, 512, 512),
    (SPARSE, 0, 4, 3),
]


@pytest.mark.usefixtures("poisoned", "simd")
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"K{shape[0].num_codes}-W{shape[2]}")
def test_like_the_reference(shape, mask: bool) -> None:
    level, *sizes = shape
    case = Case.make(level, *sizes, mask=mask)
    case.check()
    wide = replace(case, logits=case.logits.double(), scores=case.scores.double())
    for ours, theirs in zip(wide.ours(), trie_beam_step_reference(*wide.arguments()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


@pytest.mark.usefixtures("poisoned")
def test_large_codebook() -> None:
    for mask in (True, False):
        Case.make(Level.make(3, 8192, 0.6, 1.0, 0), 1, 3, 512, mask=mask).check()


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_filters(share: float, keeps: bool, mask: bool) -> None:
    for level in (SPARSE, Level.make(6, 70, 0.9, 0.5, 4), Level.make(30, 9, 0.1, 0.5, 5)):
        case = Case.make(level, 3, 8, 60, mask=mask, filter=level.filter(3, share, keeps))
        scores, nodes, _, _ = case.check()
        for request in range(3):
            starts, listed, _ = case.filter
            mine = set(listed[starts[request] : starts[request + 1]].tolist())
            got = set(nodes[request][scores[request] > -INF].tolist())
            assert got <= mine if keeps else not got & mine


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 9), st.integers(1, 40), st.booleans(),
    st.sampled_from([None, True, False]), st.sampled_from([0.1, 0.5, 1.0]),
)  # fmt: skip
def test_any_values(seed, num_codes, beams, width, mask, keeps, share) -> None:
    """Also what is no number, infinite, or so large that sums overflow."""
    torch.manual_seed(seed)
    level = Level.make(4, num_codes, share, 0.3, seed)
    case = Case.make(level, 2, beams, width, mask=mask)
    special = torch.tensor([NAN, INF, -INF, MOST, -MOST, 1e30, -80.0, 90.0, 0.0])
    odd = special[torch.randint(9, case.logits.shape)]
    logits = torch.where(torch.rand(case.logits.shape) < 0.2, odd, case.logits)
    scores = torch.where(torch.rand(case.scores.shape) < 0.2, odd[..., 0], case.scores)
    scores[scores.isposinf()] = 0.0  # of candidates above all others none is the best
    listed = (None, None, False) if keeps is None else level.filter(2, 0.4, keeps)
    replace(case, logits=logits, scores=scores, filter=listed).check()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 9), st.integers(1, 60))
def test_plain_step(seed, num_codes, beams, width) -> None:
    torch.manual_seed(seed)
    logits, scores = torch.randn(2, beams, num_codes), torch.randn(2, beams)
    logits[torch.rand(logits.shape) < 0.1] = -INF
    scores[torch.rand(scores.shape) < 0.2] = NAN
    ours = beam_step_cpp(logits, scores, width)
    every = beam_step_reference(logits, scores, beams * num_codes)
    for row in range(2):
        check_row([part[row] for part in ours], [part[row] for part in every])


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("width", [1, 7, 64, 65, 200, 2_000])
def test_equal_scores_in_the_order_of_parent_and_code(width: int, mask: bool) -> None:
    # Every node has the same number of children, so equal beams have equal candidates.
    level = Level.make(6, 33, 1.0, 1.0, 0)
    logits = torch.randint(2, (3, 20, 1)).float().expand(3, 20, 33)
    scores = torch.randint(-2, 1, (3, 20)).float()
    case = Case(logits, scores, torch.randint(6, (3, 20)), level, width, mask)
    ours, theirs = case.ours(), trie_beam_step_reference(*case.arguments())
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(
        beam_step_cpp(logits, scores, width)[1], beam_step_reference(logits, scores, width)[1]
    )


@pytest.mark.usefixtures("threads")
def test_threads_and_layouts_give_the_same_bits() -> None:
    level = Level.make(300, 256, 0.3, 0.1, 0)
    torch.manual_seed(5)
    joined = torch.randn(40, 30, 600)
    case = Case.make(level, 40, 30, 30)
    case = replace(case, logits=joined[..., 100:356])
    strided = case.ours()
    torch.set_num_threads(1)
    packed = replace(case, logits=case.logits.contiguous(), nodes=case.nodes.int()).ours()
    turned = replace(case, logits=case.logits.transpose(1, 2).contiguous().transpose(1, 2)).ours()
    for one, other, third in zip(strided, packed, turned, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", [True, False])
def test_half_precision_is_converted_as_it_is_read(dtype: torch.dtype, mask: bool) -> None:
    level = Level.make(20, 130, 0.5, 0.2, 0)
    case = Case.make(level, 3, 10, 40, mask=mask)
    case = replace(case, logits=case.logits.to(dtype), scores=case.scores.to(dtype))
    for scores in (case.scores, case.scores.double()):
        half = replace(case, scores=scores)
        full = replace(half, logits=case.logits.float(), scores=scores.to(scores.dtype))
        for one, other in zip(half.ours(), full.ours(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("num_codes", [7, 256, 8192])
def test_log_probabilities_are_as_exact_as_plain_pytorch(num_codes: int) -> None:
    logits = 5 * torch.randn(4, 1, num_codes)
    exact = logits.double().log_softmax(-1).flatten(1)
    scores, _, codes = beam_step_cpp(logits, torch.zeros(4, 1), num_codes)
    error = (scores - exact.gather(1, codes.long())).abs().max()
    plain = (logits.log_softmax(-1).flatten(1) - exact).abs().max()
    assert error <= 2 * plain


def test_a_beam_of_infinite_score() -> None:
    level = Level.make(1, 5, 1.0, 0.0, 0)
    case = Case(torch.zeros(1, 2, 5), torch.tensor([[0.0, INF]]), torch.zeros(1, 2).int(), level, 7)
    for one, other in zip(case.ours(), trie_beam_step_reference(*case.arguments()), strict=True):
        torch.testing.assert_close(one, other)


BROKEN = [
    ([0, 2, 1], [0, 1]),
    ([0, 1, 3], [0, 1]),
    ([-1, 1, 2], [0, 1]),
    ([0, 1, 2], [0, 4]),
    ([0, 1, 2], [0, -2]),
    ([0, 2, 2], [0, -1]),
    ([0, 3, 3], [0, 2, 4]),
    ([0, 3, 3], [-1, 2, -1]),
    ([0, 6, 6], [-1, 0, 1, 2, 3, 4]),
    ([0, 7, 7], [0] * 7),
]


@pytest.mark.parametrize(("offsets", "codes"), BROKEN)
@pytest.mark.parametrize("mask", [True, False])
def test_a_broken_trie_is_refused(offsets: list[int], codes: list[int], mask: bool) -> None:
    level = Level(torch.tensor(offsets).int(), torch.tensor(codes).int(), 4)
    case = Case(torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.tensor([[0, 1]]), level, 3, mask)
    with pytest.raises(RuntimeError, match="child_offsets must not fall"):
        case.ours()


def test_a_broken_filter_leads_nowhere() -> None:
    case = Case.make(SPARSE, 2, 5, 9)
    starts = torch.tensor([0, 4, 8])
    for keeps in (True, False):
        wild = torch.randint(-(2**31), 2**31 - 1, (8,)).int()
        replace(case, filter=(starts, wild, keeps)).ours()
        for wrong in (starts + 1, starts.flip(0), starts[:2]):
            with pytest.raises(RuntimeError, match="offsets must"):
                replace(case, filter=(wrong, wild, keeps)).ours()


def test_kernel_checks_what_it_is_given() -> None:
    case = Case.make(SPARSE, 2, 3, 5)
    arguments = dict(enumerate(case.arguments()))
    logits, scores, nodes, offsets, codes = case.arguments()[:5]
    STEP(*arguments.values())
    for changed, message in (
        ({0: logits.long()}, "logits and scores must be float32"),
        ({0: logits[0]}, "logits must have 3 dimensions"),
        ({0: logits[:, :0], 1: scores[:, :0], 2: nodes[:, :0]}, "at least one beam"),
        ({1: scores.int()}, "logits and scores must be float32"),
        ({1: scores[:1]}, "scores must have one entry a beam"),
        ({2: nodes[:, :1]}, "nodes must have one entry a beam"),
        ({2: nodes.float()}, "nodes must be int32 or int64"),
        ({2: nodes.clamp(max=6) + 7}, r"nodes must be in \[-1, 7\), held"),
        ({3: offsets.long()}, "child_offsets must be int32"),
        ({3: offsets[:0]}, "child_offsets must not be empty"),
        ({4: codes.long()}, "child_codes must be int32"),
        ({6: 0}, "beam_width must be in"),
        ({8: torch.zeros(3).long()}, "must be given together"),
        ({8: torch.zeros(2).long(), 9: codes}, "filter_offsets must be int64 with B"),
        ({8: torch.zeros(3).int(), 9: codes}, "filter_offsets must be int64 with B"),
        ({8: torch.zeros(3).long(), 9: codes.long()}, "filter_nodes must be int32"),
    ):
        with pytest.raises(RuntimeError, match=message):
            STEP(*(arguments | changed).values())
    with pytest.raises(RuntimeError, match="beam_width must be in"):
        PLAIN_STEP(logits, scores, 0)


def test_a_mistake_in_compiled_code_is_an_error() -> None:
    trie = SidTrie.build(torch.tensor([[0, 2], [1, 0]]), (2, 3))
    logits, scores = torch.randn(1, 2, 3), torch.zeros(1, 2)
    compiled = torch.compile(
        lambda nodes: trie_beam_step(logits, scores, nodes, trie, 1, 2)[1],
        backend="aot_eager", fullgraph=True,
    )  # fmt: skip
    nodes = torch.tensor([[0, 1]])
    assert torch.equal(compiled(nodes), trie_beam_step(logits, scores, nodes, trie, 1, 2)[1])
    with pytest.raises(RuntimeError, match=r"nodes must be in \[-1, 2\), held 2"):
        compiled(nodes + 1)


def test_opcheck() -> None:
    level = Level.make(4, 6, 0.5, 0.5, 0)
    for listed in ((None, None, False), level.filter(2, 0.3, True)):
        case = Case.make(level, 2, 3, 5, filter=listed)
        torch.library.opcheck(STEP, case.arguments())
    torch.library.opcheck(PLAIN_STEP, (case.logits.double(), case.scores, 4))


def test_no_gradient_passes_and_none_is_lost() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    assert not beam_step(logits, torch.zeros(1, 2), 2, backend="cpp")[0].requires_grad
    assert logits.requires_grad
