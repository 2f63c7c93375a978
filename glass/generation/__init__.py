"""Beam search over the catalogue."""

from glass.generation.beam import Beams, generate

__all__ = ["Beams", "generate"]
