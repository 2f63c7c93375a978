"""Builds of `hard_search_attention`: every setting for float32 and bfloat16, and some of TF32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.hard_search_attention import triton_backward, triton_common, triton_forward
from glass_kernels.hard_search_attention.triton_settings import (
    FORWARD,
    QUERY_GRAD,
    TABLE_GRADS,
    Settings,
)

KERNELS: dict[str, tuple[Any, Settings]] = {
    "hard_search_attention": (triton_forward._attention_fwd_kernel, FORWARD),
    "hard_search_attention query grad": (triton_backward._query_grad_kernel, QUERY_GRAD),
    "hard_search_attention table grads": (triton_backward._table_grads_kernel, TABLE_GRADS),
}
CASES = (
    ("fp32", "ieee", (16, 64, 128)),
    ("fp32", "tf32", (128,)),
    ("bf16", "ieee", (16, 64, 128)),
)
FLOATS = ("query", "key_table", "value_table", "grad", "out", "query_grad")
TYPES = {
    "bias": "*fp32", "log_sum": "*fp32", "delta": "*fp32",
    "key_parts": "*fp32", "value_parts": "*fp32",
    "num_rows": "i32", "chunk": "i32", "P": "i32", "num_tokens": "i32", "stride": "i32",
    "H": "i32", "D": "i32", "factor": "fp32", "scale": "fp32",
}  # fmt: skip
BAG_TYPES = {
    "tokens": "*i64", "positions": "*i32", "lengths": "*i32", "bias": "*fp32", "num_events": "i32",
    "max_items": "i32", "num_tokens": "i32", "stride": "i32",
}  # fmt: skip


def builds() -> Iterator[Build]:
    constants: dict[str, Any] = {
        "PER_ITEM": 3, "BINS": triton_common.MAX_BINS, "SLOTS": triton_common.BAG_SLOTS
    }  # fmt: skip
    bag = triton_common._bag_kernel
    kernel = "hard_search_attention bag"
    yield Build(kernel, "", bag, BAG_TYPES, constants, triton.Config({}), ("stride",))
    for kernel, (function, settings) in KERNELS.items():
        for dtype, precision, heads in CASES:
            types = TYPES | dict.fromkeys(FLOATS, f"*{dtype}")
            shown = precision if precision == "tf32" else dtype
            for head in heads:
                for config in settings.choices(head, wide=dtype == "fp32"):
                    constants = {"BD": head, "PRECISION": precision, "FIXED": False}
                    constants |= config.kwargs
                    name = f"{shown} BD={head} {config_name(config)}"
                    aligned = ("stride", "D")
                    yield Build(kernel, name, function.fn, types, constants, config, aligned)
