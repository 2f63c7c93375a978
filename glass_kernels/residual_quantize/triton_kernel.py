"""Triton kernel of `residual_quantize`: all levels of a block of rows in one program.

Programs are as many as keep a card busy, and each takes block after block. The residuals of its
block lie in a buffer of its own, which stays in the caches: extra memory does not grow with V.

As on a CPU (csrc/cpu/residual_level.h), products around the centroids' mean tell most centroids
apart: with p = r - mean and q = c - mean, key = |q|^2 / 2 - p.q is least for the nearest. It is off
by at most u ((D + 8) |p||q| + 4 (|q|^2 / 2 + |p||q|)), u = 2^-24, and a distance by
3 u (|p| + |q|)^2. Where that leaves two centroids, both distances are computed as the reference
does; where it leaves more, all of them, for the block.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.triton_launch import on_device
from glass_kernels.triton_tuning import tuned

UNIT, LEAST = tl.constexpr(2.0**-24), tl.constexpr(2.0**-126)
CONFIGS = [  # a BD of 32, or fewer warps, spills on one card or another
    triton.Config({"BM": 64, "BK": 64, "BD": 16}, num_warps=8, num_stages=2),
    triton.Config({"BM": 128, "BK": 64, "BD": 16}, num_warps=8, num_stages=2),
]
MOST_ROWS = 128  # of a block
PROGRAMS_A_PROCESSOR = 4


@triton.jit
def _load(values, row, column, D):
    """[BM, BD] of a matrix of D columns in float32; zeros past the last."""
    place = values + row[:, None].to(tl.int64) * D + column[None, :]
    return tl.load(place, mask=(column < D)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _squared_distance(residual, rows, inside, chosen, D, BM: tl.constexpr, BD: tl.constexpr):
    """|residual - rows[chosen]|^2 [BM], as the reference rounds it."""
    total = tl.zeros([BM], tl.float64)
    for first in range(0, D, BD):
        column = first + tl.arange(0, BD)
        gap = _load(residual, inside, column, D) - _load(rows, chosen, column, D)
        wide = gap.to(tl.float64)
        total += tl.sum(wide * wide, 1)
    return total.to(tl.float32)


@triton.jit
def _next_residual(
    x, rows, residual, row, known, inside, chosen, mean, level, D,
    NORMALIZE: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Writes the residual of a level; returns |residual - mean| [BM]."""
    squares = tl.zeros([BM], tl.float64)
    length = tl.zeros([BM], tl.float32)
    for first in range(0, D, BD):
        column = first + tl.arange(0, BD)
        here = (column < D)[None, :]
        if level == 0:
            place = x + row[:, None] * D + column[None, :]
            r = tl.load(place, mask=known[:, None] & here, other=0.0).to(tl.float32)
        else:
            r = _load(residual, inside, column, D) - _load(rows, chosen, column, D)
        tl.store(residual + inside[:, None].to(tl.int64) * D + column[None, :], r, mask=here)
        if NORMALIZE:
            wide = r.to(tl.float64)
            squares += tl.sum(wide * wide, 1)
        else:
            p = tl.where(here, r - tl.load(mean + column, mask=column < D, other=0.0)[None, :], 0.0)
            length += tl.sum(p * p, 1)
    if NORMALIZE:
        norm = tl.sqrt_rn(squares.to(tl.float32))
        norm = tl.where(norm > 0, norm, 1.0)
        tl.debug_barrier()
        for first in range(0, D, BD):
            column = first + tl.arange(0, BD)
            here = (column < D)[None, :]
            r = _load(residual, inside, column, D)
            r = tl.div_rn(r, tl.broadcast_to(norm[:, None], [BM, BD]))
            tl.store(residual + inside[:, None].to(tl.int64) * D + column[None, :], r, mask=here)
            p = tl.where(here, r - tl.load(mean + column, mask=column < D, other=0.0)[None, :], 0.0)
            length += tl.sum(p * p, 1)
    return tl.sqrt(length)


@triton.jit
def _slack(length, longest, D):
    """How far above the least key the nearest centroid's may be; see the module."""
    tiny = 4.0 * D * LEAST
    p = 1.01 * length + tl.sqrt(tiny)
    key = (D + 8) * p * longest + 4 * (0.5 * longest * longest + p * longest)
    return 1.01 * UNIT * (2 * key + 4 * (p + longest) * (p + longest)) + tiny


@triton.jit
def _insert(key, code, least, first, next_key, second, third):
    """Puts one more key a row into the three least, of which it keeps two codes."""
    is_least, is_next = key < least, key < next_key
    third = tl.minimum(third, tl.where(is_next, next_key, key))
    next_code = tl.where(is_least, first, tl.where(is_next, code, second))
    next_key = tl.where(is_least, least, tl.minimum(key, next_key))
    return (
        tl.where(is_least, key, least), tl.where(is_least, code, first), next_key, next_code, third
    )  # fmt: skip


@triton.jit
def _least_keys(
    residual, centred, halves, mean, inside, begin, end, D,
    BM: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The three least keys of each row, and the codes of the first two."""
    infinity = float("inf")
    least = tl.full([BM], infinity, tl.float32)
    next_key = tl.full([BM], infinity, tl.float32)
    third = tl.full([BM], infinity, tl.float32)
    first = tl.full([BM], 0, tl.int32)
    second = tl.full([BM], 0, tl.int32)
    for top in range(begin, end, BK):
        code = top + tl.arange(0, BK)
        products = tl.zeros([BM, BK], tl.float32)
        for left in range(0, D, BD):
            column = left + tl.arange(0, BD)
            m = tl.load(mean + column, mask=column < D, other=0.0)
            p = _load(residual, inside, column, D) - m[None, :]  # past the last column q is zero
            place = centred + code[None, :].to(tl.int64) * D + column[:, None]
            mask = (code < end)[None, :] & (column < D)[:, None]
            q = tl.load(place, mask=mask, other=0.0)
            products = tl.dot(p, q, products, input_precision="ieee")
        half = tl.load(halves + code, mask=code < end, other=infinity)
        keys = half[None, :] - products
        keys = tl.where(keys < infinity, keys, infinity)  # NaN too
        for _ in tl.static_range(3):
            key, at = tl.min(keys, 1, return_indices=True)
            least, first, next_key, second, third = _insert(
                key, top + at - begin, least, first, next_key, second, third
            )
            keys = tl.where(tl.arange(0, BK)[None, :] == at[:, None], infinity, keys)
    return least, first, next_key, second, third


@triton.jit
def _nearest_of_all(residual, rows, inside, begin, end, D, BM: tl.constexpr, BD: tl.constexpr):
    nearest = tl.full([BM], 0, tl.int32)
    least = tl.full([BM], float("inf"), tl.float32)
    for centroid in range(begin, end):
        chosen = tl.full([BM], 0, tl.int32) + centroid
        distance = _squared_distance(residual, rows, inside, chosen, D, BM, BD)
        nearest = tl.where(distance < least, centroid - begin, nearest)
        least = tl.minimum(least, distance)
    return nearest


@tuned(CONFIGS, key=["D", "NORMALIZE"])
@triton.jit(do_not_specialize=["num_rows", "num_levels"])
def _residual_quantize_fwd_kernel(
    x, rows, centred, halves, means, longest, starts, buffer, codes, num_rows, num_levels, D,
    NORMALIZE: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    residual = buffer + program.to(tl.int64) * BM * D
    inside = tl.arange(0, BM)
    for block in range(program, tl.cdiv(num_rows, BM), programs):
        row = (tl.full([BM], 0, tl.int64) + block) * BM + inside
        known = row < num_rows
        chosen = tl.full([BM], 0, tl.int32)
        for level in range(0, num_levels):
            begin, end = tl.load(starts + level), tl.load(starts + level + 1)
            mean = means + level * D
            tl.debug_barrier()  # all have read what is now written anew
            length = _next_residual(
                x, rows, residual, row, known, inside, chosen, mean, level, D, NORMALIZE, BM, BD
            )
            tl.debug_barrier()
            least, code, next_key, second, third = _least_keys(
                residual, centred, halves, mean, inside, begin, end, D, BM, BK, BD
            )
            limit = least + _slack(length, tl.load(longest + level), D)
            finite = tl.abs(limit) < float("inf")
            two = known & finite & (next_key <= limit)
            if tl.max(two.to(tl.int32), 0) > 0:
                one = _squared_distance(residual, rows, inside, begin + code, D, BM, BD)
                other = _squared_distance(residual, rows, inside, begin + second, D, BM, BD)
                nearer = (other < one) | ((other == one) & (second < code))
                code = tl.where(two & nearer, second, code)
            more = known & ((finite == 0) | (third <= limit))
            if tl.max(more.to(tl.int32), 0) > 0:
                every = _nearest_of_all(residual, rows, inside, begin, end, D, BM, BD)
                code = tl.where(more, every, code)
            tl.store(codes + row * num_levels + level, code, mask=known)
            chosen = begin + code


def _programs(x: Tensor, num_rows: int) -> int:
    if x.device.type != "cuda":
        return min(2, num_rows)  # interpreted, one after another: two show what blocks share
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    return min(PROGRAMS_A_PROCESSOR * processors, num_rows)


def residual_quantize_launch(
    x: Tensor, codebooks: Sequence[Tensor], normalize_residual: bool
) -> Tensor:
    """See `glass_kernels.residual_quantize`; codes int32 [V, L]. Not for float64."""
    x = x.contiguous()
    (num_rows, dim), num_levels = x.shape, len(codebooks)
    codes = x.new_empty((num_rows, num_levels), dtype=torch.int32)
    if num_rows == 0 or dim == 0:
        return codes.zero_()
    rows = torch.cat([codebook.float() for codebook in codebooks])
    means = torch.stack([codebook.double().mean(0).float() for codebook in codebooks])
    sizes = [codebook.shape[0] for codebook in codebooks]
    centred = torch.cat([c.float() - mean for c, mean in zip(codebooks, means, strict=True)])
    squares = centred.double().square().sum(1)
    longest = torch.stack([part.amax().sqrt() for part in squares.split(sizes)]).float()
    starts = torch.tensor([0, *sizes], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    programs = _programs(x, num_rows)
    buffer = x.new_empty((programs, MOST_ROWS, dim), dtype=torch.float32)
    with on_device(x):
        _residual_quantize_fwd_kernel[(programs,)](
            x, rows, centred, (squares / 2).float(), means, longest,
            starts.to(x.device, non_blocking=True), buffer, codes,
            num_rows, num_levels, dim, NORMALIZE=normalize_residual,
        )  # fmt: skip
    return codes
