"""Triton kernel of `sid_tier`: a program owns (user or part of it, block of codes).

It walks over its events, loads their bytes of its codes, and counts (code, tier) pairs in shared
memory; nothing is added in global memory. Costs per event and code: one byte, one increment.
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

CONFIGS = [
    triton.Config({"BK": 32, "TILE": 4096}, num_warps=4),
    triton.Config({"BK": 16, "TILE": 2048}, num_warps=4),
    triton.Config({"BK": 64, "TILE": 4096}, num_warps=8),
]


def configs_for(K: int, NT: int) -> list[triton.Config]:
    """Settings for K codes and NT tiers."""
    return fitting(CONFIGS, K, NT)


def _choose(known: Known) -> list[triton.Config]:
    return configs_for(known["K"], known["NT"])


@tuned(CONFIGS, key=["K", "NT"], choose=_choose)
@triton.jit(do_not_specialize=["num_users", "total", "num_cuts", "num_items"])
def _sid_tier_fwd_kernel(
    item_ids, offsets, table, out, partial,
    num_users, total, num_items, chunk, num_cuts, K,
    N: tl.constexpr, NT: tl.constexpr, NORMALIZE: tl.constexpr,
    BK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    BE: tl.constexpr = TILE // BK
    blocks = tl.cdiv(K, BK)  # of one user side by side: they share the rows of the table
    slot = tl.program_id(0) // blocks
    first_code = (tl.program_id(0) % blocks) * BK
    begin, end = _slot(slot, offsets, num_users, total, chunk, num_cuts)
    code = first_code + tl.arange(0, BK)
    counts = tl.zeros([BK * NT], tl.int32)
    for tile in range(begin, end, BE):
        event = tile + tl.arange(0, BE)
        item = tl.load(item_ids + event, mask=event < end, other=-1).to(tl.int64)
        known = (item >= 0) & (item < num_items)  # a wrong id counts nowhere
        place = table + item[:, None] * K + code[None, :]
        mask = known[:, None] & (code < K)[None, :]
        tiers = tl.load(place, mask=mask, other=255).to(tl.int32)
        counts = _add(counts, tiers, mask & (tiers < N), BK, NT, BE)
    _write(
        counts, offsets, out, partial, slot, total, first_code, chunk, num_cuts,
        K, N, BK, NT, NORMALIZE,
    )  # fmt: skip


def sid_tier_launch(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """See `glass_kernels.sid_tier`; [B, K, N] float32."""
    item_ids, offsets, table = item_ids.contiguous(), offsets.contiguous(), table.contiguous()
    num_users, total, num_codes = offsets.shape[0] - 1, item_ids.shape[0], table.shape[1]
    out = table.new_empty((num_users, num_codes, num_tiers), dtype=torch.float32)
    if out.numel() == 0:
        return out
    chunk = chunk_of(total, num_users, triton.cdiv(num_codes, 32))
    num_cuts = total // chunk
    partial = table.new_empty((num_cuts, num_codes, num_tiers), dtype=torch.int32)

    def grid(meta: dict[str, int]) -> tuple[int]:
        return ((num_users + num_cuts) * triton.cdiv(num_codes, meta["BK"]),)

    with on_device(table):
        _sid_tier_fwd_kernel[grid](
            item_ids, offsets, table, out, partial,
            num_users, total, table.shape[0], chunk, num_cuts, num_codes,
            N=num_tiers, NT=triton.next_power_of_2(num_tiers), NORMALIZE=normalize,
        )  # fmt: skip
        merge(offsets, partial, out, total, chunk, normalize)
    return out
