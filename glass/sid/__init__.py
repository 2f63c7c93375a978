"""Semantic IDs: item vectors, quantisers, SIDs and how well they are spread."""

from glass.sid.builder import build, load_built
from glass.sid.comparison import compare, format_comparison
from glass.sid.health import LevelHealth, SidHealth, describe
from glass.sid.plots import plot
from glass.sid.table import SidTable

__all__ = [
    "LevelHealth",
    "SidHealth",
    "SidTable",
    "build",
    "compare",
    "describe",
    "format_comparison",
    "load_built",
    "plot",
]
