"""The C++ kernels of bucketing and search where they differ from the reference in how they work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from glass_kernels import bucket_history, hard_search, lengths_to_offsets, use_backend
from glass_kernels.hard_search import AVAILABLE, HistoryIndex

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")

BUCKET, SEARCH = torch.ops.glass.bucket_history, torch.ops.glass.hard_search


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def history(lengths: list[int], num_codes: int, dtype=torch.int64) -> tuple[Tensor, Tensor]:
    sid1 = torch.randint(0, num_codes, (sum(lengths),), dtype=dtype)
    return sid1, lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))


def assert_same(sid1: Tensor, offsets: Tensor, num_codes: int, query: Tensor, **settings) -> None:
    results = {}
    for name in ("cpp", "reference"):
        with use_backend(name):
            index = bucket_history(sid1, offsets, num_codes)
            results[name] = (*index, *hard_search(index, query, **settings))
    for ours, theirs in zip(results["cpp"], results["reference"], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("poisoned", "threads")
@pytest.mark.parametrize(
    ("lengths", "num_codes", "dtype"),
    [
        ([100_000], 300, torch.int32),  # cut into parts
        ([50_000, 3, 0, 90_000, 7, 20_000], 7, torch.int64),
        ([301] * 200, 100, torch.int64),
        ([5, 0, 900], 8192, torch.int32),
        ([70_000, 40_000], 8192, torch.int64),
        ([40, 0], 1, torch.int32),
    ],
)
def test_shared_among_threads(lengths, num_codes, dtype) -> None:
    sid1, offsets = history(lengths, num_codes, dtype)
    query = torch.randint(-1, num_codes, (len(lengths), 20), dtype=dtype)
    query[:, 10:] = query[:, :10].flip(1)  # each is asked twice
    neighbours = torch.randint(-1, num_codes, (num_codes, 6), dtype=dtype)
    settings = {"max_items": 30, "neighbours": neighbours, "min_items": 12}
    assert_same(sid1, offsets, num_codes, query, **settings)


@pytest.mark.usefixtures("poisoned")
def test_query_and_neighbours_of_either_dtype() -> None:
    sid1, offsets = history([30, 9], 5)
    query, neighbours = torch.tensor([[0, 4], [-1, 2]]), torch.randint(-1, 5, (5, 3))
    for q in (torch.int32, torch.int64):
        for n in (torch.int32, torch.int64):
            settings = {"max_items": 9, "neighbours": neighbours.to(n), "min_items": 8}
            assert_same(sid1, offsets, 5, query.to(q), **settings)


@pytest.mark.usefixtures("poisoned")
def test_views_and_more_slots_than_events() -> None:
    sid1, offsets = history([30, 9], 3)
    query = torch.tensor([[0, 2], [1, 1]]).T
    neighbours = torch.tensor([[1, 2, 0], [2, 0, 1]]).T
    arguments = {"max_items": 100, "neighbours": neighbours, "min_items": 90}
    assert_same(torch.stack([sid1, sid1], 1)[:, 0], offsets, 3, query, **arguments)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("num_users", [0, 1, 3])
@pytest.mark.parametrize("width", [0, 2])
def test_nothing_asked_of_nothing(num_users: int, width: int) -> None:
    sid1, offsets = history([0] * num_users, 4)
    assert_same(sid1, offsets, 4, torch.ones(num_users, width, dtype=torch.int64), max_items=3)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("wrong", [-1, 300, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("at", [0, 61_000, -1])
def test_a_wrong_code_is_found_wherever_it_is(wrong: int, at: int) -> None:
    sid1, offsets = history([60_000, 3, 5_000], 300, torch.int32)
    sid1[at] = wrong
    with pytest.raises(ValueError, match=rf"sid1 must be in \[0, 300\), held {wrong}"):
        bucket_history(sid1, offsets, 300)


@pytest.mark.parametrize("starts", [[[0, 4, 4]], [[-1, 2, 3]], [[0, 3, 2]], [[0, 2**31 - 1, 0]]])
def test_kernel_reads_no_bucket_outside_of_the_history(starts: list[list[int]]) -> None:
    index = HistoryIndex(torch.arange(3, dtype=torch.int32), torch.tensor(starts).int())
    query = torch.tensor([[0, 1]])
    for neighbours in (None, torch.tensor([[1], [0]])):
        with pytest.raises(RuntimeError, match="bucket_offsets must not fall, and lie inside"):
            SEARCH(*index, query, neighbours, 5, 5)


def test_kernel_checks_what_it_is_given() -> None:
    sid1, offsets = history([5, 2], 3)
    index = BUCKET(sid1, offsets, 3)
    query = torch.tensor([[0], [2]])
    for changed, message in (
        ((sid1.float(), offsets, 3), "sid1 must be int32 or int64"),
        ((sid1, offsets.int(), 3), "offsets must be int64"),
        ((sid1, offsets[:2], 3), "offsets must start at 0 and end at 7"),
        ((sid1, offsets[:0], 3), "offsets must not be empty"),
        ((sid1, torch.tensor([0, 9, 7]), 3), "offsets must not fall"),
        ((sid1, offsets, 0), "num_codes must be in"),
        ((sid1[:, None], offsets, 3), "sid1 must have 1 dimensions"),
    ):
        with pytest.raises(RuntimeError, match=message):
            BUCKET(*changed)
    for changed, message in (
        ((*index, query[:1], None, 3, 0), "query_sid1 must have a row a user"),
        ((*index, query + 1, None, 3, 0), "query_sid1 must be below 3"),
        ((*index, query, query, 3, 0), "neighbours must have a row a code"),
        ((*index, query, torch.tensor([[0], [1], [3]]), 3, 0), "neighbours must be below 3"),
        ((*index, query, None, 0, 0), "max_items must be in"),
        ((*index, query, None, 3, -1), "min_items must be at least 0"),
        ((index[0].long(), index[1], query, None, 3, 0), "order must be int32"),
        ((index[0], index[1].long(), query, None, 3, 0), "bucket_offsets must be int32"),
        ((*index, query.float(), None, 3, 0), "query_sid1 must be int32 or int64"),
        ((*index, query, query.float(), 3, 0), "neighbours must be int32 or int64"),
    ):
        with pytest.raises(RuntimeError, match=message):
            SEARCH(*changed)


def test_a_mistake_in_compiled_code_is_an_error() -> None:
    sid1, offsets = history([5, 2], 3)
    compiled = torch.compile(lambda s: bucket_history(s, offsets, 3).order, backend="aot_eager")
    assert torch.equal(compiled(sid1), bucket_history(sid1, offsets, 3).order)
    with pytest.raises(RuntimeError, match="sid1 must be in"):
        compiled(sid1 + 5)


def test_opcheck() -> None:
    sid1, offsets = history([5, 0, 2], 3)
    torch.library.opcheck(BUCKET, (sid1, offsets, 3))
    index = BUCKET(sid1, offsets, 3)
    query = torch.tensor([[2, 1], [2, 1], [0, -1]])
    for neighbours in (None, torch.tensor([[1, 2], [0, 2], [0, 1]])):
        torch.library.opcheck(SEARCH, (*index, query, neighbours, 4, 3))
