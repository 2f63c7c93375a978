"""Resumable state of a training run: written whole or not at all, read without executing code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT_VERSION = 1


def fingerprint(*parts: Any) -> str:
    """Hash of dataclasses and JSON-able values: what a checkpoint must have been made with."""
    plain = [asdict(p) if is_dataclass(p) and not isinstance(p, type) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts) to a temporary name and renames."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, *, made_with: str) -> dict[str, Any] | None:
    """State saved at `path`, or None if there is none or it belongs to other settings.

    Raises:
        ValueError: the file is damaged or of another format.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises all kinds over damaged files
        raise ValueError(f"{path} is no readable checkpoint; delete it to start anew") from error
    if not isinstance(state, dict) or not {"format_version", "fingerprint"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of a training; delete it to start anew")
    if state["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {state['format_version']}, this version reads "
            f"{FORMAT_VERSION}; delete it to start anew"
        )
    return state if state["fingerprint"] == made_with else None
