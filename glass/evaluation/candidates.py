"""The items that may be recommended. In TAOBAO-MM few items are ever a target: the others, seen in
histories alone, are no answers, and a list should not compete with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from glass.data.order import TRAIN
from glass.evaluation.arrays import BoolArray

if TYPE_CHECKING:
    from glass.data import Dataset

ALL = "catalogue"
TRAINING_TARGETS = "training_targets"
CHOICES = (ALL, TRAINING_TARGETS)
"""Values of `eval.candidates`."""


def candidate_items(dataset: Dataset, setting: str) -> BoolArray | None:
    """The items that `eval.candidates` lets systems recommend.

    Args:
        dataset: of which training events alone are read.
        setting: one of `CHOICES`.

    Returns:
        bool [V]; None: all items.

    Raises:
        ValueError: an unknown setting, or one that leaves no item.
    """
    if setting not in CHOICES:
        raise ValueError(f"eval.candidates is {setting!r}; it must be one of {', '.join(CHOICES)}")
    if setting == ALL:
        return None
    chosen = training_targets(dataset)
    if not chosen.any():
        raise ValueError(
            f"eval.candidates is {setting!r}, but in data set {dataset.name!r} no training event "
            f"has a history before it, so no item is left; set eval.candidates to {ALL!r}, or "
            "leave more training events (data.num_test_events, data.num_valid_events; "
            "data.test_share, data.valid_share)"
        )
    return chosen


def training_targets(dataset: Dataset) -> BoolArray:
    """bool [V]: the item is a target of at least one training sample.

    Samples are the groups with a history, and a user's first group, number 0, has none.
    """
    targets = dataset.items[(dataset.split == TRAIN) & (dataset.groups > 0)]
    chosen = np.zeros(dataset.num_items, dtype=bool)
    chosen[targets] = True
    return chosen
