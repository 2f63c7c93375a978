"""Prototypes, edges, occupancy and the SidTier module."""

from __future__ import annotations

import pytest
import torch

from glass_kernels import sid_tier, tier_table, use_backend
from glass_kernels.modules import SidTier, sid_prototypes, tier_edges, tier_occupancy
from glass_kernels.sid_tier.library import AVAILABLE


def test_prototypes_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 7.0]])
    got = sid_prototypes(vectors, torch.tensor([0, 0, 2], dtype=torch.int32), 4)
    mean = [4 / 3, 3.0]
    expected = torch.tensor([[2.0, 1.0], mean, [0.0, 7.0], mean])
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([0, 4, 1]), r"sid1 must be in \[0, 4\), held 4"),
        (torch.tensor([0, 1]), r"sid1 must have shape \[3\]"),
    ],
)
def test_prototype_mistakes(codes: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sid_prototypes(torch.ones(3, 2), codes, 4)


def test_paper_and_equal_edges() -> None:
    torch.testing.assert_close(tier_edges("paper", 4), torch.tensor([-1, -0.1, 0, 0.1, 1]))
    torch.testing.assert_close(tier_edges("equal", 4), torch.tensor([-1, -0.5, 0, 0.5, 1]))
    assert tier_edges("equal", 255).diff().min() > 0
    assert tier_edges("equal", 1).tolist() == [-1, 1]


@pytest.mark.parametrize("num_tiers", [2, 4, 20])
def test_quantile_tiers_hold_equal_shares(num_tiers: int) -> None:
    # a narrow cone: equal tiers would all but stand empty
    vectors, prototypes = torch.randn(500, 8) + 2, torch.randn(16, 8) + 2
    edges = tier_edges("quantile", num_tiers, vectors, prototypes)
    assert edges.dtype == torch.float32
    assert (edges[0], edges[-1]) == (-1, 1)
    assert edges.diff().min() > 0
    share = tier_occupancy(tier_table(vectors, prototypes, edges), num_tiers)
    torch.testing.assert_close(share, torch.full_like(share, 1 / num_tiers), rtol=0, atol=2 / 8000)


def test_quantile_edges_by_weight() -> None:
    vectors, prototypes = torch.randn(400, 5), torch.randn(3, 5)
    weights = torch.randint(0, 50, (400,))
    edges = tier_edges("quantile", 4, vectors, prototypes, weights=weights)
    table = tier_table(vectors, prototypes, edges)
    share = tier_occupancy(table, 4, weights)
    one_item = 2 * 50 / (weights.sum().item() * 3)
    torch.testing.assert_close(share, torch.full_like(share, 0.25), rtol=0, atol=one_item)
    assert not torch.allclose(tier_occupancy(table, 4), share, atol=1e-4)


def test_geometric_edges_by_hand() -> None:
    # cosines 0.1, 0.2, .. 0.8 with the only prototype
    cosine = torch.arange(1, 9) / 10
    vectors = torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1)
    prototype = torch.tensor([[1.0, 0.0]])
    edges = tier_edges("geometric", 4, vectors, prototype)
    # half of the eight lie below 0.5, a quarter from there to 0.7, an eighth each in the last two
    torch.testing.assert_close(edges, torch.tensor([-1, 0.5, 0.7, 0.8, 1]), rtol=0, atol=1e-6)
    share = tier_occupancy(tier_table(vectors, prototype, edges), 4)
    assert share.tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 8]
    assert tier_edges("geometric", 1, vectors, prototype).tolist() == [-1, 1]


def test_geometric_shares_by_weight() -> None:
    vectors, prototypes = torch.randn(400, 5), torch.randn(3, 5)
    weights = torch.randint(0, 50, (400,))
    edges = tier_edges("geometric", 5, vectors, prototypes, weights=weights)
    share = tier_occupancy(tier_table(vectors, prototypes, edges), 5, weights)
    expected = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16], dtype=torch.float64)
    one_item = 2 * 50 / (weights.sum().item() * 3)
    torch.testing.assert_close(share, expected, rtol=0, atol=one_item)


def test_geometric_edges_increase_where_shares_vanish() -> None:
    # 2**-254 of the cosines is none of them: many edges fall on the largest cosine
    vectors, prototypes = torch.randn(50, 3), torch.randn(2, 3)
    edges = tier_edges("geometric", 255, vectors, prototypes)
    assert (edges[0], edges[-1]) == (-1, 1)
    assert edges.diff().min() > 0


def test_quantile_edges_increase_even_for_equal_cosines() -> None:
    same = torch.ones(50, 3)
    edges = tier_edges("quantile", 5, same, same[:2])
    assert edges.diff().min() > 0
    assert edges[-1] == 1
    edges = tier_edges("quantile", 5, -same, same[:2])
    assert edges.diff().min() > 0
    assert edges[0] == -1
    edges = tier_edges("quantile", 5, torch.zeros(50, 3), same[:2])
    assert edges.diff().min() > 0


def test_quantile_sample_is_seeded() -> None:
    vectors, prototypes = torch.randn(1000, 4), torch.randn(3, 4)
    edges = [tier_edges("quantile", 4, vectors, prototypes, sample=300, seed=s) for s in (1, 1, 2)]
    assert torch.equal(edges[0], edges[1])
    assert not torch.equal(edges[0], edges[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tier_edges("paper", 5), "num_tiers must be 4 for kind='paper', was 5"),
        (lambda: tier_edges("round", 4), "kind must be"),
        (lambda: tier_edges("quantile", 4), "embeddings and prototypes must be given"),
        (lambda: tier_edges("geometric", 4), "must be given for kind='geometric'"),
        (
            lambda: tier_edges(
                "quantile", 4, torch.ones(2, 2), torch.ones(1, 2), weights=torch.zeros(2)
            ),
            "weights must hold a positive",
        ),
        (
            lambda: tier_edges(
                "quantile", 4, torch.ones(2, 2), torch.ones(1, 2), weights=torch.tensor([-1, 2])
            ),
            "weights must not be negative, held -1",
        ),
        (
            lambda: tier_edges("quantile", 4, torch.ones(0, 2), torch.ones(1, 2)),
            "at least one row",
        ),
    ],
)
def test_edge_mistakes(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_occupancy_by_hand() -> None:
    table = torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8)
    assert tier_occupancy(table, 3).tolist() == [0.25, 0.75, 0.0]
    assert tier_occupancy(table, 3, torch.tensor([3, 1])).tolist() == [3 / 8, 5 / 8, 0.0]


def module() -> tuple[SidTier, torch.Tensor]:
    vectors = torch.randn(30, 6)
    sid1 = torch.arange(30) % 5
    return SidTier.from_embeddings(vectors, sid1, 5, 4, d_model=8), vectors


def test_forward_is_the_mlp_of_the_histogram() -> None:
    tier, _ = module()
    tier.eval()
    ids, offsets = torch.randint(0, 30, (11,)), torch.tensor([0, 0, 7, 11])
    features = sid_tier(ids, offsets, tier.table, 4)
    hidden = torch.relu(tier.mlp[0](features.flatten(1)))
    token = tier(ids, offsets)
    assert token.shape == (3, 8)
    torch.testing.assert_close(token, tier.mlp[3](hidden), rtol=0, atol=0)


def test_gradients_reach_the_mlp_only() -> None:
    tier, _ = module()
    tier(torch.tensor([1, 2]), torch.tensor([0, 2])).sum().backward()
    assert all(p.grad is not None for p in tier.mlp.parameters())
    assert {name.split(".")[0] for name, _ in tier.named_parameters()} == {"mlp"}


def test_loaded_module_needs_no_embeddings() -> None:
    tier, _ = module()
    other = SidTier(30, 5, 4, 6, 8)
    other.load_state_dict(tier.state_dict())
    ids, offsets = torch.tensor([3, 9, 29]), torch.tensor([0, 1, 3])
    assert torch.equal(other.eval()(ids, offsets), tier.eval()(ids, offsets))
    assert set(tier.state_dict()) >= {"table", "edges", "prototypes"}


@pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")
def test_state_dict_does_not_depend_on_the_backend() -> None:
    states = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(5)
        with use_backend("reference"):
            tier, _ = module()
        tier.eval()
        with use_backend(backend):
            tier(torch.tensor([3]), torch.tensor([0, 1]))
        states.append(tier.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_table_follows_a_grown_catalogue() -> None:
    tier, vectors = module()
    grown = torch.cat([vectors, torch.randn(4, 6)])
    before = tier.table.clone()
    tier.rebuild_table(grown)
    assert tier.table.shape == (34, 5)
    assert torch.equal(tier.table[:30], before)


def test_rebuild_refuses_other_sizes() -> None:
    tier, vectors = module()
    with pytest.raises(ValueError, match=r"prototypes must have shape \[5, 6\]"):
        tier.rebuild(vectors, torch.ones(4, 6), tier.edges)
    with pytest.raises(ValueError, match=r"edges must have shape \[5\]"):
        tier.rebuild(vectors, tier.prototypes, torch.tensor([-1.0, 1.0]))


def histories() -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.randint(1, 40, (60,))
    return torch.randint(0, 30, (int(lengths.sum()),)), torch.cat(
        [torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]
    )


def mlp_input(tier: SidTier, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = tier.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tier(ids, offsets)
    hook.remove()
    return seen[0]


def test_standardize_gives_the_mlp_zero_mean_and_unit_variance() -> None:
    tier, _ = module()
    ids, offsets = histories()
    before = mlp_input(tier, ids, offsets)
    torch.testing.assert_close(
        before, sid_tier(ids, offsets, tier.table, 4).flatten(1), rtol=0, atol=0
    )
    assert before.std(0).min() > 1e-3  # so that no feature is held back below
    tier.standardize(ids, offsets)
    after = mlp_input(tier, ids, offsets)
    torch.testing.assert_close(after.mean(0), torch.zeros(20), rtol=0, atol=1e-5)
    torch.testing.assert_close(after.std(0), torch.ones(20), rtol=1e-4, atol=0)


def test_standardize_by_hand() -> None:
    # one code, two tiers: item 0 is in tier 0, item 1 in tier 1
    tier = SidTier(2, 1, 2, embedding_dim=1, d_model=3)
    tier.table = torch.tensor([[0], [1]], dtype=torch.uint8)
    ids, offsets = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 3, 4])
    # fractions of tier 0: 1, 1/2, 0; of tier 1: 0, 1/2, 1; both have mean 1/2 and deviation 1/2
    tier.standardize(ids, offsets)
    assert tier.feature_mean.tolist() == [0.5, 0.5]
    assert tier.feature_scale.tolist() == [2.0, 2.0]
    assert mlp_input(tier, ids, offsets).tolist() == [[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]]


def test_standardize_does_not_scale_what_hardly_varies() -> None:
    tier, _ = module()
    ids, offsets = torch.tensor([4, 4, 4, 4]), torch.tensor([0, 1, 2, 4])  # equal histograms
    tier.standardize(ids, offsets)
    assert tier.feature_scale.tolist() == [1.0] * 20
    assert mlp_input(tier, ids, offsets).abs().max() == 0
    unusual = mlp_input(tier, torch.arange(30), torch.tensor([0, 30]))
    assert 0.1 < unusual.abs().max() <= 1  # a difference of shares, not a thousand times that


@pytest.mark.parametrize(("rare", "scaled"), [(3, True), (1, False)])
def test_standardize_scales_from_a_deviation_of_a_thousandth(rare: int, scaled: bool) -> None:
    # two histories of 1,000 events with and without `rare` of item 1: deviation rare/1000/sqrt(2)
    tier = SidTier(2, 1, 2, embedding_dim=1, d_model=3)
    tier.table = torch.tensor([[0], [1]], dtype=torch.uint8)
    ids = torch.zeros(2000, dtype=torch.int64)
    ids[:rare] = 1
    tier.standardize(ids, torch.tensor([0, 1000, 2000]))
    wanted = 1000 * 2**0.5 / rare if scaled else 1.0
    torch.testing.assert_close(tier.feature_scale, torch.full((2,), wanted), rtol=1e-4, atol=0)


def test_standardized_features_end_at_32_deviations() -> None:
    tier = SidTier(2, 1, 2, embedding_dim=1, d_model=3)
    tier.table = torch.tensor([[0], [1]], dtype=torch.uint8)
    ids = torch.zeros(2000, dtype=torch.int64)
    ids[:4] = 1  # shares of item 1: .004 and 0
    tier.standardize(ids, torch.tensor([0, 1000, 2000]))
    usual = mlp_input(tier, ids, torch.tensor([0, 1000, 2000]))
    torch.testing.assert_close(usual.abs(), torch.full((2, 2), 0.5**0.5), rtol=1e-3, atol=0)
    assert mlp_input(tier, torch.tensor([1]), torch.tensor([0, 1])).tolist() == [[-32.0, 32.0]]


@pytest.mark.parametrize("offsets", [[0], [0, 3]])
def test_standardize_refuses_fewer_than_two_histories(offsets: list[int]) -> None:
    tier, _ = module()
    message = rf"at least 2 histories .* held {len(offsets) - 1}; give more training histories"
    with pytest.raises(ValueError, match=f"item_ids and offsets must hold {message}"):
        tier.standardize(torch.arange(offsets[-1]), torch.tensor(offsets))
    assert tier.feature_scale.tolist() == [1.0] * 20


def test_standardized_module_survives_its_state_dict() -> None:
    tier, _ = module()
    ids, offsets = histories()
    plain = tier.eval()(ids, offsets)
    tier.standardize(ids, offsets)
    other = SidTier(30, 5, 4, 6, 8)
    other.load_state_dict(tier.state_dict())
    assert torch.equal(other.eval()(ids, offsets), tier(ids, offsets))
    assert not torch.allclose(tier(ids, offsets), plain, atol=1e-2)


def test_rebuild_forgets_the_scale_of_the_old_histograms() -> None:
    tier, vectors = module()
    tier.standardize(*histories())
    scale = tier.feature_scale.clone()
    tier.rebuild_table(vectors)
    assert torch.equal(tier.feature_scale, scale)
    tier.rebuild(vectors, tier.prototypes.clone(), tier_edges("equal", 4))
    assert tier.feature_scale.tolist() == [1.0] * 20
    assert tier.feature_mean.tolist() == [0.0] * 20
