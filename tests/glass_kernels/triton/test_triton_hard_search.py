"""Bucketing and hard search in Triton against plain Python; on a card the same, compiled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from search_cases import Case, cases
from torch import Tensor

from glass_kernels import lengths_to_offsets, use_backend
from glass_kernels.backend import runs_on
from glass_kernels.hard_search import (
    _BUCKET,
    _SEARCH,
    HistoryIndex,
    bucket_history,
    hard_search,
    triton_kernels,
)

BUCKET, SEARCH = torch.ops.glass.bucket_history_triton, torch.ops.glass.hard_search_triton
EXAMPLES = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def history(
    lengths: list[int], num_codes: int, device: torch.device, dtype: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor]:
    sid1 = torch.randint(0, num_codes, (sum(lengths),), dtype=dtype)
    offsets = lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))
    return sid1.to(device), offsets.to(device)


def assert_same_index(sid1: Tensor, offsets: Tensor, num_codes: int) -> HistoryIndex:
    with use_backend("triton"):
        index = bucket_history(sid1, offsets, num_codes)
    with use_backend("reference"):
        wanted = bucket_history(sid1, offsets, num_codes)
    assert torch.equal(index.order, wanted.order)
    assert torch.equal(index.bucket_offsets, wanted.bucket_offsets)
    return index


def assert_same_search(index: HistoryIndex, query: Tensor, **settings: object) -> None:
    with use_backend("triton"):
        found = hard_search(index, query, **settings)
    with use_backend("reference"):
        wanted = hard_search(index, query, **settings)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("poisoned")
@EXAMPLES
@given(case=cases())
def test_equals_search_by_hand(device: torch.device, case: Case) -> None:
    sid1, offsets = (x.to(device) for x in case.history())
    arguments = {
        name: x.to(device) if isinstance(x, Tensor) else x for name, x in case.search().items()
    }
    for name in _BUCKET.keys() & _SEARCH.keys():
        if not runs_on(name, device):
            continue
        with use_backend(name):
            index = bucket_history(sid1, offsets, case.num_codes)
            assert index.order.tolist() == case.wanted_order(), name
            assert index.bucket_offsets.tolist() == case.wanted_starts(), name
            case.assert_found(*hard_search(index, **arguments))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("num_codes", "dtype"),
    [(1, torch.int32), (63, torch.int64), (64, torch.int32), (65, torch.int64), (200, torch.int32)],
)
def test_several_tiles_of_events_and_codes(num_codes, dtype, device) -> None:
    lengths = [0, 1, 150, 0, 64, 128, 65, 0]
    sid1, offsets = history(lengths, num_codes, device, dtype)
    index = assert_same_index(sid1, offsets, num_codes)
    query = torch.randint(-1, num_codes, (len(lengths), 3), dtype=dtype, device=device)
    neighbours = torch.randint(-1, num_codes, (num_codes, 3), dtype=dtype, device=device)
    assert_same_search(index, query, max_items=7, neighbours=neighbours, min_items=5)


def test_thousands_of_codes(device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "CODES", 1024)  # fewer programs to interpret
    sid1, offsets = history([40], 8192, device)
    sid1[:2] = torch.tensor([8191, 0])
    index = assert_same_index(sid1, offsets, 8192)
    assert_same_search(index, sid1[None, :9], max_items=3)


@pytest.mark.usefixtures("poisoned")
def test_one_bucket_holds_everything(device) -> None:
    sid1 = torch.full((205,), 3, device=device)
    offsets = torch.tensor([0, 200, 205], device=device)
    index = assert_same_index(sid1, offsets, 4)
    query = torch.tensor([[3, 0], [3, 0]], device=device)
    for most in (1, 30, 300):
        assert_same_search(index, query, max_items=most)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("slots", [16, 4])
def test_slots_over_several_programs(slots: int, device, monkeypatch) -> None:
    monkeypatch.setattr(triton_kernels, "SLOTS", slots)
    sid1, offsets = history([30, 0, 50], 4, device)
    index = assert_same_index(sid1, offsets, 4)
    query = torch.tensor([[0, 1, 1], [2, 3, 0], [3, -1, 2]], device=device)
    neighbours = torch.tensor([[1, 2], [3, 3], [2, 0], [-1, 1]], device=device)
    for most, least in ((5, 3), (16, 15), (41, 60)):
        assert_same_search(index, query, max_items=most, neighbours=neighbours, min_items=least)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("num_users", [0, 1, 3])
def test_no_events(num_users: int, device) -> None:
    sid1, offsets = history([0] * num_users, 5, device)
    index = assert_same_index(sid1, offsets, 5)
    for width in (0, 2):
        query = torch.ones(num_users, width, dtype=torch.int64, device=device)
        assert_same_search(index, query, max_items=3)


@pytest.mark.usefixtures("poisoned")
def test_views_are_read_as_they_are(device) -> None:
    sid1, offsets = history([9, 4], 3, device)
    index = assert_same_index(torch.stack([sid1, sid1], 1)[:, 0], offsets, 3)
    query = torch.tensor([[2, 0], [1, 1]], device=device).T
    neighbours = torch.tensor([[1, 2, 0], [0, 2, 1]], device=device).T
    assert_same_search(index, query, max_items=4, neighbours=neighbours, min_items=3)


def test_broken_values_stay_in_bounds(device) -> None:
    sid1 = torch.tensor([0, -5, 9, 1, 2**40], device=device)
    offsets = torch.tensor([-3, 9, 2, 5], device=device)
    order, starts = BUCKET(sid1, offsets, 3)
    assert starts.ge(0).all()
    assert starts.le(5).all()
    order, starts = BUCKET(sid1, torch.tensor([0, 2, 5], device=device), 3)
    assert order.sort().values.tolist() == [0, 1, 2, 3, 4]  # wrong codes are clamped

    wild = torch.tensor([[-9, 2**31 - 1, -(2**31), 7], [3, 1, 0, 5]], dtype=torch.int32)
    query = torch.tensor([[0, 3, 2**40], [1, 2, -1]], device=device)
    neighbours = torch.tensor([[2**40, 1], [-7, 3], [0, 1]], device=device)
    positions, lengths = SEARCH(order, wild.to(device), query, neighbours, 4, 4)
    assert positions.lt(5).all()
    assert lengths.le(4).all()
    assert lengths[0, 1:].eq(0).all()  # codes that do not exist find nothing


def test_opcheck(device) -> None:
    sid1, offsets = history([5, 0, 2], 3, device)
    torch.library.opcheck(BUCKET, (sid1, offsets, 3))
    order, starts = BUCKET(sid1, offsets, 3)
    query = torch.tensor([[2, 1], [2, 1], [0, -1]], device=device)
    for neighbours in (None, torch.tensor([[1, 2], [0, 2], [0, 1]], device=device)):
        torch.library.opcheck(SEARCH, (order, starts, query, neighbours, 4, 3))


def test_compiles_without_a_graph_break(device) -> None:
    sid1, offsets = history([5, 0, 2], 3, device)
    query = torch.tensor([[2, 1], [2, 1], [0, -1]], device=device)

    def search(sid1: Tensor, query: Tensor) -> Tensor:
        return hard_search(bucket_history(sid1, offsets, 3), query, max_items=4)[0] * 2

    with use_backend("triton"):
        compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(sid1, query), search(sid1, query))
