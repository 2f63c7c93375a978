"""Models over semantic IDs."""

from glass.models.decoder import Memory, Retrieval
from glass.models.glass import Encoded, Glass
from glass.models.glass_intrr import GlassIntrr
from glass.models.output import Output
from glass.models.searching import SearchingModel

__all__ = ["Encoded", "Glass", "GlassIntrr", "Memory", "Output", "Retrieval", "SearchingModel"]
