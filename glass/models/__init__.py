"""Models over semantic IDs."""

from glass.models.decoder import Memory, Retrieval
from glass.models.glass import Encoded, Glass, Output

__all__ = ["Encoded", "Glass", "Memory", "Output", "Retrieval"]
