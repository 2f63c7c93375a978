"""Builds of `bucket_history` and `hard_search`; M decides the tile of the second."""

from __future__ import annotations

from collections.abc import Iterator

import triton

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.hard_search import triton_kernels

MAX_ITEMS = (10, 30, 2000)
TYPES = {
    "sid1": "*i64", "offsets": "*i64", "order": "*i32", "bucket_offsets": "*i32",
    "query_sid1": "*i64", "neighbours": "*i32", "positions": "*i32", "lengths": "*i32",
    "total": "i32", "K": "i32", "num_queries": "i32", "num_rows": "i32", "num_near": "i32",
    "tau": "i32", "M": "i32",
}  # fmt: skip


def builds() -> Iterator[Build]:
    """The sort, and the search for few and many items."""
    tile = {"BE": triton_kernels.EVENTS, "BK": triton_kernels.CODES}
    function = triton_kernels._bucket_history_kernel
    config = triton.Config({}, num_warps=triton_kernels.WARPS)
    yield Build("bucket_history", _name(tile, config), function, TYPES, tile, config)
    config = triton.Config({})
    for most in MAX_ITEMS:
        queries, slots = triton_kernels.tile_of(most)
        tile = {"BQ": queries, "BM": slots}
        function = triton_kernels._hard_search_kernel
        name = f"M={most} {_name(tile, config)}"
        yield Build("hard_search", name, function, TYPES, tile, config)


def _name(tile: dict[str, int], config: triton.Config) -> str:
    sizes = " ".join(f"{name}={size}" for name, size in tile.items())
    return f"{sizes} {config_name(config)}"
