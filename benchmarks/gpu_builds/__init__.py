"""Which Triton kernels `benchmarks.gpu_static` compiles: one file an op."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu_builds import (
    codebook_assign,
    gated_fusion,
    hard_search,
    hard_search_attention,
    residual_quantize,
    sid_tier,
    trie,
)
from benchmarks.gpu_builds.build import Build

OPS = (
    sid_tier, hard_search, hard_search_attention, gated_fusion, trie, residual_quantize,
    codebook_assign,
)  # fmt: skip
"""In the order of docs/gpu_static.csv; each has `builds()`."""


def builds() -> Iterator[Build]:
    """Every kernel with the settings that its op can pick."""
    for op in OPS:
        yield from op.builds()


__all__ = ["Build", "builds"]
