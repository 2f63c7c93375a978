"""The trained systems by name: the one place that tells them apart."""

from __future__ import annotations

from typing import Any

from glass.systems.base import Collate, Model, Settings, System, TrainingRows
from glass.systems.encoder_decoder import GlassSystem, UnionSystem

__all__ = ["TRAINED", "Collate", "Model", "Settings", "System", "TrainingRows", "trained_system"]

TRAINED: dict[str, System[Any, Any]] = {
    system.name: system
    for system in (
        GlassSystem("tiger", modules=False),
        GlassSystem("glass", modules=True),
        UnionSystem("glass_intrr"),
    )
}
"""Name in `RunConfig.systems` -> system, in the order of the tables."""


def trained_system(name: str) -> System[Any, Any]:
    """The trained system of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in TRAINED:
        raise ValueError(f"system is {name!r}; it must be one of {', '.join(TRAINED)}")
    return TRAINED[name]
