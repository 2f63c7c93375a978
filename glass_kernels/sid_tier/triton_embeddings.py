"""Triton kernel of `sid_tier_from_embeddings`: gather, dot, bucketise and histogram in one.

A program owns (user or part of it, block of codes). Similarities live in registers.

Cosines are float32 here, float64 rounded to float32 in the reference and on CPU. With u = 2^-23
(a tensor core may truncate where it adds), the products add up with an error of at most
D u |x| |p|, the squares with a relative D u, and norms, roots and the last products with 8 u, so
that |cosine - exact| <= (1.5 D + 8) u: `cosine_error`. An item nearer than that to an edge may be
counted in the tier on the other side; every other item is in the tier of the reference.

Two half-precision inputs of one dtype are multiplied as they are; any others in float32 (IEEE, as
TF32 would move items over edges), which no tensor core does.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.sid_tier.triton_common import (
    _add,
    _slot,
    _write,
    chunk_of,
    fitting,
    merge,
)
from glass_kernels.triton_launch import on_device
from glass_kernels.triton_tuning import Known, tuned

LARGE, SMALL = tl.constexpr(2.0**40), tl.constexpr(2.0**-40)
UP, DOWN = tl.constexpr(2.0**90), tl.constexpr(2.0**-90)
CONFIGS = [
    # two stages of loads in flight spill at these sizes; other warps hide the wait instead
    triton.Config({"BE": 64, "BK": 32, "BD": 32}, num_warps=8, num_stages=1),
    triton.Config({"BE": 32, "BK": 32, "BD": 32}, num_warps=4, num_stages=2),
    triton.Config({"BE": 64, "BK": 16, "BD": 32}, num_warps=8, num_stages=1),
]


def cosine_error(dim: int) -> float:
    """Largest error of a cosine of `dim` entries; see the module."""
    return (1.5 * dim + 8) * 2.0**-23


def configs_for(K: int, NT: int) -> list[triton.Config]:
    """Settings for K codes and NT tiers."""
    return fitting(CONFIGS, K, NT)


def _choose(known: Known) -> list[triton.Config]:
    return configs_for(known["K"], known["NT"])


@triton.jit
def _rows(vectors, item, known, column, D):
    place = vectors + item[:, None] * D + column[None, :]
    return tl.load(place, mask=known[:, None] & (column < D)[None, :], other=0.0)


@triton.jit
def _products(
    vectors, prototypes, item, known, code, scale, K, D,
    SCALED: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Dot products [BE, BK] with the prototypes, and sums of squares [BE]; rows times `scale`."""
    dots = tl.zeros([BE, BK], tl.float32)
    squares = tl.zeros([BE], tl.float32)
    for first in range(0, D, BD):
        column = first + tl.arange(0, BD)
        x = _rows(vectors, item, known, column, D)
        wide = x.to(tl.float32)
        if SCALED:
            wide = tl.where(scale[:, None] > 0, wide * scale[:, None], 0.0)
        squares += tl.sum(wide * wide, 1)
        place = prototypes + code[None, :].to(tl.int64) * D + column[:, None]
        p = tl.load(place, mask=(code < K)[None, :] & (column < D)[:, None], other=0.0)
        dots = tl.dot(wide.to(p.dtype), p, dots, input_precision="ieee")
    return dots, squares


@triton.jit
def _row_scale(vectors, item, known, D, BE: tl.constexpr, BD: tl.constexpr):
    """Power of two that keeps the squares of a row in range; 0 for zero and non-finite rows."""
    largest = tl.zeros([BE], tl.float32)
    finite = known
    for first in range(0, D, BD):
        size = tl.abs(_rows(vectors, item, known, first + tl.arange(0, BD), D).to(tl.float32))
        infinite = (size < float("inf")) == 0  # NaN too
        finite = finite & (tl.max(infinite.to(tl.int32), 1) == 0)
        largest = tl.maximum(largest, tl.max(tl.where(infinite, 0.0, size), 1))
    scale = tl.where(largest > LARGE, DOWN, tl.where(largest < SMALL, UP, 1.0))
    return tl.where(finite & (largest > 0), scale, 0.0)


@triton.jit
def _tiers(cosines, edges, N: tl.constexpr, NT: tl.constexpr, STEPS: tl.constexpr):
    """How many inner edges are at or below each cosine. `edges`: NT of them, padded with inf."""
    tiers = tl.zeros(cosines.shape, tl.int32)
    if N <= 8:
        for n in tl.static_range(N - 1):
            tiers += (cosines >= tl.load(edges + n)).to(tl.int32)
    else:
        for i in tl.static_range(STEPS):
            above = tl.load(edges + tiers + (NT >> (i + 1)) - 1) <= cosines
            tiers = tl.where(above, tiers + (NT >> (i + 1)), tiers)
    return tiers


@tuned(CONFIGS, key=["K", "D", "NT"], choose=_choose)
@triton.jit(do_not_specialize=["num_users", "total", "num_cuts", "num_items"])
def _sid_tier_from_embeddings_fwd_kernel(
    item_ids, offsets, vectors, prototypes, inverse_norms, edges, out, partial,
    num_users, total, num_items, chunk, num_cuts, K, D,
    N: tl.constexpr, NT: tl.constexpr, STEPS: tl.constexpr, NORMALIZE: tl.constexpr,
    BE: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(K, BK)  # of one user side by side: they share the items' rows
    slot = tl.program_id(0) // blocks
    first_code = (tl.program_id(0) % blocks) * BK
    begin, end = _slot(slot, offsets, num_users, total, chunk, num_cuts)
    code = first_code + tl.arange(0, BK)
    inverse = tl.load(inverse_norms + code, mask=code < K, other=0.0)
    counts = tl.zeros([BK * NT], tl.int32)
    for tile in range(begin, end, BE):
        event = tile + tl.arange(0, BE)
        item = tl.load(item_ids + event, mask=event < end, other=-1).to(tl.int64)
        known = (item >= 0) & (item < num_items)  # a wrong id counts nowhere
        scale = tl.full([BE], 1.0, tl.float32)
        dots, squares = _products(
            vectors, prototypes, item, known, code, scale, K, D, False, BE, BK, BD
        )
        usual = (squares >= SMALL * SMALL) & (squares <= LARGE * LARGE)
        if tl.max((known & (usual == 0)).to(tl.int32), 0) > 0:
            # rare: a zero or non-finite row, or squares that may have vanished or overflowed
            scale = _row_scale(vectors, item, known, D, BE, BD)
            dots, squares = _products(
                vectors, prototypes, item, known, code, scale, K, D, True, BE, BK, BD
            )
        reciprocals = tl.rsqrt(tl.where(squares > 0, squares, 1.0))
        cosines = dots * inverse[None, :] * reciprocals[:, None]
        tiers = _tiers(cosines, edges, N, NT, STEPS)
        counts = _add(counts, tiers, known[:, None] & (code < K)[None, :], BK, NT, BE)
    _write(
        counts, offsets, out, partial, slot, total, first_code, chunk, num_cuts,
        K, N, BK, NT, NORMALIZE,
    )  # fmt: skip


def _scaled(prototypes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Prototypes times a power of two (zero and non-finite: zeros), and 1 / norm float32 [K]."""
    wide = prototypes.to(torch.float64)
    largest = wide.abs().amax(1, keepdim=True)
    factor = torch.where(largest > LARGE.value, DOWN.value, 1.0)
    factor = torch.where(largest < SMALL.value, UP.value, factor)
    usable = torch.isfinite(largest) & (largest > 0)
    # rounded first: the norm is that of the numbers which are multiplied
    scaled = torch.where(usable, wide * factor, 0.0).to(dtype)
    norm = torch.linalg.vector_norm(scaled, dim=1, dtype=torch.float64)
    return scaled.contiguous(), torch.where(usable[:, 0], 1 / norm, 0.0).to(torch.float32)


def sid_tier_from_embeddings_launch(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Tensor,
    normalize: bool,
) -> Tensor:
    """See `glass_kernels.sid_tier_from_embeddings`; [B, K, N] float32. Not for float64."""
    item_ids, offsets = item_ids.contiguous(), offsets.contiguous()
    vectors = item_embeddings.contiguous()
    num_users, total, num_codes = offsets.shape[0] - 1, item_ids.shape[0], prototypes.shape[0]
    num_tiers = edges.shape[0] - 1
    padded_tiers = triton.next_power_of_2(num_tiers)
    out = vectors.new_empty((num_users, num_codes, num_tiers), dtype=torch.float32)
    if out.numel() == 0:
        return out
    same = prototypes.dtype == vectors.dtype
    scaled, inverse = _scaled(prototypes, vectors.dtype if same else torch.float32)
    bounds = edges.new_full((padded_tiers,), float("inf"), dtype=torch.float32)
    bounds[: num_tiers - 1] = edges[1:-1]
    chunk = chunk_of(total, num_users, triton.cdiv(num_codes, 32))
    num_cuts = total // chunk
    partial = vectors.new_empty((num_cuts, num_codes, num_tiers), dtype=torch.int32)

    def grid(meta: dict[str, int]) -> tuple[int]:
        return ((num_users + num_cuts) * triton.cdiv(num_codes, meta["BK"]),)

    with on_device(vectors):
        _sid_tier_from_embeddings_fwd_kernel[grid](
            item_ids, offsets, vectors, scaled, inverse, bounds, out, partial,
            num_users, total, vectors.shape[0], chunk, num_cuts, num_codes, vectors.shape[1],
            N=num_tiers, NT=padded_tiers, STEPS=padded_tiers.bit_length() - 1,
            NORMALIZE=normalize,
        )  # fmt: skip
        merge(offsets, partial, out, total, chunk, normalize)
    return out
