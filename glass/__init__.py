"""GLASS and TIGER: generative recommendation over long user histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glass.serving import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: commands that need no model start in a moment.
    if name == "Recommender":
        from glass.serving import Recommender

        return Recommender
    raise AttributeError(f"module 'glass' has no attribute {name!r}")
