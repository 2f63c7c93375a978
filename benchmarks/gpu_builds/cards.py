"""Cards that need not be here, and how much of one a kernel's programs can fill.

Limits of NVIDIA's: table "Technical specifications per compute capability" of the CUDA programming
guide (https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html)
and `cuda_occupancy.h`, which comes with Triton and with which a test compares. Of AMD's: the ISA
guide of MI300 (CDNA 3) and LLVM's `GCNSubtarget`. Its scalar registers are left out: more than 96
of them can take one of 8 waves.
"""

from __future__ import annotations

from dataclasses import dataclass

from triton.backends.compiler import GPUTarget

PARTS = 4
"""Of a multiprocessor, or compute unit, among which warps are divided, each with registers."""
REGISTERS, REGISTER_STEP = 512, 8
"""Of a part, for each lane of a warp; a thread is given a multiple of the second."""


@dataclass(frozen=True)
class Card:
    """A generation of GPUs; sizes are those of one multiprocessor, or compute unit."""

    target: GPUTarget
    """As Triton names it."""
    warps: int
    """Resident at a time."""
    blocks: int
    shared_bytes: int
    shared_step: int
    """A block is given a multiple of it."""
    reserved_bytes: int = 0
    """That every block takes beside its own."""


CARDS = {
    # A100, H100 and B200: one program may have all of the shared memory but what is reserved
    "sm_80": Card(GPUTarget("cuda", 80, 32), 64, 32, 164 << 10, 128, 1 << 10),
    "sm_90a": Card(GPUTarget("cuda", 90, 32), 64, 32, 228 << 10, 128, 1 << 10),
    "sm_100a": Card(GPUTarget("cuda", 100, 32), 64, 32, 228 << 10, 128, 1 << 10),
    # MI300: vector and accumulation registers are of one file
    "gfx942": Card(GPUTarget("hip", "gfx942", 64), 32, 16, 64 << 10, 512),
}


def occupancy(card: Card, threads: int, registers: int, shared_bytes: int) -> float:
    """Warps that can be resident over those that could be at most; 0 if not even one block fits.

    A bound: what the grid, barriers and memory leave of it is not known. Triton refuses to launch
    where it is 0 (OutOfResources), and its autotuner then drops the setting.

    Args:
        threads: of a block.
        registers: of a thread, at least 1.
        shared_bytes: of a block.
    """
    warps: int = threads // card.target.warp_size
    by_registers = PARTS * (REGISTERS // _rounded(registers, REGISTER_STEP)) // warps
    shared = _rounded(max(shared_bytes + card.reserved_bytes, 1), card.shared_step)
    blocks = min(by_registers, card.warps // warps, card.shared_bytes // shared, card.blocks)
    return blocks * warps / card.warps


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step
