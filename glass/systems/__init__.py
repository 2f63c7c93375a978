"""The trained systems by name: the one place that tells them apart."""

from __future__ import annotations

from typing import Any

from glass.models.sequence import SYSTEMS as SEQUENCE_SYSTEMS
from glass.systems.base import Collate, Model, Settings, System, TrainingRows
from glass.systems.encoder_decoder import GlassSystem, UnionSystem
from glass.systems.sequence import SequenceSystem

__all__ = ["TRAINED", "Collate", "Model", "Settings", "System", "TrainingRows", "trained_system"]

_SYSTEMS: tuple[System[Any, Any], ...] = (
    GlassSystem("tiger", modules=False),
    GlassSystem("glass", modules=True),
    UnionSystem("glass_intrr"),
    *map(SequenceSystem, SEQUENCE_SYSTEMS),
)
TRAINED = {system.name: system for system in _SYSTEMS}
"""Name in `RunConfig.systems` -> system."""


def trained_system(name: str) -> System[Any, Any]:
    """The trained system of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in TRAINED:
        raise ValueError(f"system is {name!r}; it must be one of {', '.join(TRAINED)}")
    return TRAINED[name]
