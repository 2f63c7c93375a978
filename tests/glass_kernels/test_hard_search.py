"""Bucketing and hard search against a search in plain Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from search_cases import Case, cases, jagged
from torch import Tensor

from glass_kernels.backend import use_backend
from glass_kernels.hard_search import AVAILABLE, HistoryIndex, bucket_history, hard_search

needs_cpp = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")


@pytest.fixture(autouse=True, params=["reference", pytest.param("cpp", marks=needs_cpp)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_backend(request.param):
        yield request.param


@pytest.mark.usefixtures("poisoned")
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases())
def test_equals_search_by_hand(case: Case) -> None:
    index = bucket_history(*case.history(), case.num_codes)
    assert index.order.tolist() == case.wanted_order()
    assert index.bucket_offsets.shape == (len(case.histories), case.num_codes + 1)
    assert index.bucket_offsets.tolist() == case.wanted_starts()
    case.assert_found(*hard_search(index, **case.search()))


def test_hand_computed() -> None:
    # Codes of user 0 at positions 0..5, user 1 is empty, user 2 has positions 6 and 7.
    sid1, offsets = jagged([[2, 0, 2, 1, 2, 0], [], [1, 1]])
    index = bucket_history(sid1, offsets, 3)
    assert index.order.tolist() == [1, 5, 3, 0, 2, 4, 6, 7]
    assert index.bucket_offsets.tolist() == [[0, 2, 3, 6], [6, 6, 6, 6], [6, 6, 8, 8]]
    assert index.order.dtype == index.bucket_offsets.dtype == torch.int32

    query = torch.tensor([[2, 1], [2, 1], [0, -1]])
    positions, lengths = hard_search(index, query, max_items=2)
    assert positions.tolist() == [[[4, 2], [3, -1]], [[-1, -1]] * 2, [[-1, -1]] * 2]
    assert lengths.tolist() == [[2, 1], [0, 0], [0, 0]]

    # Code 1 of user 0 has one event; tau = 3 takes both of code 0, newest first, and then stops.
    neighbours = torch.tensor([[1, 2], [0, 2], [0, 1]])
    positions, lengths = hard_search(index, query, max_items=5, neighbours=neighbours, min_items=3)
    assert positions[0].tolist() == [[4, 2, 0, -1, -1], [3, 5, 1, -1, -1]]
    assert positions[2].tolist() == [[7, 6, -1, -1, -1], [-1] * 5]
    assert lengths.tolist() == [[3, 3], [0, 0], [2, 0]]


def test_neighbour_that_repeats_is_skipped() -> None:
    sid1, offsets = jagged([[0, 1, 1, 2]])
    index = bucket_history(sid1, offsets, 3)
    neighbours = torch.tensor([[0, -1, 1, 1, 2], [0] * 5, [0] * 5], dtype=torch.int32)
    positions, _ = hard_search(
        index, torch.tensor([[0]]), max_items=8, neighbours=neighbours, min_items=8
    )
    assert positions[0, 0].tolist() == [0, 2, 1, 3, -1, -1, -1, -1]


def test_min_items_above_max_items_stops_at_max_items() -> None:
    sid1, offsets = jagged([[0, 1, 1, 1, 1]])
    index = bucket_history(sid1, offsets, 2)
    positions, lengths = hard_search(
        index, torch.tensor([[0]]), max_items=3, neighbours=torch.tensor([[1], [0]]), min_items=9
    )
    assert positions.tolist() == [[[0, 4, 3]]]
    assert lengths.tolist() == [[3]]


def test_one_bucket_holds_everything() -> None:
    sid1, offsets = jagged([[3] * 700, [3] * 5])
    index = bucket_history(sid1, offsets, 4)
    assert index.order.tolist() == list(range(705))
    positions, lengths = hard_search(index, torch.tensor([[3, 0], [3, 0]]), max_items=30)
    assert positions[0, 0].tolist() == list(range(699, 669, -1))
    assert positions[1, 0, :5].tolist() == [704, 703, 702, 701, 700]
    assert lengths.tolist() == [[30, 0], [5, 0]]


@pytest.mark.parametrize("num_users", [0, 1, 3])
def test_no_events(num_users: int) -> None:
    offsets = torch.zeros(num_users + 1, dtype=torch.int64)
    index = bucket_history(torch.zeros(0, dtype=torch.int32), offsets, 4)
    assert index.order.shape == (0,)
    assert index.bucket_offsets.tolist() == [[0] * 5] * num_users
    query = torch.ones(num_users, 2, dtype=torch.int64)
    positions, lengths = hard_search(index, query, max_items=3)
    assert positions.tolist() == [[[-1] * 3] * 2] * num_users
    assert lengths.tolist() == [[0, 0]] * num_users


def test_non_contiguous_input() -> None:
    sid1, offsets = jagged([[2, 0, 2, 1], [1, 1]])
    plain = bucket_history(sid1, offsets, 3)
    strided = bucket_history(torch.stack([sid1, sid1], 1)[:, 0], offsets, 3)
    assert strided.order.tolist() == plain.order.tolist()
    query = torch.tensor([[2, 0], [1, 1]])
    wanted, _ = hard_search(plain, query, max_items=2)
    got, _ = hard_search(plain, query.T.contiguous().T, max_items=2)
    assert got.tolist() == wanted.tolist()


def test_captured_by_compile_without_graph_break() -> None:
    sid1, offsets = jagged([[2, 0, 2, 1, 2, 0], [], [1, 1]])
    query = torch.tensor([[2, 1], [2, 1], [0, -1]])
    neighbours = torch.tensor([[1, 2], [0, 2], [0, 1]])

    def search(sid1: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        index = bucket_history(sid1, offsets, 3)
        return hard_search(index, query, max_items=4, neighbours=neighbours, min_items=3)

    compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(compiled(sid1, query), search(sid1, query), strict=True):
        assert got.tolist() == wanted.tolist()


class TestBadInput:
    @pytest.mark.parametrize(
        ("sid1", "offsets", "num_codes", "match"),
        [
            (torch.zeros(3), torch.tensor([0, 3]), 2, "sid1 must be int32 or int64"),
            (torch.zeros(3, 1).int(), torch.tensor([0, 3]), 2, "sid1 must have 1 dimensions"),
            (torch.tensor([0, 2, 1]), torch.tensor([0, 3]), 2, r"sid1 must be in \[0, 2\), held 2"),
            (torch.tensor([0, -1, 1]), torch.tensor([0, 3]), 2, "sid1 must be in .* held -1"),
            (torch.tensor([0, 1, 1]), torch.tensor([0, 2]), 2, "offsets must end at"),
            (torch.tensor([0, 1, 1]), torch.tensor([1, 3]), 2, "offsets must start at 0"),
            (torch.tensor([0, 1, 1]), torch.tensor([0, 3]).int(), 2, "offsets must be int64"),
            (torch.tensor([0]), torch.tensor([0, 1]), 0, "num_codes must be at least 1"),
        ],
    )
    def test_bucket_history(
        self, sid1: Tensor, offsets: Tensor, num_codes: int, match: str
    ) -> None:
        with pytest.raises(ValueError, match=match):
            bucket_history(sid1, offsets, num_codes)

    @pytest.mark.parametrize(
        ("changed", "match"),
        [
            ({"max_items": 0}, "max_items must be at least 1"),
            ({"min_items": -1}, "min_items must be at least 0"),
            ({"query_sid1": torch.tensor([[3], [0]])}, "query_sid1 must be in .* held 3"),
            ({"query_sid1": torch.tensor([[0]])}, "query_sid1 must have shape"),
            ({"query_sid1": torch.tensor([[0.0], [0.0]])}, "query_sid1 must be int32"),
            ({"neighbours": torch.tensor([[0], [1]])}, "neighbours must have shape"),
            ({"neighbours": torch.tensor([[0], [1], [3]])}, "neighbours must be in .* held 3"),
            ({"index": (torch.zeros(1), torch.zeros(1))}, "index must be the HistoryIndex"),
            (
                {"index": HistoryIndex(torch.zeros(3), torch.zeros(2, 4).int())},
                "index.order must be int32",
            ),
        ],
    )
    def test_hard_search(self, changed: dict, match: str) -> None:
        sid1, offsets = jagged([[2, 0], [1]])
        arguments = {
            "index": bucket_history(sid1, offsets, 3),
            "query_sid1": torch.tensor([[2], [0]]),
            "max_items": 2,
        }
        with pytest.raises(ValueError, match=match):
            hard_search(**{**arguments, **changed})

    @pytest.mark.parametrize(
        "broken", [[[0, 1, 3, 4]], [[-1, 1, 3, 3]], [[0, 2, 1, 3]]], ids=["past", "before", "falls"]
    )
    def test_index_of_another_history(self, broken: list[list[int]]) -> None:
        starts = torch.tensor(broken, dtype=torch.int32)
        index = HistoryIndex(torch.arange(3, dtype=torch.int32), starts)
        query = torch.tensor([[0, 1, 2]])
        with pytest.raises(ValueError, match=r"index\.bucket_offsets must"):
            hard_search(index, query, max_items=2)

    def test_missing_backend_is_named(self) -> None:
        sid1, offsets = jagged([[0]])
        with use_backend("cuda"), pytest.raises(RuntimeError, match=r"bucket_history.*cuda"):
            bucket_history(sid1, offsets, 1)
