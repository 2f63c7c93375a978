"""SID-Tier without a table in Triton: every item that is not within rounding of an edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glass_kernels import lengths_to_offsets, sid_tier_from_embeddings
from glass_kernels.sid_tier import triton_common, triton_embeddings
from glass_kernels.sid_tier.tiers import unit_vectors
from glass_kernels.sid_tier.triton_embeddings import cosine_error

OP = torch.ops.glass.sid_tier_from_embeddings_triton
# the rare rows overflow before they are scaled; NumPy, which interprets, says so
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
PAPER = [-1.0, -0.1, 0.0, 0.1, 1.0]


def bounds(
    ids: Tensor, offsets: Tensor, items: Tensor, prototypes: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor]:
    """Least and greatest counts [B, K, N] when cosines may be off by `cosine_error`."""
    cosine = unit_vectors(items)[ids.long()] @ unit_vectors(prototypes).T
    error = torch.where(cosine == 0, 0.0, cosine_error(items.shape[1]))
    inner = edges[1:-1].to(torch.float64).contiguous()
    low = torch.bucketize(cosine - error, inner, right=True)[..., None]
    high = torch.bucketize(cosine + error, inner, right=True)[..., None]
    tier = torch.arange(len(edges) - 1, device=ids.device)
    possible = (low <= tier) & (tier <= high)
    certain = possible & (low == high)
    assert certain.any(-1).double().mean() > 0.99 or not len(ids)
    spans = list(zip(offsets.tolist(), offsets.tolist()[1:], strict=False))
    least = torch.stack([certain[a:b].sum(0) for a, b in spans])
    return least.float(), torch.stack([possible[a:b].sum(0) for a, b in spans]).float()


def assert_right(ids, offsets, items, prototypes, edges) -> None:
    arguments = (ids, offsets, items, prototypes, edges)
    counts = sid_tier_from_embeddings(*arguments, normalize=False, backend="triton")
    least, most = bounds(*arguments)
    assert (least <= counts).all()
    assert (counts <= most).all()
    length = offsets.diff()[:, None].float()
    assert torch.equal(counts.sum(-1), length.expand(-1, len(prototypes)))
    shares = sid_tier_from_embeddings(*arguments, backend="triton")
    assert torch.equal(shares, counts / length.clamp_min(1)[..., None])


def problem(lengths: list[int], dim: int, codes: int, tiers: int, device: torch.device):
    offsets = lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))
    ids = torch.randint(0, 40, (sum(lengths),))
    values = ids, offsets, torch.randn(40, dim), torch.randn(codes, dim)
    edges = torch.linspace(-1, 1, tiers + 1)
    return tuple(value.to(device) for value in (*values, edges))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("dim", "codes", "tiers", "ids_dtype"),
    [
        (1, 1, 1, torch.int64),
        (5, 3, 255, torch.int32),
        (19, 37, 4, torch.int64),
        (32, 16, 2, torch.int32),
        (40, 70, 20, torch.int64),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_within_bounds(dtype, dim: int, codes: int, tiers: int, ids_dtype, device) -> None:
    ids, offsets, items, prototypes, edges = problem([0, 1, 70, 0, 7], dim, codes, tiers, device)
    assert_right(ids.to(ids_dtype), offsets, items.to(dtype), prototypes.to(dtype), edges)


@pytest.mark.parametrize(
    ("items", "prototypes"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float16),
        (torch.float16, torch.float64),
    ],
)
def test_dtypes_may_differ(items: torch.dtype, prototypes: torch.dtype, device) -> None:
    ids, offsets, x, p, edges = problem([30, 4], 20, 7, 4, device)
    assert_right(ids, offsets, x.to(items), p.to(prototypes), edges)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("config", triton_embeddings.CONFIGS, ids=str)
def test_every_setting(config, device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_embeddings, "configs_for", lambda K, NT: [config])
    kernel = triton_embeddings._sid_tier_from_embeddings_fwd_kernel
    kernel.cache.clear()
    assert_right(*problem([0, 70, 3], 33, 37, 5, device))
    kernel.cache.clear()


def test_long_histories_are_cut(device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_common, "CHUNKS", (64,))
    assert_right(*problem([63, 2, 0, 150, 5, 1], 8, 5, 4, device))


@pytest.mark.parametrize(
    ("vector", "tier"),
    [
        ([-1.0, 0.0], 0),
        ([0.0, 1.0], 2),  # 0 opens the third tier
        ([5.0, 0.0], 3),  # the last tier is closed
        ([0.0, 0.0], 2),  # a zero vector has cosine 0
        ([float("nan"), 1.0], 2),
        ([float("inf"), 1.0], 2),
        ([-float("inf"), float("inf")], 2),
        ([-3e38, 3e38], 0),  # the squares would overflow
        ([3e38, 1e20], 3),
        ([-1e-44, 0.0], 0),  # the squares would vanish
        ([1e-20, 1e-21], 3),
    ],
)
@pytest.mark.parametrize("prototype", [[2.0, 0.0], [3e38, 0.0], [1e-44, 0.0]])
def test_tier_of_a_cosine(vector: list[float], tier: int, prototype: list[float], device) -> None:
    ids, offsets = torch.tensor([1], device=device), torch.tensor([0, 1], device=device)
    items = torch.tensor([[1.0, 1.0], vector], device=device)
    prototypes = torch.tensor([prototype], device=device)
    result = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER, backend="triton")
    assert result.flatten().tolist() == [float(i == tier) for i in range(4)]


def test_bad_prototypes_have_cosine_zero(device) -> None:
    prototypes = torch.tensor([[0.0, 0.0], [float("nan"), 1.0], [1.0, float("inf")]], device=device)
    ids, offsets = torch.tensor([0, 0], device=device), torch.tensor([0, 2], device=device)
    items = torch.tensor([[1.0, 1.0]], device=device)
    result = sid_tier_from_embeddings(ids, offsets, items, prototypes, PAPER, backend="triton")
    assert result.tolist() == [[[0, 0, 1, 0]] * 3]


def test_outside_the_edges_goes_to_the_nearest_tier(device) -> None:
    ids, offsets = torch.tensor([0, 1], device=device), torch.tensor([0, 2], device=device)
    items = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], device=device)
    prototypes, edges = items[1:], torch.tensor([-0.5, 0.0, 0.5], device=device)
    arguments = ids, offsets, items, prototypes, edges
    result = sid_tier_from_embeddings(*arguments, normalize=False, backend="triton")
    assert result.tolist() == [[[1, 1]]]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_no_events(lengths: list[int], device) -> None:
    result = sid_tier_from_embeddings(*problem(lengths, 4, 3, 5, device), backend="triton")
    assert result.shape == (len(lengths), 3, 5)
    assert result.eq(0).all()


def test_views_are_read_as_they_are(device) -> None:
    ids, offsets, items, prototypes, edges = problem([30, 4], 6, 5, 4, device)
    items, prototypes = items.T.contiguous().T, prototypes.repeat(1, 2)[:, :6]
    ids = torch.stack([ids, ids], 1)[:, 0]
    assert_right(ids, offsets, items, prototypes, edges)


def test_raw_op_stays_in_bounds(device) -> None:
    ids, offsets, items, prototypes, edges = problem([5, 2], 6, 5, 4, device)
    expected = OP(ids[2:], offsets.sub(2).clamp_min(0), items, prototypes, edges, False)
    ids[:2] = torch.tensor([-(2**45), 2**45], device=device)
    result = OP(ids, offsets, items, prototypes, edges, False)
    assert torch.equal(result, expected)  # a wrong id counts nowhere
    broken = torch.tensor([-(2**45), 2**45, 3, -7], device=device)
    assert OP(ids, broken, items, prototypes, edges, True).shape == (3, 5, 4)


def test_float64_is_for_other_backends(device) -> None:
    ids, offsets, items, prototypes, edges = problem([5], 6, 5, 4, device)
    wide = items.double()
    with pytest.raises(RuntimeError, match="of float64: backend 'triton' is not available"):
        sid_tier_from_embeddings(ids, offsets, wide, prototypes, edges, backend="triton")
    with pytest.raises(RuntimeError, match="item_embeddings must not be float64"):
        OP(ids, offsets, wide, prototypes, edges, True)
    counts = sid_tier_from_embeddings(ids, offsets, wide, prototypes, edges, normalize=False)
    assert counts.sum() == 5 * 5


def test_no_gradient_and_none_silently_zero(device) -> None:
    ids, offsets, items, prototypes, edges = problem([5], 6, 5, 4, device)
    arguments = ids, offsets, items.requires_grad_(), prototypes, edges
    assert not sid_tier_from_embeddings(*arguments, backend="triton").requires_grad
    with pytest.raises(RuntimeError, match="piecewise constant and has no gradient"):
        OP(*arguments, True).sum().backward()


def test_opcheck(device) -> None:
    torch.library.opcheck(OP, (*problem([5, 0, 2], 6, 5, 4, device), True))


def test_compiles_without_a_graph_break(device) -> None:
    arguments = problem([5, 0, 2], 6, 5, 4, device)
    compiled = torch.compile(
        lambda *x: sid_tier_from_embeddings(*x, backend="triton") * 2,
        fullgraph=True,
        backend="aot_eager",
    )
    expected = sid_tier_from_embeddings(*arguments, backend="triton") * 2
    assert torch.equal(compiled(*arguments), expected)
