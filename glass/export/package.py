"""A folder of compiled graphs, trie and SIDs, written whole or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import glass_kernels
from glass.export.programs import (
    FEWEST_BEAMS,
    FEWEST_EVENTS,
    Graph,
    Limits,
    export_graphs,
    open_to_one_user,
)
from glass.models import Glass
from glass.sid.files import replaced_folder, sha256
from glass_kernels import SidTrie

FORMAT = "glass-rec exported model"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def export_model(
    model: Glass | Path | str,
    folder: Path | str,
    *,
    max_batch: int = 256,
    max_beams: int = 512,
    device: str = "cpu",
) -> Path:
    """Compiles the encoder and every decoder step with AOTInductor, into `folder`.

    The folder gets `encoder.pt2`, a `decoder_step_<level>.pt2` a level, `trie.safetensors`,
    `sids.safetensors` (codes int32 [V, L]) and `manifest.json`, written last. It replaces what was
    there; interrupted, it leaves that as it was. Loading it takes torch and `glass_kernels` alone:
    `examples/serve_exported.py`. The .pt2 files are native code of this kind of processor.

    Args:
        model: a model in eval mode, whose items are then all offered, or the folder of one, of
            which those are that its trie holds (`eval.candidates`).
        folder: to write.
        max_batch: most users a call.
        max_beams: most beams a user.
        device: "cpu"; "cuda" has never been tried.

    Raises:
        ValueError: a folder without a model, a model in training mode, an unknown device or one
            that is not there, a limit below 1, no C++ compiler, or no compiled `glass_kernels`.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    limits = Limits(max_batch, max_beams)
    _check_machine(device)
    model, trie = _loaded(model, device)
    with replaced_folder(folder) as temporary:
        graphs = {}
        for graph in export_graphs(model, limits):
            path = temporary / f"{graph.name}.pt2"
            compile_graph(graph, path)
            graphs[graph.name] = {"file": path.name, **graph.describe()}
        trie.save(temporary / "trie.safetensors")
        save_file({"codes": model.codes.cpu()}, temporary / "sids.safetensors")
        manifest = _manifest(model, limits, device, graphs)
        manifest["files"] = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def compile_graph(graph: Graph, path: Path) -> None:
    """Writes one graph as an AOTInductor package; a minute or so of g++."""
    with open_to_one_user():
        torch._inductor.aoti_compile_and_package(graph.program, package_path=str(path))


def _loaded(model: Glass | Path | str, device: str) -> tuple[Glass, SidTrie]:
    if isinstance(model, Glass):
        if model.training:
            raise ValueError("model is in training mode; call model.eval() before export_model()")
        trie = SidTrie.build(model.codes, model.codebook_sizes)
    else:
        from glass.pipeline.neural import load_system  # which knows this package

        found, _, trie = load_system(model)
        if not isinstance(found, Glass):
            raise ValueError(
                f"{model} holds a {type(found).__name__}; glass and tiger alone can be exported"
            )
        model = found
    return model.to(device), trie.to(device)


def _check_machine(device: str) -> None:
    """ValueError where nothing can be compiled, before any work."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no CUDA device; export for 'cpu'")
    loaded, why = glass_kernels.library.load("cpp")
    if not loaded and device == "cpu":
        raise ValueError(f"an export needs the compiled operators of glass_kernels: {why}")
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            f"an export needs a C++ compiler, and there is none ({error}); install g++, or name "
            "one in the environment variable CXX"
        ) from error


def _manifest(
    model: Glass, limits: Limits, device: str, graphs: Mapping[str, Any]
) -> dict[str, Any]:
    config = model.config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "torch": torch.__version__,
        "glass_kernels": glass_kernels.__version__,
        "device": device,
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "codebook_sizes": list(model.codebook_sizes),
        "num_items": model.codes.shape[0],
        "short_length": config.short_length,
        "long_history": config.long_history,
        "pad_left": config.tier_token_last,
        "max_batch": limits.max_batch,
        "max_beams": limits.max_beams,
        "min_beams": FEWEST_BEAMS,
        "min_events": FEWEST_EVENTS,
        "graphs": dict(graphs),
    }
