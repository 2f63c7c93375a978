"""Builds of `sid_tier` and `sid_tier_from_embeddings`: every setting picked for 128 codes."""

from __future__ import annotations

from collections.abc import Iterator

import triton

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.sid_tier import triton_common, triton_embeddings, triton_kernel

TABLE_TIERS = (4, 20, 255)
EMBEDDING_TIERS = (20, 255)
DTYPES = (("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp32"))
TYPES = {
    "item_ids": "*i64", "offsets": "*i64", "table": "*u8", "out": "*fp32", "partial": "*i32",
    "inverse_norms": "*fp32", "edges": "*fp32",
    "num_users": "i32", "total": "i32", "num_items": "i32", "chunk": "i32", "num_cuts": "i32",
    "K": "i32", "D": "i32", "size": "i32",
}  # fmt: skip
ALIGNED = ("chunk", "K", "D", "size")


def _table_builds() -> Iterator[Build]:
    function = triton_kernel._sid_tier_fwd_kernel.fn
    for tiers in TABLE_TIERS:
        padded = triton.next_power_of_2(tiers)
        for config in triton_kernel.configs_for(128, padded):
            constants = {"N": tiers, "NT": padded, "NORMALIZE": True, **config.kwargs}
            name = f"N={tiers} {config_name(config)}"
            yield Build("sid_tier", name, function, TYPES, constants, config, ALIGNED)


def _embedding_builds() -> Iterator[Build]:
    function = triton_embeddings._sid_tier_from_embeddings_fwd_kernel.fn
    for tiers in EMBEDDING_TIERS:
        padded = triton.next_power_of_2(tiers)
        steps = padded.bit_length() - 1
        for config in triton_embeddings.configs_for(128, padded):
            for rows, prototypes in DTYPES:
                types = TYPES | {"vectors": f"*{rows}", "prototypes": f"*{prototypes}"}
                constants = {"N": tiers, "NT": padded, "STEPS": steps, "NORMALIZE": True}
                constants |= config.kwargs
                dtypes = rows if rows == prototypes else f"{rows} by {prototypes}"
                name = f"{dtypes} N={tiers} {config_name(config)}"
                kernel = "sid_tier_from_embeddings"
                yield Build(kernel, name, function, types, constants, config, ALIGNED)


def builds() -> Iterator[Build]:
    yield from _table_builds()
    yield from _embedding_builds()
    block = {"ROWS": triton_common.MERGE_ROWS, "BLOCK": triton_common.MERGE_BLOCK}
    function = triton_common._merge_kernel
    constants = {"NORMALIZE": True, **block}
    yield Build("sid_tier merge", "", function, TYPES, constants, triton.Config({}), ALIGNED)
