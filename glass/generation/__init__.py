"""Beam search over the catalogue."""

from glass.generation.beam import Beams, generate
from glass.generation.items import Ranked, top_items
from glass.generation.protocol import Generative, Steps

__all__ = ["Beams", "Generative", "Ranked", "Steps", "generate", "top_items"]
