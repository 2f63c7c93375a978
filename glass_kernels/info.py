"""`python -m glass_kernels.info`: what is installed, built and available, and why not."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import glass_kernels
from glass_kernels import library
from glass_kernels.backend import BACKENDS, ENVIRONMENT, triton_interpreted

TUNING = Path(__file__).parent / "tuning"  # read without importing Triton

# op -> where the dict {backend: implementation} is that `resolve` picks from
_OPS = {
    "sid_tier": ("sid_tier", "_SID_TIER"),
    "sid_tier_from_embeddings": ("sid_tier", "_FROM_EMBEDDINGS"),
    "bucket_history": ("hard_search", "_BUCKET"),
    "hard_search": ("hard_search", "_SEARCH"),
    "hard_search_attention": ("hard_search_attention", "_ATTENTION"),
    "gated_fusion": ("gated_fusion", "_FUSION"),
    "codebook_assign": ("codebook_assign", "_ASSIGN"),
    "encoder_stack": ("encoder_stack", "_STACK"),
    "trie_beam_step": ("trie", "_TRIE_BEAM_STEP"),
    "beam_step": ("trie", "_BEAM_STEP"),
    "residual_quantize": ("residual_quantize", "_QUANTIZE"),
}


def op_backends() -> dict[str, tuple[str, ...]]:
    """Backends that each op has in this installation, best first."""
    found = {}
    for op, (folder, name) in _OPS.items():
        available: Mapping[str, Any] = getattr(import_module(f"glass_kernels.{folder}"), name)
        found[op] = tuple(backend for backend in BACKENDS if backend in available)
    return found


def versions() -> dict[str, str]:
    """Versions of everything that decides which backends run."""
    found = {"glass-kernels": glass_kernels.__version__, "python": platform.python_version()}
    for package in ("torch", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["CUDA of torch"] = torch.version.cuda or "none"
    return found


def backend_status() -> dict[str, str]:
    """One sentence a backend: available, or why not and what to do."""
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "no CUDA device is visible to torch"
    status = {}
    for name in ("cpp", "cuda"):
        status[name] = library.load(name)[1]
    if versions()["triton"] == "not installed":
        status["triton"] = "triton is not installed [pip install triton, Linux only]"
    elif gpu:
        status["triton"] = f"available on {device}"
    elif triton_interpreted():
        status["triton"] = "in the interpreter, when asked for by name"
    else:
        status["triton"] = f"{device} [TRITON_INTERPRET=1 runs kernels on the CPU, slowly]"
    status["eager"] = "available"
    status["reference"] = "available"
    return {name: status[name] for name in BACKENDS}


def shipped_settings() -> str:
    """For which cards settings of Triton kernels are shipped, and whether they were measured."""
    found = []
    for path in sorted(TUNING.glob("*.json")):
        measured = json.loads(path.read_text(encoding="utf-8"))["measured"]
        found.append(f"{path.stem} ({'measured' if measured else 'guesses, never measured'})")
    return ", ".join(found) or "none"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def report() -> str:
    """The text of `python -m glass_kernels.info`."""
    has = op_backends()
    table: list[tuple[str, ...]] = [("op", *BACKENDS)]
    for op, backends in has.items():
        table.append((op, *("yes" if name in backends else "-" for name in BACKENDS)))
    chosen = os.environ.get(ENVIRONMENT) or "not set: the best available backend runs"
    parts = [
        _aligned([*versions().items()]),
        _aligned([*backend_status().items()]),
        _aligned(table),
        f"{ENVIRONMENT}: {chosen}",
        f"settings of Triton kernels: {shipped_settings()}\n"
        "(other cards time theirs at the first call of a kind, as all do under GLASS_AUTOTUNE=1)",
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(report())
