"""The CUDA kernels of hard search on the CPU: against the reference, sanitised, disordered."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import shimmed
import shimmed_search
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitised import sanitised
from shimmed_search import CASES, HardSearch, brute_bucket, problem

from glass_kernels.hard_search.reference import (
    HistoryIndex,
    bucket_history_reference,
    hard_search_reference,
)

pytestmark = [pytest.mark.slow, pytest.mark.static]

SOURCE = shimmed.CUDA / "hard_search.cu"
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def reference(arrays: Arrays, codes: int, most: int, least: int) -> list[np.ndarray]:
    """order, bucket_offsets, positions, lengths"""
    sid1, offsets, query, neighbours = map(torch.from_numpy, arrays)
    index = bucket_history_reference(sid1, offsets, codes)
    found = hard_search_reference(
        index, query, max_items=most, neighbours=neighbours, min_items=least
    )
    return [x.numpy() for x in (*index, *found)]


def run(
    shim: HardSearch, arrays: Arrays, codes: int, most: int, least: int, seed: int
) -> list[np.ndarray]:
    sid1, offsets, query, neighbours = arrays
    index = shim.bucket(sid1, offsets, codes, seed=seed)
    return [*index, *shim.search(*index, query, neighbours, most, least, seed=seed)]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("lengths", "codes", "width", "near", "most", "least"), CASES)
def test_equals_reference(
    hard_search_shim: HardSearch, lengths, codes, width, near, most, least, dtype
) -> None:
    sid1, offsets, query, neighbours = problem(lengths, codes, width, near)
    arrays = sid1.astype(dtype), offsets, query.astype(dtype), neighbours.astype(dtype)
    ours = run(hard_search_shim, arrays, codes, most, least, seed=3)
    for found, wanted in zip(ours, reference(arrays, codes, most, least), strict=True):
        np.testing.assert_array_equal(found, wanted)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 300), max_size=5),
    codes=st.one_of(st.integers(1, 9), st.sampled_from([33, 300, 1100])),
    width=st.integers(0, 4),
    near=st.integers(0, 40),
    most=st.integers(1, 70),
    least=st.integers(0, 80),
    seed=st.integers(0, 99),
)
def test_any_shape_and_order(
    hard_search_shim: HardSearch, lengths, codes, width, near, most, least, seed
) -> None:
    arrays = problem(lengths, codes, width, near, seed)
    ours = run(hard_search_shim, arrays, codes, most, least, seed)
    for found, wanted in zip(ours, reference(arrays, codes, most, least), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_one_bucket_holds_everything(hard_search_shim: HardSearch) -> None:
    sid1, offsets = np.full(5000, 2, dtype=np.int32), np.array([0, 4990, 5000])
    order, starts = hard_search_shim.bucket(sid1, offsets, 4, seed=5)
    np.testing.assert_array_equal(order, np.arange(5000))
    assert starts.tolist() == [[0, 0, 0, 4990, 4990], [4990, 4990, 4990, 5000, 5000]]
    query = np.array([[2, 1], [2, 0]])
    positions, lengths = hard_search_shim.search(order, starts, query, None, 40, 0)
    np.testing.assert_array_equal(positions[0, 0], np.arange(4989, 4949, -1))
    assert lengths.tolist() == [[40, 0], [10, 0]]


@pytest.mark.parametrize(
    ("events", "codes", "shared"),
    [(40, 1, 16), (128, 300, 1212), (900, 128, 8 * (128 + 3) * 4), (900, 8192, 32864)],
)
def test_shared_memory(hard_search_shim: HardSearch, events: int, codes: int, shared: int) -> None:
    sid1, offsets, *_ = problem([events], codes, 1, 1)
    order, _ = hard_search_shim.bucket(sid1, offsets, codes)
    np.testing.assert_array_equal(order, brute_bucket(sid1, offsets))
    assert hard_search_shim.shared_bytes() == shared


def test_nothing_to_do(hard_search_shim: HardSearch) -> None:
    for lengths, width in (([], 2), ([0, 0], 2), ([4], 0)):
        arrays = problem(lengths, 5, width, 2)
        ours = run(hard_search_shim, arrays, 5, 3, 2, 1)
        for found, wanted in zip(ours, reference(arrays, 5, 3, 2), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_broken_values_stay_in_bounds(hard_search_shim: HardSearch) -> None:
    sid1 = np.array([0, -5, 9, 1, 2**40] * 9)
    for broken in ([0, 60, -9, 45], [7, 3, 2**40, 2**40], [-5, -5, 99, 0]):
        _, starts = hard_search_shim.bucket(sid1, np.array(broken), 3)
        assert starts.min() >= 0
        assert starts.max() <= 45
    order, _ = hard_search_shim.bucket(sid1, np.array([0, 20, 45]), 3)
    clamped = np.clip(sid1, 0, 2)
    np.testing.assert_array_equal(order, brute_bucket(clamped, np.array([0, 20, 45])))

    wild = np.array([[-9, 2**31 - 1, -(2**31), 7], [3, 1, 0, 5]], dtype=np.int32)
    query = np.array([[0, 3, 2**40], [1, 2, -1]])
    neighbours = np.array([[2**40, 1], [-7, 3], [0, 1]])
    positions, lengths = hard_search_shim.search(order, wild, query, neighbours, 4, 4)
    assert positions.min() >= -1
    assert positions.max() < 45
    assert (lengths[0, 1:] == 0).all()  # codes that do not exist find nothing


@pytest.fixture(scope="module")
def numbered_barriers(tmp_path_factory: pytest.TempPathFactory) -> HardSearch:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    source = shimmed.numbered(SOURCE.read_text())
    folder = tmp_path_factory.mktemp("numbered")
    return HardSearch(shimmed.build("hard_search", folder, "-O0", source=source))


@pytest.mark.parametrize("which", [None, *range(len(shimmed.barriers(SOURCE.read_text())))])
def test_a_missing_barrier_is_found(
    which: int | None, numbered_barriers: HardSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which is not None:
        monkeypatch.setenv("SHIM_LEAVE_OUT", str(which))
    sid1, offsets, *_ = problem([3000], 900, 1, 1)
    wanted = reference((sid1, offsets, sid1[None, :1], sid1[:0, None]), 900, 1, 0)[:2]
    for seed in (1, 2, 3):
        ours = numbered_barriers.bucket(sid1, offsets, 900, seed=seed)
        assert all(map(np.array_equal, ours, wanted)) == (which is None)


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    done = sanitised("hard_search", shimmed_search, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (event >= end) return kNone;", "if (event > end) return kNone;"),
        ("i < count; i += kWarp) out", "i <= count; i += kWarp) out"),
        ("code >= 0 && code < codes;", "code >= 0 && code <= codes;"),
    ],
)
def test_sanitizers_find_a_step_too_far(right: str, wrong: str, tmp_path: Path) -> None:
    source = SOURCE.read_text()
    assert source.count(right) == 1
    done = sanitised(
        "hard_search", shimmed_search, tmp_path, "-O0", source=source.replace(right, wrong)
    )
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr or "AssertionError" in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("lengths", "codes", "width", "near", "most", "least"), CASES)
def test_on_a_gpu(lengths, codes, width, near, most, least) -> None:
    lengths = [length * 40 for length in lengths]
    arrays = problem(lengths, codes, width, near)
    sid1, offsets, query, neighbours = (torch.from_numpy(x).cuda() for x in arrays)
    index = HistoryIndex(*torch.ops.glass.bucket_history(sid1, offsets, codes))
    found = torch.ops.glass.hard_search(*index, query, neighbours, most, least)
    for ours, wanted in zip((*index, *found), reference(arrays, codes, most, least), strict=True):
        np.testing.assert_array_equal(ours.cpu().numpy(), wanted)
