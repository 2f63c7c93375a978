"""The rule of the tiers, the table and the path without a table."""

from __future__ import annotations

import pytest
import torch

from glass_kernels import (
    lengths_to_offsets,
    sid_tier,
    sid_tier_from_embeddings,
    tier_table,
)

PAPER = [-1.0, -0.1, 0.0, 0.1, 1.0]


def one(vector: list[float], prototype: list[float], edges: list[float]) -> int:
    return tier_table(torch.tensor([vector]), torch.tensor([prototype]), edges).item()


@pytest.mark.parametrize(
    ("vector", "tier"),
    [
        ([-1.0, 0.0], 0),  # cosine -1: the first tier holds its lower edge
        ([-0.0995037, 0.99503719], 1),  # -0.0995
        ([0.0, 1.0], 2),  # 0 opens the third tier
        ([1.0, 10.0], 2),  # 0.0995
        ([2.0, 10.0], 3),
        ([5.0, 0.0], 3),  # cosine 1: the last tier is closed
        ([0.0, 0.0], 2),  # a zero vector has cosine 0
        ([float("nan"), 1.0], 2),
        ([float("inf"), 1.0], 2),
        ([-float("inf"), 1.0], 2),
        ([-3e38, 3e38], 0),  # the squares would overflow
        ([-1e-44, 0.0], 0),  # the squares would vanish
    ],
)
def test_tier_of_a_cosine(vector: list[float], tier: int) -> None:
    assert one(vector, [2.0, 0.0], PAPER) == tier


def test_edge_belongs_to_the_tier_it_opens() -> None:
    # (3, 4) and (1, 0): cosine 0.6 exactly as float32 rounds 0.6
    assert one([3.0, 4.0], [1.0, 0.0], [-1, 0.6, 1]) == 1
    assert one([3.0, 4.0], [1.0, 0.0], [-1, 0.60001, 1]) == 0
    assert one([3.0, -4.0], [0.0, 1.0], [-1, -0.8, 1]) == 1


def test_outside_the_edges_goes_to_the_nearest_tier() -> None:
    edges = [-0.5, 0.0, 0.5]
    assert one([-1.0, 0.0], [1.0, 0.0], edges) == 0
    assert one([1.0, 0.0], [1.0, 0.0], edges) == 1


def test_cosine_above_one_by_rounding_stays_in_the_last_tier() -> None:
    vectors = torch.randn(2000, 7)
    table = tier_table(vectors, vectors, [-1.0, 0.0, 1.0])
    assert table.diagonal().eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_table_against_float64(dtype: torch.dtype) -> None:
    items, prototypes = torch.randn(200, 9).to(dtype), torch.randn(13, 9).to(dtype)
    edges = torch.linspace(-1, 1, 8, dtype=torch.float64)
    table = tier_table(items, prototypes, edges)
    assert table.dtype == torch.uint8
    assert table.shape == (200, 13)
    a, b = items.double(), prototypes.double()
    cosine = (a @ b.T) / (a.norm(dim=1)[:, None] * b.norm(dim=1))
    compared = torch.float64 if dtype == torch.float64 else torch.float32
    cosine, edges = cosine.to(compared), edges.to(compared)
    expected = (cosine[..., None] >= edges[1:-1]).sum(-1)
    assert torch.equal(table.long(), expected)


def test_table_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from glass_kernels.sid_tier import tiers

    items, prototypes = torch.randn(301, 8), torch.randn(5, 8)
    edges = torch.linspace(-1, 1, 256)
    whole = tier_table(items, prototypes, edges)
    monkeypatch.setattr(tiers, "_CHUNK_ELEMENTS", 24)
    assert torch.equal(tier_table(items, prototypes, edges), whole)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("codes", "tiers"), [(1, 1), (7, 4), (33, 20), (5, 255)])
def test_both_paths_agree(codes: int, tiers: int, ids_dtype: torch.dtype, normalize: bool) -> None:
    items, prototypes = torch.randn(40, 6), torch.randn(codes, 6)
    items[3], prototypes[0] = 0.0, float("nan")
    edges = torch.linspace(-1, 1, tiers + 1)
    offsets = lengths_to_offsets(torch.tensor([0, 70, 1, 0, 19]))
    ids = torch.randint(0, 40, (90,)).to(ids_dtype)
    direct = sid_tier_from_embeddings(ids, offsets, items, prototypes, edges, normalize=normalize)
    table = tier_table(items, prototypes, edges)
    assert torch.equal(direct, sid_tier(ids, offsets, table, tiers, normalize=normalize))
    assert direct.shape == (5, codes, tiers)


def test_from_embeddings_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from glass_kernels.sid_tier import tiers

    items, prototypes = torch.randn(40, 6), torch.randn(9, 6)
    ids, offsets = torch.randint(0, 40, (90,)), torch.tensor([0, 50, 90])
    whole = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER)
    monkeypatch.setattr(tiers, "_CHUNK_ELEMENTS", 100)
    chunked = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER)
    assert torch.equal(chunked, whole)


def test_no_gradient_and_none_silently_zero() -> None:
    items = torch.randn(4, 3, requires_grad=True)
    prototypes = torch.randn(2, 3, requires_grad=True)
    ids, offsets = torch.tensor([0, 3]), torch.tensor([0, 2])
    result = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER)
    assert not result.requires_grad
    assert not tier_table(items, prototypes, PAPER).requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        result.sum().backward()


def test_compiles_without_a_graph_break() -> None:
    items, prototypes, edges = torch.randn(9, 4), torch.randn(3, 4), torch.tensor(PAPER)
    ids, offsets = torch.tensor([0, 8, 2]), torch.tensor([0, 1, 3])
    compiled = torch.compile(sid_tier_from_embeddings, fullgraph=True, backend="aot_eager")
    expected = sid_tier_from_embeddings(ids, offsets, items, prototypes, edges)
    assert torch.equal(compiled(ids, offsets, items, prototypes, edges), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [-1, 0, 0, 1]}, "edges must be strictly increasing"),
        ({"edges": [-1, float("nan"), 1]}, "edges must be strictly increasing"),
        ({"edges": [0.0]}, "edges must hold N"),
        ({"edges": torch.linspace(-1, 1, 257)}, "edges must hold N"),
        ({"prototypes": torch.ones(2, 4)}, r"prototypes must have shape \[any, 3\], had"),
        ({"item_embeddings": torch.ones(4, 3, dtype=torch.int32)}, "item_embeddings must be fl"),
        ({"item_embeddings": torch.ones(3)}, "item_embeddings must have 2 dimensions"),
        ({"item_embeddings": torch.ones(4, 0)}, "item_embeddings must have at least one column"),
    ],
)
def test_mistakes_name_the_argument(change: dict, message: str) -> None:
    arguments = {
        "item_embeddings": torch.ones(4, 3),
        "prototypes": torch.ones(2, 3),
        "edges": PAPER,
    }
    with pytest.raises(ValueError, match=message):
        tier_table(**{**arguments, **change})
    with pytest.raises(ValueError, match=message):
        sid_tier_from_embeddings(torch.tensor([0]), torch.tensor([0, 1]), **{**arguments, **change})


def test_ids_are_checked() -> None:
    with pytest.raises(ValueError, match="item_ids must be in"):
        sid_tier_from_embeddings(
            torch.tensor([4]), torch.tensor([0, 1]), torch.ones(4, 3), torch.ones(2, 3), PAPER
        )
