"""SID-Tier from the byte table: reference by hand, C++ against the reference."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels import lengths_to_offsets, sid_tier, use_backend
from glass_kernels.sid_tier.library import AVAILABLE

needs_cpp = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]


def history(lengths: list[int], items: int, codes: int, tiers: int, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, items, (sum(lengths),), generator=g)
    table = torch.randint(0, tiers, (items, codes), generator=g).to(torch.uint8)
    return ids, lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64)), table


def brute_force(ids: Tensor, offsets: Tensor, table: Tensor, tiers: int) -> Tensor:
    out = torch.zeros(len(offsets) - 1, table.shape[1], tiers)
    for b in range(len(offsets) - 1):
        for item in ids[offsets[b] : offsets[b + 1]].tolist():
            for k, tier in enumerate(table[item].tolist()):
                out[b, k, tier] += 1
    return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    table = torch.tensor([[0, 2], [1, 2], [0, 0]], dtype=torch.uint8)
    ids = torch.tensor([0, 1, 0, 2])
    offsets = torch.tensor([0, 3, 3, 4])
    counts = sid_tier(ids, offsets, table, 3, normalize=False, backend=backend)
    assert counts.dtype == torch.float32
    assert counts.tolist() == [
        [[2, 1, 0], [0, 0, 3]],
        [[0, 0, 0], [0, 0, 0]],
        [[1, 0, 0], [1, 0, 0]],
    ]
    shares = sid_tier(ids, offsets, table, 3, backend=backend)
    torch.testing.assert_close(shares[0], counts[0] / 3, rtol=0, atol=0)
    assert shares[1].eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=5),
    items=st.integers(1, 9),
    codes=st.integers(1, 40),
    tiers=st.integers(1, 11),
    seed=st.integers(0, 99),
)
def test_equals_brute_force(backend, lengths, items, codes, tiers, seed) -> None:
    ids, offsets, table = history(lengths, items, codes, tiers, seed)
    expected = brute_force(ids, offsets, table, tiers)
    result = sid_tier(ids, offsets, table, tiers, normalize=False, backend=backend)
    assert torch.equal(result, expected)


@needs_cpp
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("tiers", [1, 2, 4, 7, 8, 9, 16, 20, 255])
@pytest.mark.parametrize("codes", [1, 15, 16, 17, 33, 64, 65, 100, 128, 130])
def test_cpp_equals_reference(codes: int, tiers: int, ids_dtype: torch.dtype) -> None:
    # 255 and 256 events are where the byte counters are emptied
    ids, offsets, table = history([0, 1, 255, 0, 256, 600], 50, codes, tiers)
    ids = ids.to(ids_dtype)
    for normalize in (True, False):
        ours = sid_tier(ids, offsets, table, tiers, normalize=normalize, backend="cpp")
        theirs = sid_tier(ids, offsets, table, tiers, normalize=normalize, backend="reference")
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_tier_holds_everything(backend: str) -> None:
    ids, offsets, table = history([700, 3], 5, 70, 1)
    result = sid_tier(ids, offsets, table, 1, normalize=False, backend=backend)
    assert result[0].eq(700).all()
    assert result[1].eq(3).all()


@needs_cpp
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("simd", ["base", "avx2", "avx512"])
@pytest.mark.parametrize("tiers", [1, 2, 5, 20, 64, 65, 200])
def test_every_vector_width(monkeypatch: pytest.MonkeyPatch, tiers: int, simd: str) -> None:
    """A width the processor lacks is its widest; 700 items are too many to pack them all."""
    monkeypatch.setenv("GLASS_CPU_SIMD", simd)
    for codes, items in product([1, 8, 17, 40, 64, 72, 130, 257, 600], [20, 700]):
        ids, offsets, table = history([300, 0, 7, 90], items, codes, tiers)
        expected = sid_tier(ids, offsets, table, tiers, backend="reference")
        assert torch.equal(sid_tier(ids, offsets, table, tiers, backend="cpp"), expected)


@needs_cpp
@pytest.mark.parametrize("simd", ["base", "avx2", "avx512"])
@pytest.mark.parametrize("codes", [1, 16, 33, 64, 130])
def test_long_histories(monkeypatch: pytest.MonkeyPatch, codes: int, simd: str) -> None:
    """Counters of 16 bits are emptied after 65,024 events; here all go to one tier, or half."""
    monkeypatch.setenv("GLASS_CPU_SIMD", simd)
    ids, offsets, _ = history([65_024, 3, 131_100], 2, 1, 1)
    table = torch.zeros(2, codes, dtype=torch.uint8)
    table[1, 1::3] = 1
    table[:, ::2] = 2
    result = sid_tier(ids, offsets, table, 3, normalize=False, backend="cpp")
    ones = torch.tensor([int(part.sum()) for part in ids.split([65_024, 3, 131_100])])
    length = offsets.diff()
    for code in range(codes):
        second = ones if code % 3 == 1 and code % 2 == 1 else 0 * ones
        third = length - second if code % 2 == 0 else 0 * ones
        expected = torch.stack([length - second - third, second, third], 1)
        assert torch.equal(result[:, code], expected.float())


@needs_cpp
@pytest.mark.parametrize("tiers", [4, 200])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads(threads: int, tiers: int) -> None:
    """One user's history is longer than all others together: its parts are summed."""
    lengths = [5, 0, 40_000, 300, 20_000, *[9] * 300, 1]
    ids, offsets, table = history(lengths, 60, 24, tiers)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for normalize in (True, False):
            ours = sid_tier(ids, offsets, table, tiers, normalize=normalize, backend="cpp")
            theirs = sid_tier(ids, offsets, table, tiers, normalize=normalize, backend="reference")
            assert torch.equal(ours, theirs)
        ids[20_000] = 60
        with pytest.raises(RuntimeError, match="item_ids must be in"):
            torch.ops.glass.sid_tier(ids, offsets, table, tiers, True)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_empty(backend: str, lengths: list[int]) -> None:
    ids, offsets, table = history(lengths, 4, 20, 3)
    result = sid_tier(ids, offsets, table, 3, backend=backend)
    assert result.shape == (len(lengths), 20, 3)
    assert result.eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_items_and_no_codes(backend: str) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    offsets = torch.tensor([0, 0])
    no_items = torch.zeros(0, 5, dtype=torch.uint8)
    assert sid_tier(none, offsets, no_items, 2, backend=backend).eq(0).all()
    no_codes = torch.zeros(3, 0, dtype=torch.uint8)
    ids = torch.tensor([0, 1])
    assert sid_tier(ids, torch.tensor([0, 2]), no_codes, 2, backend=backend).shape == (1, 0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_are_read_as_they_are(backend: str) -> None:
    ids, offsets, table = history([9, 4], 6, 40, 4)
    expected = sid_tier(ids, offsets, table, 4, backend="reference")
    strided_ids = torch.stack([ids, ids], 1)[:, 0]
    strided_offsets = torch.stack([offsets, offsets], 1)[:, 1]
    strided_table = table.T.contiguous().T
    assert not strided_table.is_contiguous()
    result = sid_tier(strided_ids, strided_offsets, strided_table, 4, backend=backend)
    assert torch.equal(result, expected)


def test_default_backend_is_the_compiled_one() -> None:
    ids, offsets, table = history([5], 3, 17, 2)
    with use_backend("cpp" if AVAILABLE else "reference"):
        expected = sid_tier(ids, offsets, table, 2)
    assert torch.equal(sid_tier(ids, offsets, table, 2), expected)


def test_chunks_of_events_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from glass_kernels.sid_tier import tiers

    ids, offsets, table = history([40, 13], 6, 10, 4)
    expected = sid_tier(ids, offsets, table, 4, backend="reference")
    monkeypatch.setattr(tiers, "_CHUNK_ELEMENTS", 70)  # 7 events at once
    assert torch.equal(sid_tier(ids, offsets, table, 4, backend="reference"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_ids": torch.tensor([0, 9])}, r"item_ids must be in \[0, 3\), held 9"),
        ({"item_ids": torch.tensor([-1, 0])}, "item_ids must be in .* held -1"),
        ({"item_ids": torch.tensor([0.0, 1.0])}, "item_ids must be int32 or int64"),
        ({"item_ids": torch.tensor([[0, 1]])}, "item_ids must have 1 dimensions"),
        ({"offsets": torch.tensor([0, 1])}, "offsets must end at the number of values 2"),
        ({"offsets": torch.tensor([0, 2, 1, 2])}, "offsets must not fall"),
        ({"offsets": torch.tensor([0, 2], dtype=torch.int32)}, "offsets must be int64"),
        ({"table": torch.zeros(3, 2)}, "table must be uint8, was float32"),
        ({"table": torch.zeros(3, dtype=torch.uint8)}, "table must have 2 dimensions"),
        ({"num_tiers": 0}, r"num_tiers must be an integer in \[1, 255\], was 0"),
        ({"num_tiers": 256}, "num_tiers must be"),
        ({"num_tiers": 2}, "table must hold tiers below num_tiers = 2, held 2"),
        ({"backend": "fast"}, "backend is 'fast'"),
    ],
)
def test_mistakes_name_the_argument(change: dict, message: str) -> None:
    arguments = {
        "item_ids": torch.tensor([0, 1]),
        "offsets": torch.tensor([0, 2]),
        "table": torch.tensor([[0, 2], [1, 2], [0, 0]], dtype=torch.uint8),
        "num_tiers": 3,
    }
    sid_tier(**arguments)
    with pytest.raises(ValueError, match=message):
        sid_tier(**{**arguments, **change})


def test_a_changed_table_is_looked_at_again() -> None:
    ids, offsets, table = history([5], 3, 4, 2)
    sid_tier(ids, offsets, table, 2)
    table[0, 0] = 7
    with pytest.raises(ValueError, match="held 7"):
        sid_tier(ids, offsets, table, 2)


@needs_cpp
def test_raw_op_stays_in_bounds() -> None:
    ids, offsets, table = history([5, 2], 3, 20, 2)
    op = torch.ops.glass.sid_tier
    with pytest.raises(RuntimeError, match="item_ids must be in"):
        op(ids + 3, offsets, table, 2, True)
    with pytest.raises(RuntimeError, match="offsets must start at 0"):
        op(ids[:3], offsets, table, 2, True)
    table[2, 19] = 2
    for tiers in (2, 1):
        with pytest.raises(RuntimeError, match="table must hold tiers below num_tiers"):
            op(torch.full_like(ids, 2), offsets, table, tiers, False)
    wide = torch.full((3, 20), 255, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="table must hold tiers below num_tiers = 255"):
        op(ids, offsets, wide, 255, False)


@needs_cpp
@pytest.mark.parametrize("normalize", [True, False])
def test_opcheck(normalize: bool) -> None:
    ids, offsets, table = history([5, 0, 2], 3, 20, 4)
    torch.library.opcheck(torch.ops.glass.sid_tier, (ids, offsets, table, 4, normalize))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_graph_break(backend: str) -> None:
    ids, offsets, table = history([5, 0, 2], 3, 20, 4)
    compiled = torch.compile(
        lambda *x: sid_tier(*x, 4, backend=backend) * 2, fullgraph=True, backend="aot_eager"
    )
    expected = sid_tier(ids, offsets, table, 4) * 2
    assert torch.equal(compiled(ids, offsets, table), expected)


def test_exports_with_any_number_of_events() -> None:
    if not AVAILABLE:
        pytest.skip("the C++ operators are not built")

    class Net(torch.nn.Module):
        def forward(self, ids: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
            return sid_tier(ids, offsets, table, 4)

    arguments = history([5, 0, 2], 3, 20, 4)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(Net(), arguments, dynamic_shapes=({0: auto}, {0: auto}, None))
    ids, offsets, _ = history([9, 1, 1, 30], 3, 20, 4, seed=1)
    result = program.module()(ids, offsets, arguments[2])
    assert torch.equal(result, sid_tier(ids, offsets, arguments[2], 4))
