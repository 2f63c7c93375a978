"""Builds of `residual_quantize`: every setting. Half precision differs in one load alone."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.residual_quantize import triton_kernel

TYPES = {
    **dict.fromkeys(("rows", "centred", "halves", "means", "longest", "buffer"), "*fp32"),
    **dict.fromkeys(("starts", "codes"), "*i32"),
    **dict.fromkeys(("num_rows", "num_levels", "D"), "i32"),
}


def builds() -> Iterator[Build]:
    function = triton_kernel._residual_quantize_fwd_kernel.fn
    for dtype in ("fp32", "bf16"):
        for config in triton_kernel.CONFIGS:
            constants = {"NORMALIZE": True, **config.kwargs}
            types = {**TYPES, "x": f"*{dtype}"}
            name = f"{dtype} {config_name(config)}"
            yield Build("residual_quantize", name, function, types, constants, config, ("D",))
