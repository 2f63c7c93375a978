"""A model as compiled graphs that need no Python code of `glass`: docs/export.md."""

from glass.export.graphs import EncoderForExport, StepForExport
from glass.export.package import export_model
from glass.export.programs import Graph, Limits, export_graphs

__all__ = [
    "EncoderForExport",
    "Graph",
    "Limits",
    "StepForExport",
    "export_graphs",
    "export_model",
]
