"""Data: readers of published formats, one inner form on disk, histories and targets."""

from glass.data.dataset import Dataset, Samples
from glass.data.describe import describe, format_description, repeat_mask
from glass.data.prepare import prepare

__all__ = ["Dataset", "Samples", "describe", "format_description", "prepare", "repeat_mask"]
