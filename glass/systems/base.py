"""What the pipeline asks of a trained system, whatever its model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glass.config import ModelConfig, RunConfig, SequenceConfig
from glass.evaluation.redistribution import Assignments
from glass.evaluation.results import HISTORY_EDGES
from glass.models import Glass, GlassIntrr
from glass.models.sequence import SequenceModel
from glass_kernels.modules import TierHistogram

if TYPE_CHECKING:
    from glass.data import Dataset, Samples
    from glass.sid import SidTable

Model: TypeAlias = Glass | GlassIntrr | SequenceModel
"""A trained model."""
Settings: TypeAlias = ModelConfig | SequenceConfig
"""What a model is made from."""
LATER = {"uid_start": "random", "context": "previous"}
"""Settings that came later, and how it always was before: keys of older runs do not have them."""
SettingsT = TypeVar("SettingsT")
ModelT = TypeVar("ModelT")


class Gated(Protocol):
    """A layer with a gate between what is near and what was retrieved."""

    keep_gate: bool
    """Whether to keep the gate of the next forward."""
    gate: Tensor | None
    """What was kept: [B, S, P, C]; position 0 is BOS, for which nothing is retrieved."""


class Collate(Protocol):
    """Turns rows into a batch of the kind that the system's model takes."""

    def __call__(
        self,
        rows: np.ndarray,
        *,
        max_targets: int | None = None,
        rng: np.random.Generator | None = None,
        part: NDArray[np.int64] | None = None,
    ) -> Any:
        """Batch of `rows` int [B]; with `max_targets`, `rng` draws so many of a larger group.

        `part`: positions of the rows that are wanted, with the targets that they have in the whole
        batch.
        """


@dataclass(frozen=True)
class TrainingRows:
    """What an epoch of training goes through once."""

    lengths: NDArray[np.integer[Any]]
    """int [R] events that each row reads; rows of like length share a batch."""
    collate: Collate

    def __len__(self) -> int:
        return len(self.lengths)


class System(ABC, Generic[SettingsT, ModelT]):
    """One trained system: how it is made from data, fed, kept and loaded.

    Args:
        name: in `RunConfig.systems`, and of its folder.
    """

    history_edges: tuple[int, ...] = HISTORY_EDGES
    """Bounds of history lengths between which its scores are told apart."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def settings(self, config: RunConfig) -> SettingsT:
        """Its model's settings in a run."""

    def decisive(self, config: RunConfig) -> dict[str, Any]:
        """Those of its settings that decide the weights."""
        every: dict[str, Any] = asdict(self.settings(config))  # type: ignore[call-overload]
        return {name: v for name, v in every.items() if name not in LATER or v != LATER[name]}

    @abstractmethod
    def history_length(self, config: RunConfig) -> int:
        """Newest events that its trunk reads."""

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.upper()

    def vector_readers(self, config: RunConfig) -> list[str]:
        """Settings by which its model reads item vectors; published codes may have none."""
        return []

    @abstractmethod
    def make(self, config: RunConfig, table: SidTable, dataset: Dataset) -> ModelT:
        """A new model with random weights.

        Raises:
            ValueError: settings, SIDs and data that do not fit together.
        """

    @abstractmethod
    def load(self, folder: Path, table: SidTable) -> ModelT:
        """The model that `save_pretrained` wrote to `folder`, on the CPU; `table`: its SIDs."""

    @abstractmethod
    def training_rows(self, settings: SettingsT, dataset: Dataset) -> TrainingRows:
        """All training targets of a data set."""

    @abstractmethod
    def collator(self, settings: SettingsT, dataset: Dataset, samples: Samples) -> Collate:
        """Batches of `samples`, a history and its targets a row, for validation and test."""

    def gate_layers(self, model: ModelT) -> list[Gated]:
        """Layers whose gate the diagnosis reads."""
        return []

    def assignments(self, model: ModelT) -> Assignments | None:
        """How the model spreads items over codes, if it learns that."""
        return None

    def tiers(self, model: ModelT) -> TierHistogram | None:
        """SID-Tier of the model."""
        return None
