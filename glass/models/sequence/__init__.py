"""Models over jagged histories: IntRR and its flattened baseline, on a Transformer or HSTU."""

from glass.models.sequence.base import SequenceModel
from glass.models.sequence.budget import ParameterCounts, parameter_counts
from glass.models.sequence.flattened import Flattened
from glass.models.sequence.intrr import IntRR
from glass.models.sequence.redistribution import moved_share

SYSTEMS: dict[str, type[SequenceModel]] = {
    "flattened_transformer": Flattened,
    "intrr_transformer": IntRR,
    "flattened_hstu": Flattened,
    "intrr_hstu": IntRR,
}
"""Class of each system; its backbone is the part of the name after "_"."""


def model_class(system: str) -> type[SequenceModel]:
    """The class of a system's models.

    Raises ValueError for a name that is none of `SYSTEMS`.
    """
    if system not in SYSTEMS:
        raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, was {system!r}")
    return SYSTEMS[system]


__all__ = [
    "SYSTEMS",
    "Flattened",
    "IntRR",
    "ParameterCounts",
    "SequenceModel",
    "model_class",
    "moved_share",
    "parameter_counts",
]
