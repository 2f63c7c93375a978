"""The events that a system is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glass.evaluation.arrays import BoolArray, Int32Array, Int64Array, ragged_positions

if TYPE_CHECKING:
    from glass.data import Dataset, Samples


@dataclass(frozen=True)
class Targets:
    """One row a target event; the targets of a group share a sample and so a ranked list."""

    sample: Int64Array
    """int64 [N] row of the samples that the targets were taken from."""
    user: Int32Array
    """int32 [N] user, the unit that the bootstrap resamples."""
    item: Int32Array
    """int32 [N] item to be ranked high."""
    repeat: BoolArray
    """bool [N] whether the item is already in the sample's history."""
    history_length: Int64Array
    """int64 [N] events in the sample's history."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def first_time(self) -> BoolArray:
        """bool [N] whether the item is new to the user."""
        return ~self.repeat

    @classmethod
    def from_samples(cls, dataset: Dataset, samples: Samples) -> Targets:
        """All target events of `samples`, sample after sample.

        Args:
            dataset: the data set that `samples` indexes.
            samples: S samples.

        Raises:
            ValueError: a sample without a history or without a target.
        """
        empty = (samples.history_end <= samples.history_start) | (
            samples.target_end <= samples.history_end
        )
        if empty.any():
            row = int(np.argmax(empty))
            raise ValueError(
                f"samples: row {row} has history [{samples.history_start[row]}, "
                f"{samples.history_end[row]}) and targets up to {samples.target_end[row]}; "
                "leave out samples without a history or a target"
            )
        sample, position = ragged_positions(samples.history_end, samples.target_end)
        return cls(
            sample=sample,
            user=samples.users[sample],
            item=dataset.items[position],
            repeat=_seen_before(dataset, position, samples.history_end[sample]),
            history_length=(samples.history_end - samples.history_start)[sample],
        )


def _seen_before(dataset: Dataset, position: Int64Array, history_end: Int64Array) -> BoolArray:
    """Whether the item at each flat position occurs before `history_end` in its user's events."""
    users = np.repeat(np.arange(len(dataset.user_offsets) - 1), np.diff(dataset.user_offsets))
    key = users * np.int64(dataset.num_items) + dataset.items
    # A user's events are contiguous, so the first event of a (user, item) pair decides.
    _, first, pair = np.unique(key, return_index=True, return_inverse=True)
    seen: BoolArray = first[pair[position]] < history_end
    return seen
