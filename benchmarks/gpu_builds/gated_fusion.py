"""Builds of `gated_fusion`: every setting of the forward, and the backward's one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.gated_fusion import triton_kernel

FLOATS = (
    "short", "retrieved", "first", "weight", "bias", "out", "gate", "grad_out", "grad_gate",
    "grad_logits", "grad_short", "grad_retrieved", "joined",
)  # fmt: skip
ALIGNED = ("D",)


def _types(dtype: str) -> dict[str, str]:
    pointers = dict.fromkeys(FLOATS, f"*{dtype}")
    return pointers | {"has_retrieval": "*u8", "N": "i32", "D": "i32"}


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def builds() -> Iterator[Build]:
    forward = triton_kernel._gated_fusion_fwd_kernel.fn
    for few, dtype in product((False, True), DTYPES):
        for config in triton_kernel.configs_for(few, DTYPES[dtype]):
            name = f"{dtype} {config_name(config)}"
            for kernel, keep in (("gated_fusion", True), ("gated_fusion alone", False)):
                fixed = {"MASKED": True, "FEW": few, "KEEP": keep, "PRECISION": "ieee"}
                constants = {**fixed, **config.kwargs}
                yield Build(kernel, name, forward, _types(dtype), constants, config, ALIGNED)
    backward, columns = triton_kernel._gated_fusion_bwd_kernel, 128
    flags = dict.fromkeys(("OF_OUT", "OF_GATE", "MASKED", "OF_INPUTS", "JOINED"), True)
    tile = {"BM": triton_kernel.BACKWARD_TILE // columns, "BN": columns}
    config = triton.Config(tile)
    for dtype in DTYPES:
        name = f"{dtype} {config_name(config)}"
        types, constants = _types(dtype), {**flags, **tile}
        yield Build("gated_fusion backward", name, backward, types, constants, config, ALIGNED)
