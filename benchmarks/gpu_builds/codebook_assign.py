"""Builds of `codebook_assign`: every setting, with target, temperature and both gradients.

float16 differs from bfloat16 in loads and stores alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.codebook_assign import (
    triton_forward,
    triton_fused,
    triton_settings,
    triton_slabs,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FLOATS = ("query", "codebook", "assigned", "grad", "query_grad")
TYPES = {
    **dict.fromkeys(("loss", "log_sum_exp", "grad_loss", "dots", "soft_logs", "parts"), "*fp32"),
    **dict.fromkeys(("factor", "inverse"), "fp32"),
    **dict.fromkeys(("target", "index"), "*i64"),
    **dict.fromkeys(("num_rows", "chunk", "K", "D"), "i32"),
    **dict.fromkeys(("logits", "products"), "*fp32"),
}
ALIGNED = ("K", "D")
FLAGS = {"ASSIGNED": True, "LOSS": True, "SAME": False}
SLAB_COLUMNS = (256, 2048)


def _types(dtype: str) -> dict[str, str]:
    return TYPES | dict.fromkeys(FLOATS, f"*{dtype}")


def builds() -> Iterator[Build]:
    yield from _forward()
    fused = (
        ("query grad", triton_fused._query_grad_kernel, triton_settings.QUERY_GRAD, True),
        ("codebook grad", triton_fused._codebook_grad_kernel, triton_settings.CODEBOOK_GRAD, False),
    )
    for kernel, function, settings, of_query in fused:
        flags = {**FLAGS, "FIXED": False, **({"OF_QUERY": True} if of_query else {})}
        for columns in settings:
            for config in triton_settings.backward_choices(settings, columns):
                constants = {**flags, "BD": columns, **config.kwargs}
                name, types = f"bf16 BD={columns} {config_name(config)}", _types("bf16")
                kernel_name = f"codebook_assign {kernel}"
                yield Build(kernel_name, name, function.fn, types, constants, config, ALIGNED)
    for columns in SLAB_COLUMNS:
        config = triton.Config({"BM": triton_slabs.TILE // columns, "BK": columns})
        function = triton_slabs._logit_grads_kernel
        kernel, name = "codebook_assign logit grads", f"fp32 {config_name(config)}"
        constants = {**FLAGS, **config.kwargs}
        yield Build(kernel, name, function, _types("fp32"), constants, config, ALIGNED)


def _forward() -> Iterator[Build]:
    function = triton_forward._codebook_assign_fwd_kernel.fn
    for few, dtype in product((False, True), DTYPES):
        precisions = ("ieee", "tf32") if dtype == "fp32" else ("ieee",)
        for precision in precisions:
            for config in triton_settings.forward_choices(few, DTYPES[dtype]):
                flags = {"TARGET": True, "FEW": few, "PRECISION": precision, "FIXED": False}
                constants = {**flags, **config.kwargs}
                shown = "tf32" if precision == "tf32" else dtype
                name = f"{shown} {config_name(config)}"
                types = _types(dtype)
                yield Build("codebook_assign", name, function, types, constants, config, ALIGNED)
