"""A catalogue with a table and one that is too large for it: the same histograms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from glass_kernels import tier_table, use_backend
from glass_kernels.modules import SidTier, TierHistogram, tier_edges
from glass_kernels.sid_tier.embeddings import AVAILABLE

ITEMS, CODES, TIERS, DIM = 30, 5, 4, 6
needs_cpp = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")


@pytest.fixture(autouse=True, params=["reference", pytest.param("cpp", marks=needs_cpp)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_backend(request.param):
        yield request.param


def pair(limit: int = ITEMS * CODES - 1) -> tuple[SidTier, SidTier, torch.Tensor]:
    """Modules of one catalogue, below the limit and above it, with the same weights."""
    vectors = torch.randn(ITEMS, DIM)
    vectors[3], vectors[4] = 0.0, float("nan")
    vectors[5] = vectors[6]
    sid1 = torch.arange(ITEMS) % CODES
    clean = vectors.nan_to_num()
    small = SidTier.from_embeddings(clean, sid1, CODES, TIERS, d_model=8).eval()
    large = SidTier(ITEMS, CODES, TIERS, DIM, 8, table_limit=limit).eval()
    for tier in (small, large):
        tier.rebuild(vectors, small.prototypes.clone(), small.edges.clone())
    large.mlp.load_state_dict(small.mlp.state_dict())
    return small, large, vectors


def histories() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, ITEMS, (200,)), torch.tensor([0, 0, 1, 90, 200])


@pytest.mark.parametrize(("limit", "has_table"), [(150, True), (149, False), (0, False)])
def test_the_limit_is_in_bytes(limit: int, has_table: bool) -> None:
    tier = TierHistogram(ITEMS, CODES, TIERS, DIM, table_limit=limit)
    assert (tier.table is not None) == has_table
    tier.rebuild_table(torch.randn(ITEMS, DIM))
    assert (tier.table is not None) == has_table
    assert (tier.item_embeddings is not None) == (not has_table)


def test_both_paths_give_the_same_numbers() -> None:
    small, large, vectors = pair()
    assert large.table is None
    ids, offsets = histories()
    for normalize in (True, False):
        table = small.histogram(ids, offsets, normalize=normalize)
        assert torch.equal(large.histogram(ids, offsets, normalize=normalize), table)
    assert torch.equal(large(ids, offsets), small(ids, offsets))
    for tier in (small, large):
        tier.standardize(ids, offsets)
    assert torch.equal(large.feature_scale, small.feature_scale)
    assert torch.equal(large(ids, offsets), small(ids, offsets))
    weights = torch.randint(0, 9, (ITEMS,))
    for w in (None, weights):
        torch.testing.assert_close(large.occupancy(w), small.occupancy(w), rtol=1e-12, atol=0)
    table, rows = large.rows(ids)
    assert len(table) <= ITEMS
    assert torch.equal(table[rows], tier_table(vectors, small.prototypes, small.edges)[ids])


def test_a_loaded_large_module_asks_for_its_vectors() -> None:
    _, large, vectors = pair()
    ids, offsets = histories()
    state = large.state_dict()
    assert not {"table", "item_embeddings"} & set(state)
    loaded = SidTier(ITEMS, CODES, TIERS, DIM, 8, table_limit=100).eval()
    loaded.load_state_dict(state)
    wanted = "item_embeddings are missing: .* 30 items x 5 codes passes table_limit = 100"
    for call in (loaded.occupancy, loaded.tiers_digest):
        with pytest.raises(ValueError, match=wanted):
            call()
    with pytest.raises(ValueError, match=f"{wanted}.*call set_item_embeddings"):
        loaded(ids, offsets)
    with pytest.raises(ValueError, match=r"embeddings must have shape \[30, 6\]"):
        loaded.set_item_embeddings(vectors[:29])
    loaded.set_item_embeddings(vectors)
    assert torch.equal(loaded(ids, offsets), large(ids, offsets))
    assert loaded.tiers_digest() == large.tiers_digest()


def test_the_state_dict_says_whether_there_is_a_table() -> None:
    small, large, vectors = pair()
    ids, offsets = histories()
    expected = small(ids, offsets)
    adopted = SidTier(ITEMS, CODES, TIERS, DIM, 8, table_limit=0).eval()
    adopted.load_state_dict(small.state_dict())
    assert torch.equal(adopted(ids, offsets), expected)
    # the other way round an empty table must not count in silence
    bare = SidTier(ITEMS, CODES, TIERS, DIM, 8).eval()
    bare.load_state_dict(large.state_dict())
    with pytest.raises(ValueError, match="item_embeddings are missing"):
        bare(ids, offsets)
    bare.set_item_embeddings(vectors)
    assert bare.table is not None
    assert torch.equal(bare(ids, offsets), expected)


def test_a_catalogue_grows_across_the_limit() -> None:
    small, _, vectors = pair()
    tier = TierHistogram(ITEMS, CODES, TIERS, DIM, table_limit=ITEMS * CODES)
    tier.rebuild(vectors, small.prototypes, small.edges)
    ids, offsets = histories()
    before, digest = tier.histogram(ids, offsets), tier.version
    tier.rebuild_table(torch.cat([vectors, torch.randn(1, DIM)]))
    assert tier.table is None
    assert tier.num_items == ITEMS + 1
    assert tier.version > digest
    assert torch.equal(tier.histogram(ids, offsets), before)
    tier.histogram(torch.tensor([ITEMS]), torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rounding_the_weights_leaves_the_tiers_alone(dtype: torch.dtype) -> None:
    small, large, _ = pair()
    ids, offsets = histories()
    expected = small.histogram(ids, offsets)
    for tier in (small.to(dtype), large.to(dtype)):
        assert tier.edges.dtype == tier.prototypes.dtype == torch.float32
        assert torch.equal(tier.histogram(ids, offsets), expected)
        assert tier(ids, offsets).dtype == dtype


def test_digest_changes_with_the_tiers_alone() -> None:
    small, large, vectors = pair()
    for tier in (small, large):
        digest = tier.tiers_digest()
        tier.rebuild_table(torch.cat([vectors, torch.randn(2, DIM)]))
        assert tier.tiers_digest(ITEMS) == digest
        assert tier.tiers_digest() != digest
        tier.rebuild(vectors, tier.prototypes.clone(), tier_edges("equal", TIERS))
        assert tier.tiers_digest() != digest


def test_large_module_compiles_without_a_graph_break() -> None:
    _, large, _ = pair()
    ids, offsets = histories()
    compiled = torch.compile(large, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(ids, offsets), large(ids, offsets))


def test_negative_limit() -> None:
    with pytest.raises(ValueError, match="table_limit must not be negative, was -1"):
        TierHistogram(ITEMS, CODES, TIERS, DIM, table_limit=-1)
