"""Properties of SID-Tier that hold for any two backends; Triton's are in triton/."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tier_cases import Vectors, broken_offsets, histories, tables, vectors
from torch import Tensor

from glass_kernels import (
    sid_tier,
    sid_tier_from_embeddings,
    sid_tier_update_,
    tier_table,
    use_backend,
)
from glass_kernels.backend import runs_on
from glass_kernels.sid_tier import _FROM_EMBEDDINGS, _SID_TIER, AVAILABLE

CPU = torch.device("cpu")


def backends(implementations: dict[str, object]) -> list[str]:
    """Those that take CPU tensors; Triton's interpreter has a process of its own."""
    return [name for name in implementations if name != "triton" and runs_on(name, CPU)]


TABLE = backends(_SID_TIER)
EMBEDDINGS = backends(_FROM_EMBEDDINGS)


def assert_all_equal(results: dict[str, Tensor]) -> None:
    for one, other in combinations(results, 2):
        assert torch.equal(results[one], results[other]), f"{one} and {other} differ"


def test_there_are_two_to_compare() -> None:
    if AVAILABLE:
        assert {"cpp", "reference"} <= set(TABLE) & set(EMBEDDINGS)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_table_path(data: st.DataObject) -> None:
    history = data.draw(histories(longest=257))
    table, num_tiers = data.draw(tables(history.num_items))
    for normalize in (True, False):
        results = {
            name: sid_tier(
                history.ids, history.offsets, table, num_tiers, normalize=normalize, backend=name
            )
            for name in TABLE
        }
        assert_all_equal(results)
    counts = results["reference"]
    length = history.offsets.diff()
    assert counts.sum(2).eq(length[:, None]).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_embeddings_path(data: st.DataObject) -> None:
    """Edges hit exactly, 1 + eps, zero, NaN, infinite, huge and tiny vectors are among these."""
    history = data.draw(histories())
    v: Vectors = data.draw(vectors(history.num_items))
    num_tiers = len(v.edges) - 1
    problem = history.ids, history.offsets, v.items, v.prototypes, v.edges
    for normalize in (True, False):
        results = {
            name: sid_tier_from_embeddings(*problem, normalize=normalize, backend=name)
            for name in EMBEDDINGS
        }
        for name in ("cpp", "reference") if AVAILABLE else ("reference",):
            with use_backend(name):
                table = tier_table(v.items, v.prototypes, v.edges)
                results[f"{name} table"] = sid_tier(
                    history.ids, history.offsets, table, num_tiers, normalize=normalize
                )
        assert_all_equal(results)


@settings(max_examples=60, deadline=None)
@given(dim=st.integers(1, 40), codes=st.integers(1, 70), seed=st.integers(0, 999))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_cosine_of_one_and_a_bit(dtype: torch.dtype, dim: int, codes: int, seed: int) -> None:
    """Every vector is in the last tier of its own prototype, and its opposite in the first."""
    prototypes = torch.randn(codes, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
    prototypes[prototypes.abs().amax(1) == 0] = 1.0
    items = torch.cat([prototypes, -prototypes])
    edges = torch.tensor([-1.0, -0.9999, 0.9999, 1.0])
    each = torch.arange(2 * codes), torch.arange(2 * codes + 1)
    code = torch.arange(codes)
    for name in EMBEDDINGS:
        counts = sid_tier_from_embeddings(
            *each, items, prototypes, edges, normalize=False, backend=name
        )
        assert counts[code, code, 2].eq(1).all(), name
        assert counts[code + codes, code, 0].eq(1).all(), name


@settings(max_examples=80, deadline=None)
@given(
    dim=st.integers(1, 9), at=st.integers(0, 8), bad=st.sampled_from(["0", "nan", "inf", "-inf"])
)
@pytest.mark.parametrize("side", ["item", "prototype"])
def test_a_vector_without_direction_has_cosine_zero(side: str, dim: int, at: int, bad) -> None:
    items, prototypes = torch.ones(3, dim), torch.ones(4, dim)
    broken = items if side == "item" else prototypes
    broken[1, :] = 0.0 if bad == "0" else 1.0
    broken[1, at % dim] = float(bad)
    ids, offsets = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 4])
    edges = torch.tensor([-1.0, 0.0, 0.5, 1.0])  # 0 opens the second tier
    expected = torch.zeros(2, 4, 3)
    expected[:, :, 2] = torch.tensor([1.0, 3.0])[:, None]
    if side == "item":
        expected[1, :, 1:] = torch.tensor([2.0, 1.0])
    else:
        expected[:, 1] = 0
        expected[:, 1, 1] = torch.tensor([1.0, 3.0])
    for name in EMBEDDINGS:
        counts = sid_tier_from_embeddings(
            ids, offsets, items, prototypes, edges, normalize=False, backend=name
        )
        assert torch.equal(counts, expected), name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ids_out_of_range_are_refused_by_name(data: st.DataObject) -> None:
    history = data.draw(histories().filter(lambda h: len(h.ids) > 0))
    wrong = data.draw(st.sampled_from([-1, history.num_items, 2**31 - 1, -(2**31)]))
    ids = history.ids.clone()
    ids[data.draw(st.integers(0, len(ids) - 1))] = wrong
    table = torch.zeros(history.num_items, 3, dtype=torch.uint8)
    message = rf"item_ids must be in \[0, {history.num_items}\), held {wrong}"
    for name in TABLE:
        with pytest.raises(ValueError, match=message):
            sid_tier(ids, history.offsets, table, 2, backend=name)
    items, prototypes = torch.ones(history.num_items, 2), torch.ones(3, 2)
    for name in EMBEDDINGS:
        with pytest.raises(ValueError, match=message):
            sid_tier_from_embeddings(
                ids, history.offsets, items, prototypes, [-1, 0, 1], backend=name
            )
    counts = torch.zeros(1, 3, 2, dtype=torch.int32)
    for name in ("cpp", "reference") if AVAILABLE else ("reference",):
        with use_backend(name), pytest.raises(ValueError, match=message):
            sid_tier_update_(counts, torch.zeros_like(ids), ids, table)
    assert counts.eq(0).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("start", "offsets must start at 0, started at 1"),
        ("end", "offsets must end at the number of values"),
        ("falls", "offsets must not fall"),
        ("negative", "offsets must not fall, went from 0 to -1"),
        ("dtype", "offsets must be int64"),
    ],
)
def test_broken_offsets_are_refused_by_name(kind: str, message: str, data: st.DataObject) -> None:
    history = data.draw(histories().filter(lambda h: len(h.offsets) > 2))
    offsets = broken_offsets(history.offsets, kind)
    table = torch.zeros(history.num_items, 3, dtype=torch.uint8)
    for name in TABLE:
        with pytest.raises(ValueError, match=message):
            sid_tier(history.ids, offsets, table, 2, backend=name)
    items, prototypes = torch.ones(history.num_items, 2), torch.ones(3, 2)
    for name in EMBEDDINGS:
        with pytest.raises(ValueError, match=message):
            sid_tier_from_embeddings(
                history.ids, offsets, items, prototypes, [-1, 0, 1], backend=name
            )


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_updates_equal_the_count(data: st.DataObject) -> None:
    """Adding all events and taking some back is the histogram of the others."""
    history = data.draw(histories().filter(lambda h: len(h.offsets) > 1))
    table, num_tiers = data.draw(tables(history.num_items))
    lengths = history.offsets.diff()
    users = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    gone = torch.rand(len(users)) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    results = {}
    for name in ("cpp", "reference") if AVAILABLE else ("reference",):
        counts = torch.zeros(len(lengths), table.shape[1], num_tiers, dtype=torch.int32)
        with use_backend(name):
            sid_tier_update_(counts, users, history.ids, table)
            sid_tier_update_(counts, users[gone], history.ids[gone], table, remove=True)
        results[name] = counts.float()
    left = torch.bincount(users[~gone], minlength=len(lengths))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), left.cumsum(0)])
    results["recount"] = sid_tier(
        history.ids[~gone], offsets, table, num_tiers, normalize=False, backend="reference"
    )
    assert_all_equal(results)
