"""SID-Tier without a table, and the table, in C++: equal to the reference, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels import lengths_to_offsets, sid_tier_from_embeddings, tier_table, use_backend
from glass_kernels.sid_tier.embeddings import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PAPER = [-1.0, -0.1, 0.0, 0.1, 1.0]


@pytest.fixture(params=["", "avx2", "base"], ids=["best", "avx2", "base"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GLASS_CPU_SIMD", request.param)
    return request.param


@pytest.fixture
def flushes_denormals() -> Iterator[None]:
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def vectors(count: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random rows, of which some are zero, not finite, or of extreme length."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    odd = [0.0, float("nan"), float("inf"), 1e-4, 3e4]
    odd += [] if dtype == torch.float16 else [1e30, 1e-37]
    for row, scale in enumerate(odd[: count // 2]):
        rows[row] *= scale
    return rows.to(dtype)


def assert_equal_tables(items: Tensor, prototypes: Tensor, edges: Tensor | list[float]) -> Tensor:
    with use_backend("cpp"):
        ours = tier_table(items, prototypes, edges)
    with use_backend("reference"):
        theirs = tier_table(items, prototypes, edges)
    assert torch.equal(ours, theirs)
    return ours


def assert_equal(ids, offsets, items, prototypes, edges, normalize=True) -> None:
    arguments = ids, offsets, items, prototypes, edges
    ours = sid_tier_from_embeddings(*arguments, normalize=normalize, backend="cpp")
    theirs = sid_tier_from_embeddings(*arguments, normalize=normalize, backend="reference")
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [1, 2, 7, 64, 128, 130, 300])
def test_equals_reference(dim: int, dtype: torch.dtype) -> None:
    ids = torch.randint(0, 37, (140,))
    offsets = lengths_to_offsets(torch.tensor([0, 70, 1, 0, 69]))
    items = vectors(37, dim, dtype)
    for codes, tiers in ((1, 4), (5, 255), (16, 1), (33, 2), (130, 20)):
        prototypes, edges = vectors(codes, dim, dtype, seed=1), torch.linspace(-1, 1, tiers + 1)
        assert_equal_tables(items, prototypes, edges)
        assert_equal(ids, offsets, items, prototypes, edges)
        assert_equal(ids.int(), offsets, items, prototypes, edges, normalize=False)


@pytest.mark.usefixtures("simd")
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=5),
    count=st.integers(1, 30),
    dim=st.integers(1, 40),
    codes=st.integers(1, 40),
    inner=st.lists(st.floats(-1.125, 1.125, width=16), max_size=12, unique=True),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    whole=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_shape_and_edges(lengths, count, dim, codes, inner, dtype, whole, seed) -> None:
    # small whole numbers hit edges exactly: 0, 0.5, 1
    g = torch.Generator().manual_seed(seed)
    if whole:
        items = torch.randint(-2, 3, (count, dim), generator=g).to(dtype)
        prototypes = torch.randint(-2, 3, (codes, dim), generator=g).to(dtype)
    else:
        items, prototypes = vectors(count, dim, dtype, seed), vectors(codes, dim, dtype, seed + 1)
    edges = [-2.0, *sorted(inner), 2.0]
    ids = torch.randint(0, count, (sum(lengths),), generator=g)
    offsets = lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))
    assert_equal_tables(items, prototypes, edges)
    assert_equal(ids, offsets, items, prototypes, edges)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("dtype", FLOATS)
def test_edges_at_the_cosines_themselves(dtype: torch.dtype) -> None:
    # every cosine is an edge of some code: float32 products alone would be a coin toss
    items, prototypes = torch.randn(40, 128).to(dtype), torch.randn(6, 128).to(dtype)
    a, b = items.double(), prototypes.double()
    cosine = (a @ b.T) / (a.norm(dim=1)[:, None] * b.norm(dim=1))
    wide = dtype == torch.float64
    edges = cosine.flatten().sort().values.to(torch.float64 if wide else torch.float32)
    if wide:
        edges = (edges[1:] + edges[:-1]) / 2  # the reference itself is off by 1e-16
    edges = torch.cat([edges.new_tensor([-1.0]), edges.unique(), edges.new_tensor([1.0])])
    table = assert_equal_tables(items, prototypes, edges)
    assert len(table.unique()) == len(edges) - 1 - (0 if wide else 1)


def test_cosines_a_few_float32_steps_from_an_edge() -> None:
    edges = torch.tensor([-1, 0.6 + 2.0**-23, 1], dtype=torch.float64)
    prototype = torch.tensor([[1.0, 0.0]])
    tiers = []
    for step in range(-40, 41):
        a = 3.0 + step * 2.0**-22
        vector = torch.tensor([[a, 4.0]])
        cosine_squared = Fraction(a) ** 2 / (Fraction(a) ** 2 + 16)
        assert_equal_tables(vector, prototype, edges)
        wide = assert_equal_tables(vector.double(), prototype.double(), edges)
        assert wide.item() == (cosine_squared >= Fraction(edges[1].item()) ** 2)
        tiers.append(wide.item())
    assert tiers == sorted(tiers)
    assert 0 < sum(tiers) < len(tiers)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_orthogonal_vectors_open_the_tier_at_zero(backend: str, dtype: torch.dtype) -> None:
    # a . b = 0 exactly, but the unit vectors' products leave noise of either sign
    a = torch.randint(-9, 10, (300, 8), dtype=torch.float64)
    b = torch.stack([-a[:, 1], a[:, 0], -a[:, 3], a[:, 2], -a[:, 5], a[:, 4], -a[:, 7], a[:, 6]], 1)
    assert (a * b).sum(1).eq(0).all()
    with use_backend(backend):
        table = tier_table(a.to(dtype), b.to(dtype), PAPER)
    assert table.diagonal().eq(2).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_parallel_vectors_stay_in_the_last_tier(dtype: torch.dtype) -> None:
    items = torch.randn(200, 31).to(dtype)
    table = assert_equal_tables(items, items, [-1.0, 0.0, 0.999, 1.0])
    assert table.diagonal().eq(2).all()
    assert assert_equal_tables(items, -items, [-1.0, -0.999, 1.0]).diagonal().eq(0).all()


def test_every_float16_and_bfloat16_is_read_exactly() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = bits.view(dtype)
        # the cosine of (x, 1) with (1, 0) tells x; what is not finite has cosine 0
        one = torch.ones_like(values)
        edges = torch.linspace(-1, 1, 256)
        table = assert_equal_tables(
            torch.stack([values, one], 1), torch.tensor([[1.0, 0.0]]).to(dtype), edges
        )
        assert len(table.unique()) > 100
        if dtype == torch.float16:  # the smallest ones, beside one another
            tiny = torch.stack([values, values.flip(0)], 1)
            assert_equal_tables(tiny, torch.tensor([[1.0, 0.3]]).to(dtype), edges)


@pytest.mark.usefixtures("flushes_denormals")
def test_float16_denormals_survive_flushing() -> None:
    items = torch.tensor([[1, 2], [3, -1]], dtype=torch.int16).view(torch.float16)
    plain = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
    edges = torch.linspace(-1, 1, 256)
    table = torch.ops.glass.tier_table(items, torch.tensor([[1.0, 0.5]]), edges)
    expected = torch.ops.glass.tier_table(plain, torch.tensor([[1.0, 0.5]]), edges)
    assert torch.equal(table, expected)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize(
    "lengths",
    [
        [0, 500, 0, 3000, 0, 10, 2, 1048, 1048, 0],
        [4000],
        [1048, 1048, 1048, 5],
        [1] * 2500,
        [0, 0, 9000, 0],
    ],
    ids=["mixed", "one", "at the border", "short", "long"],
)
def test_histories_over_several_blocks(lengths: list[int]) -> None:
    # 2000 codes leave room for 1048 distinct items in a block
    items, prototypes, edges = vectors(5000, 2), vectors(2000, 2, seed=1), [-1.0, -0.3, 0.4, 1.0]
    ids, offsets = (
        torch.randint(0, 5000, (sum(lengths),)),
        lengths_to_offsets(torch.tensor(lengths)),
    )
    table = tier_table(items, prototypes, edges)
    for normalize in (True, False):
        ours = sid_tier_from_embeddings(
            ids, offsets, items, prototypes, edges, normalize=normalize, backend="cpp"
        )
        index = table[ids].long() + 3 * torch.arange(2000)
        for user, (begin, end) in enumerate(pairwise(offsets)):
            if len(lengths) > 20 and user % 100:
                continue
            counts = torch.bincount(index[begin:end].flatten(), minlength=6000)
            if normalize:
                counts = counts.double() / max(int(end - begin), 1)
            assert torch.equal(ours[user].flatten(), counts.float())


def test_more_events_than_a_block() -> None:
    total = 2**18 + 1000
    items, prototypes = vectors(9, 3), vectors(2, 3, seed=1)
    ids, offsets = torch.randint(0, 9, (total,)), torch.tensor([0, 10, total - 5, total])
    assert_equal(ids, offsets, items, prototypes, PAPER, normalize=False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_events(lengths: list[int]) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    offsets = lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))
    for items in (torch.randn(4, 3), torch.zeros(0, 3)):
        result = sid_tier_from_embeddings(
            none, offsets, items, torch.randn(5, 3), PAPER, backend="cpp"
        )
        assert result.shape == (len(lengths), 5, 4)
        assert result.eq(0).all()


def test_no_codes_and_no_items() -> None:
    items, none = torch.randn(4, 3), torch.zeros(0, 3)
    ids, offsets = torch.tensor([0, 3]), torch.tensor([0, 2])
    assert sid_tier_from_embeddings(ids, offsets, items, none, PAPER).shape == (1, 0, 4)
    assert tier_table(items, none, PAPER).shape == (4, 0)
    assert tier_table(none, items, PAPER).shape == (0, 4)


def test_views_are_read_as_they_are() -> None:
    items, prototypes = torch.randn(6, 10).T[:, ::2], torch.randn(3, 14).T[::2]
    edges = torch.linspace(-1, 1, 9).flip(0).neg()[::2]
    ids = torch.randint(0, 10, (13, 2))[:, 0]
    offsets = torch.tensor([0, 0, 9, 9, 13])[::2]
    assert not items.is_contiguous()
    assert not prototypes.is_contiguous()
    assert_equal_tables(items, prototypes, edges)
    assert_equal(ids, offsets, items, prototypes, edges)


@pytest.mark.parametrize("inner", [[], [0.0], [0.0, 1e-7, 2e-7], [-5.0, -1.5, 3.0, 1e30], [1.0]])
def test_unusual_edges(inner: list[float]) -> None:
    items, prototypes = vectors(60, 40), vectors(20, 40, seed=1)
    assert_equal_tables(items, prototypes, [-float("inf"), *inner, float("inf")])


def test_prototypes_of_another_dtype() -> None:
    items, prototypes = torch.randn(30, 12), torch.randn(7, 12)
    for dtype in FLOATS:
        assert_equal_tables(items, prototypes.to(dtype), PAPER)
        assert_equal_tables(items.to(dtype), prototypes, PAPER)


def test_threads_do_not_change_the_result() -> None:
    items, prototypes = torch.randn(900, 20), torch.randn(70, 20)
    ids, offsets = torch.randint(0, 900, (5000,)), torch.tensor([0, 4000, 4100, 5000])
    one = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER, backend="cpp")
    torch.set_num_threads(3)
    try:
        many = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER, backend="cpp")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, many)


def raw_arguments() -> dict[str, Tensor | bool]:
    return {
        "item_ids": torch.tensor([0, 3, 1]),
        "offsets": torch.tensor([0, 1, 3]),
        "item_embeddings": torch.randn(4, 3),
        "prototypes": torch.randn(2, 3),
        "edges": torch.tensor(PAPER),
        "normalize": True,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_ids": torch.tensor([0, 4, 1])}, r"item_ids must be in \[0, 4\)"),
        ({"item_ids": torch.tensor([0, -1, 1])}, "item_ids must be in"),
        ({"item_ids": torch.tensor([0, 2**40, 1])}, "item_ids must be in"),
        ({"item_ids": torch.tensor([0.0, 1.0, 1.0])}, "item_ids must be int32 or int64"),
        ({"offsets": torch.tensor([0, 4, 3])}, "offsets must not fall"),
        ({"offsets": torch.tensor([0, 2])}, "offsets must start at 0 and end at 3"),
        ({"offsets": torch.tensor([], dtype=torch.int64)}, "offsets must not be empty"),
        ({"prototypes": torch.randn(2, 4)}, "prototypes must have 3 columns"),
        ({"prototypes": torch.ones(2, 3, dtype=torch.int32)}, "prototypes must be float32"),
        ({"item_embeddings": torch.ones(4, 3, dtype=torch.int32)}, "item_embeddings must be fl"),
        ({"item_embeddings": torch.ones(4, 0)}, "item_embeddings must have at least one column"),
        ({"edges": torch.tensor([0.0])}, "edges must hold"),
        ({"edges": torch.linspace(-1, 1, 257)}, "edges must hold"),
        ({"edges": torch.tensor([0.0, float("nan"), 1.0])}, "edges must be strictly increasing"),
        ({"edges": torch.tensor([0, 1])}, "edges must be float32 or float64"),
    ],
)
def test_raw_op_stays_in_bounds(change: dict, message: str) -> None:
    op = torch.ops.glass.sid_tier_from_embeddings
    op(*raw_arguments().values())
    with pytest.raises(RuntimeError, match=message):
        op(*{**raw_arguments(), **change}.values())


def test_opcheck() -> None:
    arguments = tuple(raw_arguments().values())
    torch.library.opcheck(torch.ops.glass.sid_tier_from_embeddings.default, arguments)
    torch.library.opcheck(torch.ops.glass.tier_table.default, arguments[2:5])


def test_compiles_without_a_graph_break() -> None:
    *tensors, _ = raw_arguments().values()

    def both(ids, offsets, items, prototypes, edges):
        return (
            sid_tier_from_embeddings(ids, offsets, items, prototypes, edges),
            tier_table(items, prototypes, edges),
        )

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=True)
    for ours, expected in zip(compiled(*tensors), both(*tensors), strict=True):
        assert torch.equal(ours, expected)


def test_no_gradient_reaches_the_embeddings() -> None:
    arguments = raw_arguments()
    arguments["item_embeddings"].requires_grad_()
    public = sid_tier_from_embeddings(*list(arguments.values())[:5], backend="cpp")
    assert not public.requires_grad
    raw = torch.ops.glass.sid_tier_from_embeddings(*arguments.values())
    with pytest.raises(RuntimeError, match="has no gradient"):
        raw.sum().backward()
