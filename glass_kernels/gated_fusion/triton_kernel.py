"""Triton kernels of `gated_fusion`, and the products around them.

Forward: one kernel, a program a tile of the result; the logits live in registers. Backward: one
kernel makes the gradients of the logits and what reaches the inputs other than through the gate;
the rest is plain products, left to torch. Float32 products are IEEE unless torch's may be TF32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.triton_launch import on_device, product_precision
from glass_kernels.triton_tuning import Known, tuned

HALF_CONFIGS = [
    triton.Config({"BM": 64, "BN": 64, "BK": 32}, num_warps=4, num_stages=3),
    triton.Config({"BM": 128, "BN": 64, "BK": 32}, num_warps=8, num_stages=3),
]
FLOAT_CONFIGS = [  # larger tiles spill: without TF32 each thread holds its own part of the factors
    triton.Config({"BM": 64, "BN": 32, "BK": 32}, num_warps=4, num_stages=2),
    triton.Config({"BM": 64, "BN": 64, "BK": 16}, num_warps=8, num_stages=2),
]
FEW_CONFIGS = [triton.Config({"BM": 16, "BN": 32, "BK": 64}, num_warps=4, num_stages=3)]
FEW_ROWS = 512
"""Up to here small tiles: the beams of a decoder step would leave most of a large one empty."""
BACKWARD_TILE = 1024


def configs_for(few: bool, dtype: torch.dtype) -> list[triton.Config]:
    """Settings for few rows or for many, and for the dtype."""
    if few:
        return FEW_CONFIGS
    return FLOAT_CONFIGS if dtype == torch.float32 else HALF_CONFIGS


def _choose(known: Known) -> list[triton.Config]:
    return configs_for(known["FEW"], known["short"].dtype)


@triton.jit
def _kept(has_retrieval, row, N, MASKED: tl.constexpr):
    """Which rows exist and have retrieval; no other row's values are looked at."""
    kept = row < N
    if MASKED:
        kept = kept & (tl.load(has_retrieval + row, mask=kept, other=0) != 0)
    return kept


@tuned(
    [*HALF_CONFIGS, *FLOAT_CONFIGS, *FEW_CONFIGS],
    key=["D", "FEW", "KEEP", "PRECISION"],
    choose=_choose,
)
@triton.jit(do_not_specialize=["N"])
def _gated_fusion_fwd_kernel(
    short, retrieved, first, weight, bias, has_retrieval, out, gate, N, D,
    MASKED: tl.constexpr, FEW: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(D, BN)  # of the same rows side by side: they share what is read
    row = (tl.program_id(0) // blocks).to(tl.int64) * BM + tl.arange(0, BM)
    column = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    kept = _kept(has_retrieval, row, N, MASKED)
    logits = tl.zeros([BM, BN], tl.float32)
    for begin in range(0, D, BK):
        k = begin + tl.arange(0, BK)
        inside = kept[:, None] & (k < D)[None, :]
        place = row[:, None] * D + k[None, :]
        of_weight = weight + column[None, :].to(tl.int64) * 2 * D + k[:, None]
        there = (k < D)[:, None] & (column < D)[None, :]
        a = tl.load(first + place, mask=inside, other=0.0)
        w = tl.load(of_weight, mask=there, other=0.0)
        logits = tl.dot(a, w, logits, input_precision=PRECISION)
        a = tl.load(retrieved + place, mask=inside, other=0.0)
        w = tl.load(of_weight + D, mask=there, other=0.0)
        logits = tl.dot(a, w, logits, input_precision=PRECISION)
    logits += tl.load(bias + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    g = tl.where(kept[:, None], tl.sigmoid(logits), 0.0)
    exists = (row < N)[:, None] & (column < D)[None, :]
    place = row[:, None] * D + column[None, :]
    near = tl.load(short + place, mask=exists, other=0.0).to(tl.float32)
    far = tl.load(retrieved + place, mask=exists & kept[:, None], other=0.0).to(tl.float32)
    mixed = tl.where(kept[:, None], near + g * (far - near), near)
    tl.store(out + place, mixed, mask=exists)
    if KEEP:
        tl.store(gate + place, g, mask=exists)


def gated_fusion_launch(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
    keep_gate: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `glass_kernels.gated_fusion`; output and gate, which is empty if it is not kept."""
    short, retrieved, first = _rows(short, retrieved, gate_input)
    out = torch.empty_like(short)
    gate = torch.empty_like(short) if keep_gate else short.new_empty(0)
    width = short.shape[-1]
    rows = short.numel() // width
    if rows == 0:
        return out, gate

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(rows, meta["BM"]) * triton.cdiv(width, meta["BN"]),)

    with on_device(short):
        _gated_fusion_fwd_kernel[grid](
            short, retrieved, first, weight.contiguous(), bias.contiguous(),
            _bytes(has_retrieval, short), out, gate, rows, width,
            MASKED=has_retrieval is not None, FEW=rows <= FEW_ROWS, KEEP=keep_gate,
            PRECISION=product_precision(),
        )  # fmt: skip
    return out, gate


def _rows(
    short: Tensor, retrieved: Tensor, gate_input: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Short, retrieved and the first half of the gate's input, contiguous."""
    short = short.contiguous()
    first = short if gate_input is None else gate_input.contiguous()
    return short, retrieved.contiguous(), first


def _bytes(has_retrieval: Tensor | None, other: Tensor) -> Tensor:
    """uint8 of the flags; `other` where there are none: never read."""
    return other if has_retrieval is None else has_retrieval.contiguous().view(torch.uint8)


@triton.jit(do_not_specialize=["N"])
def _gated_fusion_bwd_kernel(
    grad_out, grad_gate, short, retrieved, first, gate, has_retrieval,
    grad_logits, grad_short, grad_retrieved, joined, N, D,
    OF_OUT: tl.constexpr, OF_GATE: tl.constexpr, MASKED: tl.constexpr,
    OF_INPUTS: tl.constexpr, JOINED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits, and of short and retrieved past the gate. With JOINED also
    [first ; retrieved] [N, 2D] with zeros in the rows without retrieval, which may hold NaN."""
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    kept = _kept(has_retrieval, row, N, MASKED)
    exists = (row < N)[:, None] & (column < D)[None, :]
    used = exists & kept[:, None]
    place = row[:, None] * D + column[None, :]
    near = tl.load(short + place, mask=used, other=0.0).to(tl.float32)
    far = tl.load(retrieved + place, mask=used, other=0.0)
    g = tl.load(gate + place, mask=used, other=0.0).to(tl.float32)
    grad = tl.zeros([BM, BN], tl.float32)
    if OF_OUT:
        grad = tl.load(grad_out + place, mask=exists, other=0.0).to(tl.float32)
    of_gate = grad * (far.to(tl.float32) - near)
    if OF_GATE:
        of_gate += tl.load(grad_gate + place, mask=used, other=0.0).to(tl.float32)
    # not a product with the mask: the gradient of a row without retrieval may be infinite
    of_logits = tl.where(used, of_gate * (g * (1 - g)), 0.0)
    tl.store(grad_logits + place, of_logits, mask=exists)
    if OF_INPUTS:
        tl.store(grad_short + place, tl.where(used, grad * (1 - g), grad), mask=exists)
        tl.store(grad_retrieved + place, tl.where(used, grad * g, 0.0), mask=exists)
    if JOINED:
        both = joined + row[:, None] * 2 * D + column[None, :]
        tl.store(both, tl.load(first + place, mask=used, other=0.0), mask=exists)
        tl.store(both + D, far, mask=exists)


def gated_fusion_backward_launch(
    grad_out: Tensor | None,
    grad_gate: Tensor | None,
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    gate: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
    of_inputs: bool,
    of_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of short, retrieved, weight, bias and gate_input; those not wanted are empty."""
    shape, width = short.shape, short.shape[-1]
    short, retrieved, first = _rows(short, retrieved, gate_input)
    joins = of_weights and has_retrieval is not None
    rows = short.numel() // width

    def empty(wanted: bool, columns: int = width) -> Tensor:
        return short.new_empty((rows, columns) if wanted else (0,))

    of_logits, joined = empty(True), empty(joins, 2 * width)
    of_short, of_retrieved = empty(of_inputs), empty(of_inputs)
    columns = min(triton.next_power_of_2(width), 128)
    block = BACKWARD_TILE // columns
    if rows:
        with on_device(short):
            _gated_fusion_bwd_kernel[triton.cdiv(rows, block), triton.cdiv(width, columns)](
                short if grad_out is None else grad_out.contiguous(),
                short if grad_gate is None else grad_gate.contiguous(),
                short, retrieved, first, gate.contiguous(), _bytes(has_retrieval, short),
                of_logits, of_short, of_retrieved, joined, rows, width,
                OF_OUT=grad_out is not None, OF_GATE=grad_gate is not None,
                MASKED=has_retrieval is not None, OF_INPUTS=of_inputs, JOINED=joins,
                BM=block, BN=columns,
            )  # fmt: skip
    of_first = empty(of_inputs and gate_input is not None)
    with torch.autocast(short.device.type, enabled=False):
        if of_inputs:
            near, far = weight[:, :width], weight[:, width:]
            if gate_input is None:
                of_short.addmm_(of_logits, near)
            else:
                torch.mm(of_logits, near, out=of_first)
            of_retrieved.addmm_(of_logits, far)
            of_short, of_retrieved = of_short.view(shape), of_retrieved.view(shape)
            of_first = of_first if gate_input is None else of_first.view(shape)
        if not of_weights:
            return of_short, of_retrieved, short.new_empty(0), short.new_empty(0), of_first
        if joins:
            of_weight = of_logits.T @ joined
        else:
            halves = (of_logits.T @ entries.view(rows, width) for entries in (first, retrieved))
            of_weight = torch.cat(tuple(halves), dim=1)
        return of_short, of_retrieved, of_weight, of_logits.sum(0), of_first
