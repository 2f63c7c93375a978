"""Builds of `trie_beam_step` and `beam_step`; children a node and beams decide the tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton

from benchmarks.gpu_builds.build import Build, config_name
from glass_kernels.trie import triton_candidates, triton_select, triton_step

SHAPES = ((1, 256), (50, 256), (50, 8), (512, 8192))
"""(beams, children of a node): the first level, the second, a deep one, the largest."""
LISTS = {
    **{name: "*fp32" for name in ("scores", "out_scores")},
    **{
        name: "*i32"
        for name in (
            "children", "parents", "out_children", "out_parents", "child_codes", "out_nodes",
            "out_codes",
        )
    },
    **{name: "i32" for name in ("length", "groups", "blocks", "width")},
}  # fmt: skip
TYPES = {
    **LISTS, "nodes": "*i32", "child_offsets": "*i32", "filter_offsets": "*i64",
    "filter_nodes": "*i32",
    **{
        name: "i32"
        for name in (
            "W", "K", "num_parents", "num_children", "max_children", "num_filtered", "steps",
            "child_steps", "beam_blocks", "child_blocks",
        )
    },
}  # fmt: skip
FLAGS = {"TRIE": True, "MASKED": True, "FILTERED": False, "KEEPS": False}
VARIANTS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("filter", {"FILTERED": True}),
    ("mask after", {"MASKED": False}),
    ("no trie", {"TRIE": False}),
)


def builds() -> Iterator[Build]:
    for beams, children in SHAPES:
        yield _candidates(f"W={beams} C={children}", beams, children, "fp32")
    for name, flags in VARIANTS:
        yield _candidates(f"W=50 C=256 {name}", 50, 256, "fp32", **flags)
    for logits in ("bf16", "fp16", "fp64"):
        yield _candidates(f"W=50 C=256 {logits}", 50, 256, logits, FILTERED=True)
    config = triton.Config({}, num_warps=triton_step.WARPS)
    for scores in ("fp32", "fp64"):
        types = LISTS | {"scores": f"*{scores}", "out_scores": f"*{scores}"}
        function: Any = triton_select._merge_kernel
        constants: dict[str, Any] = {"TILE": triton_step.MERGED}
        yield Build("beam_step merge", _name(scores, constants, config), function, types, constants,
                    config)  # fmt: skip
        function = triton_select._rank_kernel
        constants = {"BI": triton_step.RANKED, "BJ": triton_step.AGAINST}
        ranking = triton.Config({})
        name = _name(scores, constants, ranking)
        yield Build("beam_step rank", name, function, types, constants | {"TRIE": True}, ranking)


def _candidates(setting: str, beams: int, children: int, logits: str, **flags: bool) -> Build:
    wide = logits == "fp64"
    tile = triton_step.TILE_FLOAT64 if wide else triton_step.TILE
    block_beams, block_children = triton_step.tile_of(tile, beams, children)
    scores = "*fp64" if wide else "*fp32"
    types = TYPES | {"logits": f"*{logits}", "scores": scores, "out_scores": scores}
    largest = torch.finfo(torch.float64 if wide else torch.float32).max
    sizes = {"BW": block_beams, "BC": block_children}
    constants = FLAGS | flags | {"LARGEST": largest} | sizes
    config = triton.Config({}, num_warps=triton_step.WARPS)
    name = _name(setting, sizes, config)
    function = triton_candidates._candidates_kernel
    return Build("beam_step candidates", name, function, types, constants, config, ("K",))


def _name(setting: str, sizes: dict[str, Any], config: triton.Config) -> str:
    tile = " ".join(f"{name}={size}" for name, size in sizes.items())
    return f"{setting} {tile} {config_name(config)}"
