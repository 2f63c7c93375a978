"""Beam search's Triton kernels against every candidate listed, and against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from beam_cases import BeamCase, beam_case
from torch import Tensor

from glass_kernels import SidTrie, beam_step, trie_beam_step, use_backend
from glass_kernels.backend import runs_on
from glass_kernels.trie import _TRIE_BEAM_STEP, cuda
from glass_kernels.trie.reference import trie_beam_step_reference
from glass_kernels.trie.triton_select import _choose

STEP, FREE_STEP = torch.ops.glass.trie_beam_step_triton, torch.ops.glass.beam_step_triton


@triton.jit
def _choose_kernel(values, slots, width, N: tl.constexpr):
    place = tl.arange(0, N)
    slot, chosen, number = _choose(tl.load(values + place), width)
    tl.store(slots + place, tl.where(chosen, slot, -1))
    tl.store(slots + N, number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 13, 64])
def test_threshold_keeps_just_the_first_of_equals(device, dtype, width) -> None:
    for largest in (1, 5, 1000):
        values = torch.randint(-largest, largest, (64,), device=device).to(dtype) / 3
        values[::3] = -torch.inf
        slots = torch.full((65,), -9, dtype=torch.int32, device=device)
        _choose_kernel[(1,)](values, slots, width, N=64)
        order = values.cpu().numpy().astype(np.float64) * -1
        count = min(width, int((order < np.inf).sum()))
        best = np.sort(np.argsort(order, kind="stable")[:count])
        wanted = np.full(64, -1)
        wanted[best] = np.arange(len(best))
        assert slots.tolist() == [*wanted, len(best)]


def tensors(case: BeamCase, device: torch.device, dtype: torch.dtype | None = None) -> tuple:
    """Arguments of the operator; of that without a trie where there is none."""

    def moved(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array).to(device)

    logits, scores = (moved(x).to(dtype) for x in (case.logits, case.scores))
    if case.nodes is None:
        return logits, scores, case.beam_width
    return (
        logits, scores, moved(case.nodes), moved(case.child_offsets), moved(case.child_codes),
        case.max_children, case.beam_width, case.mask_before_softmax,
        moved(case.filter_offsets), moved(case.filter_nodes), case.filter_keeps,
    )  # fmt: skip


def assert_equals_candidates(
    case: BeamCase, device: torch.device, dtype: torch.dtype | None = None, *, exact: bool = False
) -> None:
    arguments = tensors(case, device, dtype)
    if dtype is not None:
        rounded = (x.double() if dtype == torch.float64 else x.float() for x in arguments[:2])
        logits, scores = (x.cpu().numpy() for x in rounded)
        case = replace(case, logits=logits, scores=scores)
    found = [x.cpu().numpy() for x in (FREE_STEP if case.nodes is None else STEP)(*arguments)]
    if case.nodes is None:
        found.insert(1, None)
    assert found[0].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert {x.dtype for x in found[1:] if x is not None} == {np.dtype(np.int32)}
    case.assert_found(*found, exact=exact)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "arguments",
    [
        {"beams": 1, "codes": 1, "width": 1, "share": 1.0},
        {"beams": 5, "codes": 7, "width": 4, "wild": True},
        {"beams": 5, "codes": 7, "width": 60, "wild": True, "mask": False},
        {"beams": 9, "codes": 33, "width": 9, "ends": True, "filtered": False},
        {"beams": 6, "codes": 50, "width": 70, "ends": True, "filtered": True, "mask": False},
        {"beams": 3, "codes": 70, "width": 20, "trie": False, "wild": True},
    ],
)
def test_equals_every_candidate(device: torch.device, arguments: dict) -> None:
    assert_equals_candidates(beam_case(2, **arguments), device)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(device: torch.device, dtype: torch.dtype) -> None:
    precise = np.float64 if dtype == torch.float64 else np.float32
    case = beam_case(1, 8, 30, 25, ends=True, filtered=False, wild=True, dtype=precise)
    assert_equals_candidates(case, device, dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("trie", [True, False])
def test_ties(device: torch.device, trie: bool) -> None:
    case = beam_case(1, 30, 9, 25, trie=trie, ends=True, ties=True)
    assert_equals_candidates(case, device, exact=True)


def test_minus_zero_is_zero(device: torch.device) -> None:
    case = beam_case(1, 3, 4, 1, ends=True)
    case.nodes[:] = 0  # a SID that has ended
    case.scores[:] = [-1.0, -0.0, 0.0]
    assert_equals_candidates(case, device, exact=True)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(("beams", "codes", "tile"), [(12, 10, 32), (2, 100, 32)])
def test_several_programs_and_merges(device, beams, codes, tile, ties, monkeypatch) -> None:
    """Several blocks of beams, or of a beam's children, then two rounds of merging."""
    from glass_kernels.trie import triton_step

    monkeypatch.setattr(triton_step, "TILE", tile)
    monkeypatch.setattr(triton_step, "MERGED", tile)
    case = beam_case(1, beams, codes, 9, share=0.9, ends=True, filtered=False, ties=ties)
    assert_equals_candidates(case, device, exact=ties)


@pytest.mark.usefixtures("poisoned")
def test_more_beams_than_a_program_ranks(device: torch.device) -> None:
    assert_equals_candidates(beam_case(1, 4, 60, 150, trie=False), device)


def test_no_requests_and_dead_beams(device: torch.device) -> None:
    assert_equals_candidates(beam_case(0, 3, 4, 5), device)
    assert_equals_candidates(beam_case(0, 3, 4, 5, trie=False), device)
    case = beam_case(1, 3, 4, 5, parents=2)
    case.nodes[:] = [[-1, 2, 2**31 - 1]]
    assert_equals_candidates(case, device)


def test_wider_than_the_kernels_take(device: torch.device) -> None:
    from glass_kernels.trie import triton_step

    width = triton_step.WIDEST + 1
    assert cuda.WIDEST == triton_step.WIDEST
    assert_equals_candidates(beam_case(1, 2, 5, width), device)
    assert_equals_candidates(beam_case(1, 2, 5, width, trie=False), device)


def test_broken_values_stay_in_bounds(device: torch.device) -> None:
    case = beam_case(1, 6, 9, 30, ends=True, filtered=False)
    arguments = list(tensors(case, device))
    children = len(case.child_codes)
    wild = torch.tensor([-9, 2**31 - 1, -(2**31), 3, 0, 7], dtype=torch.int32, device=device)
    arguments[3] = wild
    arguments[4] = wild.repeat(children)[:children]
    arguments[8] = torch.tensor([-(2**40), 2**40], device=device)
    arguments[9] = wild
    scores, nodes, parents, codes = STEP(*arguments)
    assert nodes.ge(-1).all()
    assert nodes.lt(children).all()
    assert parents.ge(0).all()
    assert parents.lt(6).all()
    assert codes.ge(-1).all()
    assert codes.lt(9).all()
    assert torch.equal(nodes < 0, scores == -torch.inf)


def catalogue(device: torch.device) -> SidTrie:
    sids = torch.randint(5, (60, 2), generator=torch.Generator().manual_seed(0))
    sids[::7, 1] = -1  # they end early
    return SidTrie.build(sids, (5, 5)).to(device)


def test_decoding_equals_the_reference(device: torch.device) -> None:
    trie = catalogue(device)
    seen = torch.tensor([3, 5, 8, 0], device=device), torch.tensor([0, 3, 4], device=device)
    unseen = trie.filter(exclude=seen)
    logits = torch.randn(2, 2, 8, 5, device=device)

    def decode() -> tuple[Tensor, ...]:
        scores = torch.zeros(2, 1, device=device, dtype=torch.float64)  # so that none is close
        nodes = torch.zeros(2, 1, dtype=torch.int32, device=device)
        found: tuple[Tensor, ...] = ()
        for level in range(2):
            scores, nodes, *rest = trie_beam_step(
                logits[level, :, : scores.shape[1]], scores, nodes, trie, level, 8, filter=unseen
            )
            found += (nodes, *rest)
        return scores, *found

    with use_backend("reference"):
        wanted = decode()
    for name in _TRIE_BEAM_STEP:
        if not runs_on(name, device):
            continue
        with use_backend(name):
            ours = decode()
        torch.testing.assert_close(ours[0], wanted[0])
        for mine, theirs in zip(ours[1:], wanted[1:], strict=True):
            assert torch.equal(mine, theirs), name


def test_views_are_read_as_they_are(device: torch.device) -> None:
    case = beam_case(1, 4, 6, 9)
    arguments = list(tensors(case, device))
    wanted = trie_beam_step_reference(*arguments)
    arguments[0] = torch.stack([arguments[0]] * 2, -1)[..., 0]
    for which in (1, 2, 3, 4):
        arguments[which] = torch.stack([arguments[which]] * 2, -1)[..., 0]
    arguments[2] = arguments[2].to(torch.int32)
    for mine, theirs in zip(STEP(*arguments), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_opcheck(device: torch.device) -> None:
    case = beam_case(1, 3, 4, 5, filtered=True)
    torch.library.opcheck(STEP, tensors(case, device))
    torch.library.opcheck(
        STEP, (*tensors(replace(case, filter_offsets=None), device)[:9], None, False)
    )
    torch.library.opcheck(FREE_STEP, tensors(beam_case(1, 3, 4, 5, trie=False), device))


def test_compiles_without_a_graph_break(device: torch.device) -> None:
    trie = catalogue(device)
    nodes = torch.tensor([[0, 3, -1]], dtype=torch.int32, device=device)

    def step(logits: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        first = trie_beam_step(logits, scores, nodes, trie, 1, 4)
        return (*first, *beam_step(logits * 2, scores, 4))

    logits = torch.randn(1, 3, 5, device=device, requires_grad=True)
    scores = torch.zeros(1, 3, device=device)
    with use_backend("triton"):
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(logits, scores)
        for mine, theirs in zip(compiled, step(logits, scores), strict=True):
            assert torch.equal(mine, theirs)
            assert not mine.requires_grad
