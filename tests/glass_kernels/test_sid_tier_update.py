"""Counts kept current by adding and removing events equal a recount."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glass_kernels import lengths_to_offsets, sid_tier, sid_tier_update_, use_backend
from glass_kernels.sid_tier import update as module
from glass_kernels.sid_tier.library import AVAILABLE

needs_cpp = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")


@pytest.fixture(autouse=True, params=["reference", pytest.param("cpp", marks=needs_cpp)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_backend(request.param):
        yield request.param


USERS, ITEMS, CODES, TIERS = 3, 5, 7, 4


def fresh() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    table = torch.randint(0, TIERS, (ITEMS, CODES), generator=g).to(torch.uint8)
    return torch.zeros(USERS, CODES, TIERS, dtype=torch.int32), table


def recount(histories: list[list[int]], table: torch.Tensor) -> torch.Tensor:
    ids = torch.tensor([i for one in histories for i in one], dtype=torch.int64)
    offsets = lengths_to_offsets(torch.tensor([len(one) for one in histories]))
    counts = sid_tier(ids, offsets, table, TIERS, normalize=False, backend="reference")
    return counts.to(torch.int32)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_by_hand(dtype: torch.dtype) -> None:
    table = torch.tensor([[0, 2], [1, 2]], dtype=torch.uint8)
    counts = torch.zeros(2, 2, 3, dtype=torch.int32)
    users, items = torch.tensor([1, 1, 0], dtype=dtype), torch.tensor([0, 0, 1], dtype=dtype)
    returned = sid_tier_update_(counts, users, items, table)
    assert returned is counts
    assert counts.tolist() == [[[0, 1, 0], [0, 0, 1]], [[2, 0, 0], [0, 0, 2]]]
    sid_tier_update_(counts, users[:1], items[:1], table, remove=True)
    assert counts[1].tolist() == [[1, 0, 0], [0, 0, 1]]


events = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=8)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(st.tuples(events, st.booleans()), max_size=8))
def test_any_sequence_equals_a_recount(calls) -> None:
    """Removals take the oldest events, as a sliding window does."""
    counts, table = fresh()
    histories: list[list[int]] = [[] for _ in range(USERS)]
    for batch, remove in calls:
        if remove:
            batch = [(u, histories[u].pop(0)) for u, _ in batch if histories[u]]
        else:
            for user, item in batch:
                histories[user].append(item)
        users = torch.tensor([u for u, _ in batch], dtype=torch.int64)
        items = torch.tensor([i for _, i in batch], dtype=torch.int64)
        sid_tier_update_(counts, users, items, table, remove=remove)
        assert torch.equal(counts, recount(histories, table))


@pytest.mark.parametrize(
    ("users", "items"),
    [
        ([1], [0]),  # a user without events
        ([0], [4]),  # an item the user never had
        ([0, 0, 0], [2, 2, 2]),  # one more than there are, within one call
        ([0, 1], [2, 2]),  # the first of two is fine
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_impossible_removal_changes_nothing(users, items, chunk, monkeypatch) -> None:
    from glass_kernels.sid_tier import tiers

    monkeypatch.setattr(tiers, "_CHUNK_ELEMENTS", chunk)
    counts, _ = fresh()
    table = torch.arange(ITEMS)[:, None].expand(ITEMS, CODES).clamp(max=TIERS - 1)
    table = table.to(torch.uint8).contiguous()
    table[4] = 0
    sid_tier_update_(counts, torch.tensor([0, 0]), torch.tensor([2, 2]), table)
    before = counts.clone()
    with pytest.raises(ValueError, match="would make a count negative"):
        sid_tier_update_(counts, torch.tensor(users), torch.tensor(items), table, remove=True)
    assert torch.equal(counts, before)


def test_strided_counts_are_changed_in_place(backend: str) -> None:
    if backend == "cpp":
        pytest.skip("takes contiguous counts; the default backend falls back")
    counts, table = fresh()
    wide = torch.zeros(TIERS, CODES, USERS, dtype=torch.int32)
    users, items = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 3])
    sid_tier_update_(counts, users, items, table)
    sid_tier_update_(wide.permute(2, 1, 0), users, items, table)
    assert torch.equal(wide.permute(2, 1, 0), counts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": torch.zeros(USERS, CODES, TIERS)}, "counts must be int32, was float32"),
        ({"users": torch.tensor([0, USERS])}, r"users must be in \[0, 3\), held 3"),
        ({"users": torch.tensor([0])}, r"item_ids must have shape \[1\]"),
        ({"item_ids": torch.tensor([0, ITEMS])}, r"item_ids must be in \[0, 5\), held 5"),
        ({"table": torch.zeros(ITEMS, 2, dtype=torch.uint8)}, r"table must have shape \[any, 7\]"),
        (
            {"table": torch.full((ITEMS, CODES), 4, dtype=torch.uint8)},
            r"table must be in \[0, 4\), held 4",
        ),
    ],
)
def test_mistakes_change_nothing(change: dict, message: str) -> None:
    counts, table = fresh()
    arguments = {"users": torch.tensor([0, 1]), "item_ids": torch.tensor([0, 1])}
    arguments |= {"counts": counts, "table": table}
    with pytest.raises(ValueError, match=message):
        sid_tier_update_(**{**arguments, **change})
    assert counts.eq(0).all()


def test_no_events() -> None:
    counts, table = fresh()
    none = torch.zeros(0, dtype=torch.int64)
    for remove in (False, True):
        assert sid_tier_update_(counts, none, none, table, remove=remove).eq(0).all()


def test_default_backend_takes_any_strides(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "active_backend", lambda: None)
    counts, table = fresh()
    wide = torch.zeros(TIERS, CODES, USERS, dtype=torch.int32)
    users, items = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 3])
    sid_tier_update_(counts, users, items, table)
    sid_tier_update_(wide.permute(2, 1, 0), users, items, table)
    assert torch.equal(wide.permute(2, 1, 0), counts)


def test_users_and_items_of_two_dtypes_and_strides() -> None:
    counts, table = fresh()
    users, items = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 3])
    sid_tier_update_(counts, users, items, table)
    other = torch.zeros_like(counts)
    strided = torch.stack([items, items], 1)[:, 0]
    sid_tier_update_(other, users.to(torch.int32), strided, table.T.contiguous().T)
    assert torch.equal(counts, other)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_events_on_any_number_of_threads(threads: int) -> None:
    g = torch.Generator().manual_seed(2)
    table = torch.randint(0, 20, (50, 128), generator=g).to(torch.uint8)
    users = torch.randint(0, 9, (4000,), generator=g)
    users[:2000] = 3  # one user has most of them
    items = torch.randint(0, 50, (4000,), generator=g)
    counts = torch.zeros(9, 128, 20, dtype=torch.int32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        sid_tier_update_(counts, users, items, table)
        assert counts.sum(2).eq(torch.bincount(users, minlength=9)[:, None]).all()
        full = counts.clone()
        with pytest.raises(ValueError, match="would make a count negative"):
            # more than there are, after many that are fine
            sid_tier_update_(counts, users.repeat(2), items.repeat(2), table, remove=True)
        assert torch.equal(counts, full)
        sid_tier_update_(counts, users[:2500], items[:2500], table, remove=True)
        rest = torch.zeros_like(counts)
        sid_tier_update_(rest, users[2500:], items[2500:], table)
        assert torch.equal(counts, rest)
    finally:
        torch.set_num_threads(before)


@needs_cpp
@pytest.mark.parametrize("remove", [False, True])
def test_opcheck(remove: bool) -> None:
    counts, table = fresh()
    users, items = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 3])
    sid_tier_update_(counts, users, items, table)
    op = torch.ops.glass.sid_tier_update_
    torch.library.opcheck(op, (counts, users, items, table, remove))


@needs_cpp
@pytest.mark.parametrize("remove", [False, True])
def test_compiles_without_a_graph_break(remove: bool, backend: str) -> None:
    if backend != "cpp":
        pytest.skip("a removal by plain PyTorch looks at the result")

    def step(counts, users, items, table):
        return sid_tier_update_(counts, users, items, table, remove=remove) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    counts, table = fresh()
    users, items = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 3])
    sid_tier_update_(counts, users, items, table)
    other = counts.clone()
    expected = step(counts, users, items, table)
    assert torch.equal(compiled(other, users, items, table), expected)
    assert torch.equal(other, counts)
    with pytest.raises(RuntimeError, match=r"users must be in \[0, 3\)"):
        compiled(other, users + 1, items, table)
    assert torch.equal(other, counts)


@needs_cpp
def test_raw_op_stays_in_bounds() -> None:
    counts, table = fresh()
    users, items = torch.tensor([0, 2]), torch.tensor([1, 3])
    op = torch.ops.glass.sid_tier_update_
    for wrong, message in [
        ((counts, users + 1, items, table), "users must be in"),
        ((counts, users - 1, items, table), "users must be in"),
        ((counts, users, items + 2, table), "item_ids must be in"),
        ((counts, users, items - 2, table), "item_ids must be in"),
        ((counts, users[:1], items, table), "one length"),
        ((counts, users, items, table[:, :3]), "a column a code"),
        ((counts, users, items, table + 2), "table must be in"),
        ((counts[:, :, :2], users, items, table), "contiguous"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            op(*wrong, False)
    assert counts.eq(0).all()
