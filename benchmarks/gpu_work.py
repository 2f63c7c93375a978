"""What a call of each operation moves and multiplies on a GPU with the Triton kernels, by formula.

Bytes are those that memory must move if the L2 cache holds what is read again: the `distinct` of
docs/gpu_traffic.csv, with which a test compares these formulas. Inputs that decide them, such as
which items are popular, are those of the benchmarks.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import (
    codebook_assign,
    gated_fusion,
    hard_search,
    hard_search_attention,
    residual_quantize,
    sid_tier,
    sid_tier_embeddings,
    trie_step,
)
from benchmarks.histories import Batch, make_batch
from benchmarks.searches import make_neighbours
from glass_kernels.codebook_assign import triton_fused
from glass_kernels.hard_search_attention import triton_backward, triton_common
from glass_kernels.sid_tier.triton_common import chunk_of

TRAFFIC = Path(__file__).parent.parent / "docs" / "gpu_traffic.csv"
SECTOR = 32
DTYPES = {"fp32": 4, "bf16": 2}
"""Bytes of an element."""


@dataclass(frozen=True)
class Work:
    """One call."""

    call: str
    dtype: str
    """Of the products: float32 by IEEE, which tensor cores do not do, or bfloat16 on them."""
    num_bytes: int
    """Moved by the Triton kernels."""
    launches: int
    """Of Triton's kernels and of PyTorch's matrix products."""
    flops: float = 0
    """Of products in the kernels."""
    plain_bytes: int = 0
    """Moved by PyTorch's products and sums between the kernels."""
    plain_flops: float = 0
    pairs: int = 0
    """Increments of the counters of `sid_tier`: (event, code)."""
    tiers: int = 0


def _distinct(ids: Tensor) -> int:
    return int((torch.bincount(ids.flatten()) > 0).sum())


def _counters(batch: Batch, codes: int, tiers: int) -> tuple[int, int]:
    """Bytes of SID-Tier's result and partial counts, and launches."""
    users, total, size = len(batch.lengths), len(batch.ids), 4 * codes * tiers
    cuts = total // chunk_of(total, users, -(-codes // 32))
    # partial counts are written and read, what a user with cuts has is read and written again
    return size * (users + 2 * cuts + 2 * min(users, cuts)), 1 + (cuts > 0)


def of_sid_tier(setup: sid_tier.Setup) -> Work:
    batch = make_batch(setup.histories, setup.users, setup.items, 0)
    counters, launches = _counters(batch, setup.codes, setup.tiers)
    num_bytes = 8 * len(batch.ids) + setup.codes * _distinct(batch.ids) + counters
    call = f"`sid_tier`, B {setup.users}, N {setup.tiers}"
    return Work(call, "fp32", num_bytes, launches, pairs=setup.codes * len(batch.ids),
                tiers=setup.tiers)  # fmt: skip


def of_embeddings(setup: sid_tier_embeddings.Setup, dtype: str) -> Work:
    batch = make_batch("paper", setup.users, setup.items, 0)
    counters, launches = _counters(batch, setup.codes, setup.tiers)
    rows = _distinct(batch.ids) + setup.codes
    num_bytes = 8 * len(batch.ids) + DTYPES[dtype] * rows * setup.dim + counters
    flops = 2.0 * len(batch.ids) * setup.dim * setup.codes
    call = f"`sid_tier_from_embeddings`, B {setup.users}, N {setup.tiers}"
    return Work(call, dtype, num_bytes, launches, flops)


def of_search(setup: hard_search.Setup) -> Work:
    (batch,) = hard_search.make_inputs(setup, 1)
    neighbours = make_neighbours(setup.codes, setup.neighbours)
    search = hard_search.Search(setup.codes, setup.max_items, neighbours)
    found = int(search(batch)[1].sum())
    num_bytes = hard_search.floor_bytes(
        len(batch.sid1), setup.users, setup.codes, batch.query.numel(), setup.max_items, found
    )
    call = f"`bucket_history` and `hard_search`, B {setup.users}, {setup.beams} beams"
    return Work(call, "fp32", num_bytes, 2)


def of_attention(setup: hard_search_attention.Setup, dtype: str) -> Work:
    layer = hard_search_attention.make_layer(setup, 0)
    (users, sets, positions, heads, width), tokens = layer.query.shape, len(layer.embeddings)
    rows, inner, size = users * sets * positions, heads * width, DTYPES[dtype]
    used = _distinct(layer.positions[layer.positions >= 0])
    bias = 4 * users * sets * triton_common.padded(tokens)
    bag = bias + 4 * layer.positions.numel() + SECTOR * used
    table, of_rows, numbers = 2 * size * tokens * inner, size * rows * inner, 4 * rows * heads
    forward = bag + bias + 2 * of_rows + table + numbers
    products = 2.0 * rows * tokens * inner
    call = f"`hard_search_attention`, {setup.users} x {setup.sets} x {setup.positions} queries"
    if not setup.backward:
        return Work(f"{call}, forward", dtype, forward, 2, 2 * products)
    query_grad = bias + 4 * of_rows + table + 2 * numbers
    sums = 8 * tokens * inner
    chunks = -(-rows // triton_backward.chunk_rows(rows, tokens, heads))
    table_grads = bias + 2 * of_rows + table + 2 * numbers + chunks * sums
    plain = (chunks + 6) * sums + table  # adds the chunks, then converts
    num_bytes = forward + bag + query_grad + table_grads
    return Work(f"{call}, both", dtype, num_bytes, 5, 9 * products, plain)


def of_fusion(setup: gated_fusion.Setup, dtype: str) -> Work:
    size, (rows, width) = DTYPES[dtype], (setup.rows, setup.width)
    tensor, weights = size * rows * width, size * width * (2 * width + 1)
    flops = 4.0 * rows * width * width
    call = f"`gated_fusion`, {rows} x {width}"
    if not setup.backward:
        return Work(f"{call}, forward", dtype, 3 * tensor + weights + rows, 1, flops)
    # the gate is kept; then 4 are read and 5 written, of which PyTorch makes 3 products and a sum
    num_bytes = 4 * tensor + weights + 9 * tensor + 2 * rows
    plain = 10 * tensor + 2 * weights
    return Work(f"{call}, both", dtype, num_bytes, 5, flops, plain, 2 * flops)


def of_assign(setup: codebook_assign.Setup, dtype: str) -> Work:
    size, (rows, codes, width) = DTYPES[dtype], (setup.rows, setup.codes, setup.width)
    tensor, codebook = size * rows * width, size * codes * width
    forward = 2 * tensor + codebook + (8 + 8 + 4 + 4) * rows
    call = f"`codebook_assign`, {rows} x {width}, K {codes}"
    if not setup.backward:
        return Work(f"{call}, forward", dtype, forward, 1, setup.product_flops)
    assert dtype == "bf16"  # float32 goes by slabs, mostly through cuBLAS
    numbers = (4 + 4 + 8 + 8) * rows  # of the loss, targets, and what one kernel says to the other
    query_grad = 3 * tensor + codebook + numbers
    chunks = -(-rows // triton_fused.chunk_rows(rows, codes))
    parts = 4 * chunks * codes * width
    codebook_grad = 2 * tensor + codebook + numbers + parts
    plain = parts + 8 * codes * width + codebook
    # logits and their gradients: twice for the query, where they are made anew, once for the codes
    flops = (1 + 5 + 4) * setup.product_flops
    return Work(f"{call}, both", dtype, forward + query_grad + codebook_grad, 3, flops, plain)


def of_quantize(setup: residual_quantize.Setup) -> Work:
    codebooks = 4 * setup.levels * setup.codes * setup.dim
    # as they are, and with the mean taken off
    num_bytes = 4 * setup.vectors * (setup.dim + setup.levels) + 2 * codebooks
    return Work(f"`residual_quantize`, {setup.vectors} x {setup.dim}", "fp32", num_bytes, 1,
                setup.flops)  # fmt: skip


def of_step(setup: trie_step.Setup) -> Work:
    """As counted: it was counted at its full size."""
    title = f"trie_beam_step: items {setup.items}, level {setup.level}, mask {setup.mask}"
    with TRAFFIC.open(newline="", encoding="utf-8") as file:
        (row,) = (r for r in csv.DictReader(file) if r["job"] == title and r["kernel"] == "all")
    call = f"`trie_beam_step`, 8 x 50 beams, level {setup.level}"
    return Work(call, "fp32", int(row["distinct"]), int(row["launches"]))


def works() -> Iterator[Work]:
    """The calls of docs/gpu_roofline.csv."""
    for tiers in (4, 20):
        yield of_sid_tier(sid_tier.Setup(tiers=tiers))
    for dtype in DTYPES:
        yield of_embeddings(sid_tier_embeddings.Setup(tiers=20), dtype)
    yield of_search(hard_search.Setup())
    for dtype in DTYPES:
        for backward in (False, True):
            yield of_attention(hard_search_attention.Setup(backward=backward), dtype)
    for dtype in DTYPES:
        for backward in (False, True):
            yield of_fusion(gated_fusion.Setup(backward, absent=0.0), dtype)
    yield of_assign(codebook_assign.Setup(False, 20_480, 128), "fp32")
    for backward in (False, True):
        yield of_assign(codebook_assign.Setup(backward, 20_480, 128), "bf16")
    yield of_quantize(residual_quantize.Setup(100_000))
    for level in (1, 2):
        yield of_step(trie_step.Setup(12_000, level))
