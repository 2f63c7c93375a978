"""The CUDA kernels of beam search on the CPU: against every candidate, sanitised, disordered."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shimmed
import shimmed_trie
import torch
from beam_cases import BeamCase, beam_case
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitised import sanitised
from shimmed_trie import CASES, KINDS, BeamStep, inlined, rounded

from glass_kernels.trie import cuda

pytestmark = [pytest.mark.slow, pytest.mark.static]


def assert_same(found: shimmed_trie.Found, wanted: shimmed_trie.Found) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", range(len(CASES)))
def test_equals_every_candidate(trie_shim: BeamStep, which: int, kind: str) -> None:
    arguments, splits = CASES[which]
    dtype = np.float64 if kind == "float64" else np.float32
    case = rounded(beam_case(**arguments, dtype=dtype), kind)
    found = trie_shim(case, kind, splits=splits, wide_nodes=kind == "float32", seed=3)
    case.assert_found(*found, exact="ties" in arguments)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_minus_zero_is_zero(trie_shim: BeamStep, kind: str) -> None:
    case = beam_case(1, 3, 4, 3, ends=True)
    case.nodes[:] = 0  # a SID that has ended
    case.scores[:] = [-1.0, -0.0, 0.0]
    case.assert_found(*trie_shim(case, kind), exact=True)


def test_scores_of_another_dtype(trie_shim: BeamStep) -> None:
    case = rounded(beam_case(2, 5, 20, 9), "bfloat16")
    case.assert_found(*trie_shim(case, "bfloat16", "float32"))
    found = trie_shim(case, "bfloat16", "float64")
    assert found[0].dtype == np.float64
    case.assert_found(*found)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.integers(0, 3),
    beams=st.integers(1, 20),
    codes=st.integers(1, 40),
    width=st.integers(1, 50),
    parents=st.integers(1, 9),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    filtered=st.sampled_from([None, True, False]),
    flags=st.tuples(*[st.booleans()] * 5),
    splits=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_any_shape_and_order(
    trie_shim: BeamStep,
    requests,
    beams,
    codes,
    width,
    parents,
    share,
    filtered,
    flags,
    splits,
    seed,
) -> None:
    ends, mask, trie, wild, ties = flags
    case = beam_case(
        requests, beams, codes, width, parents=parents, share=share, ends=ends, filtered=filtered,
        mask=mask, trie=trie, wild=wild, ties=ties, seed=seed,
    )  # fmt: skip
    found = trie_shim(case, splits=min(splits, beams), seed=seed)
    case.assert_found(*found, exact=ties and not wild)


@pytest.mark.parametrize("width", [3, 700])
def test_more_places_than_entries(trie_shim: BeamStep, width: int) -> None:
    """The best come last, so that every round is kept at first."""
    case = beam_case(1, 40, 250, width, share=0.9, parents=2)
    case.nodes[:] = np.arange(40) % 2
    case.scores[0] = np.arange(40) - 40
    case.assert_found(*trie_shim(case, seed=1))


def test_many_beams_in_several_blocks(trie_shim: BeamStep) -> None:
    case = beam_case(2, 600, 3, 40, parents=700, ends=True, ties=True)
    splits = trie_shim.splits(2, 600, case.max_children, 132)
    assert splits == 3  # 256 beams of a block at most
    case.assert_found(*trie_shim(case, splits=splits, seed=2), exact=True)


def test_blocks_of_a_request(trie_shim: BeamStep) -> None:
    assert trie_shim.splits(8, 50, 256, 132) == 1
    assert trie_shim.splits(1, 512, 8192, 132) == 32
    assert trie_shim.splits(200, 512, 8192, 132) == 2
    assert trie_shim.splits(2000, 200, 8192, 132) == 1
    assert trie_shim.splits(1, 3, 2**20, 132) == 3
    assert trie_shim.splits(0, 1, 256, 132) == 1


@pytest.mark.parametrize(
    ("kind", "beams", "codes", "shared"),
    [("float32", 1, 256, 2088), ("float32", 50, 256, 33788), ("float64", 50, 256, 50972)],
)
def test_shared_memory(trie_shim: BeamStep, kind: str, beams: int, codes: int, shared: int) -> None:
    case = beam_case(1, beams, codes, 5, trie=False)
    case.assert_found(*trie_shim(case, kind))
    assert trie_shim.shared_bytes() == shared


def test_too_wide_a_beam_is_refused(trie_shim: BeamStep) -> None:
    assert trie_shim.widest() == cuda.WIDEST
    case = beam_case(1, 1, 2, cuda.WIDEST)
    case.assert_found(*trie_shim(case))
    with pytest.raises(shimmed.LaunchError):
        trie_shim(replace(case, beam_width=cuda.WIDEST + 1))


def test_broken_values_stay_in_bounds(trie_shim: BeamStep) -> None:
    case = beam_case(2, 6, 9, 30, ends=True, filtered=False)
    rng = np.random.default_rng(0)
    wild = np.array([-9, 2**31 - 1, -(2**31), 3, 0, 7], dtype=np.int32)
    children = len(case.child_codes)
    for seed in range(4):
        broken = replace(
            case,
            child_offsets=rng.choice(wild, len(case.child_offsets)).astype(np.int32),
            child_codes=rng.choice(wild, children).astype(np.int32),
            filter_offsets=rng.integers(-(2**40), 2**40, 3),
            filter_nodes=rng.choice(wild, len(case.filter_nodes)).astype(np.int32),
        )
        scores, nodes, parents, codes = _run_broken(trie_shim, broken, seed)
        assert nodes.min() >= -1
        assert nodes.max() < children
        assert parents.min() >= 0
        assert parents.max() < 6
        assert codes.min() >= -1
        assert codes.max() < 9
        assert ((nodes < 0) == (scores == -np.inf)).all()


def _run_broken(shim: BeamStep, case: BeamCase, seed: int) -> shimmed_trie.Found:
    """With the number of children that the unbroken trie had."""

    class Broken(BeamCase):
        max_children = 9

    return shim(Broken(**vars(case)), seed=seed)


@pytest.fixture(scope="module")
def numbered_barriers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbered")
    source = shimmed.numbered(inlined())
    return shimmed.build("trie_beam_step", folder, "-O0", source=source)


def fails(library: Path) -> bool:
    """In a process of its own, since a broken kernel may write anywhere, or go on for ever."""
    command = [sys.executable, str(shimmed_trie.__file__), str(library), *"12345"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def test_no_barrier_is_missing(numbered_barriers: Path) -> None:
    assert not fails(numbered_barriers)


@pytest.mark.parametrize("which", range(len(shimmed.barriers(inlined()))))
def test_a_missing_barrier_is_found(
    which: int, numbered_barriers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIM_LEAVE_OUT", str(which))
    assert fails(numbered_barriers)


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    done = sanitised("trie_beam_step", shimmed_trie, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("node >= call.num_parents) return 0;", "node > call.num_parents) return 0;"),
        ("place < total ? source.image(place) : 0;", "source.image(place);"),
        ("low < end && call.filter_nodes[low] == child", "call.filter_nodes[low] == child"),
        ("i < number; i += width) {", "i <= number; i += width) {"),
    ],
)
def test_sanitizers_find_a_step_too_far(right: str, wrong: str, tmp_path: Path) -> None:
    source = inlined()
    assert source.count(right) == 1
    done = sanitised(
        "trie_beam_step", shimmed_trie, tmp_path, "-O0", source=source.replace(right, wrong)
    )
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer" in done.stderr or "AssertionError" in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", range(len(CASES)))
def test_on_a_gpu(which: int, kind: str) -> None:
    arguments, _ = CASES[which]
    scaled = arguments | {"requests": 4 * int(str(arguments["requests"]))}
    dtype = np.float64 if kind == "float64" else np.float32
    case = rounded(beam_case(**scaled, dtype=dtype), kind)
    found = torch_step(case, getattr(torch, kind))
    case.assert_found(*found, exact="ties" in arguments)


def torch_step(case: BeamCase, dtype: torch.dtype) -> shimmed_trie.Found:
    def moved(array: np.ndarray | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array).cuda()

    logits, scores = (torch.from_numpy(x).to("cuda", dtype) for x in (case.logits, case.scores))
    if case.nodes is None:
        best, parents, codes = torch.ops.glass.beam_step(logits, scores, case.beam_width)
        return best.cpu().numpy(), None, parents.cpu().numpy(), codes.cpu().numpy()
    found = torch.ops.glass.trie_beam_step(
        logits, scores, moved(case.nodes), moved(case.child_offsets), moved(case.child_codes),
        case.max_children, case.beam_width, case.mask_before_softmax,
        moved(case.filter_offsets), moved(case.filter_nodes), case.filter_keeps,
    )  # fmt: skip
    scores, nodes, parents, codes = (x.cpu().numpy() for x in found)
    return scores, nodes, parents, codes
