"""Loads the compiled operators, if this installation has them; says why if not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
BUILD_NOTE = FOLDER / "_build.txt"
"""What setup.py did about each library: one `name: outcome` a line."""
OPERATORS = (
    "sid_tier",
    "sid_tier_from_embeddings",
    "sid_tier_update_",
    "tier_table",
    "bucket_history",
    "hard_search",
    "hard_search_attention",
    "hard_search_attention_backward",
    "gated_fusion",
    "gated_fusion_backward",
    "codebook_assign",
    "codebook_assign_backward",
    "trie_beam_step",
    "beam_step",
    "encoder_stack",
    "residual_quantize",
    "pack_token_rows",
    "decoder_step",
    "trie_build",
    "trie_restrict",
    "trie_append",
    "trie_filter",
)
"""Schemas of csrc/registration.cpp; a library without one of them was built from older sources."""


def build_note(name: str) -> str:
    """What the build said about library `name` ("cpp" or "cuda")."""
    if not BUILD_NOTE.exists():
        return (
            "not built when this was installed; `GLASS_BUILD_CPP=1 pip install .` with a C++20 "
            "compiler builds it, or says why it cannot"
        )
    for line in BUILD_NOTE.read_text(encoding="utf-8").splitlines():
        key, _, outcome = line.partition(": ")
        if key == name:
            return outcome
    return "not built"


@cache
def load(name: str = "cpp") -> tuple[bool, str]:
    """Loads the shared library of `name` once: (loaded, what happened).

    Never raises: an installation without compiled operators runs on the references.
    """
    files = sorted(FOLDER.glob(f"_{name}.*so")) + sorted(FOLDER.glob(f"_{name}.*pyd"))
    if not files:
        note = build_note(name)
        return False, "built, but its file is gone; install again" if note == "built" else note
    try:
        torch.ops.load_library(str(files[0]))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return False, f"built, but torch {torch.__version__} cannot load it: {first_line}"
    missing = [name for name in OPERATORS if not hasattr(torch.ops.glass, name)]
    if name == "cpp" and missing:
        return False, (
            f"built from older sources, without {missing[0]}; build it again, with `make info` in "
            "a clone or `pip install .`"
        )
    return True, f"loaded {files[0].name}"


def caller_mistake(error: RuntimeError, beginnings: Sequence[str]) -> ValueError | None:
    """What a caller did wrong, where a kernel found it out; None for any other error.

    Kernels know RuntimeError alone. The message is the line from one of `beginnings` on.
    """
    for beginning in beginnings:
        _, found, rest = str(error).partition(beginning)
        if found:
            return ValueError(f"{found}{rest}".strip().partition("\n")[0])
    return None
