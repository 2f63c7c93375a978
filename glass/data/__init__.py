"""Data: readers of published formats, one inner form on disk, histories and targets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glass.data.dataset import Dataset, Samples
    from glass.data.description import describe, format_description, repeat_mask
    from glass.data.preparation import prepare

__all__ = ["Dataset", "Samples", "describe", "format_description", "prepare", "repeat_mask"]

_MODULES = {
    "Dataset": "dataset",
    "Samples": "dataset",
    "describe": "description",
    "format_description": "description",
    "prepare": "preparation",
    "repeat_mask": "description",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: models need batches alone, and no data frames.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
