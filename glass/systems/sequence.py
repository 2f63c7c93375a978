"""IntRR and its flattened baseline: causal models that learn every prefix of a window at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glass.config import RunConfig, SequenceConfig
from glass.data.sequences import SequenceCollator, WindowCollator, Windows
from glass.evaluation.redistribution import Assignments
from glass.models.sequence import IntRR, SequenceModel, model_class
from glass.systems.base import System, TrainingRows

if TYPE_CHECKING:
    from glass.data import Dataset, Samples
    from glass.sid import SidTable


class SequenceSystem(System[SequenceConfig, SequenceModel]):
    """A system whose model is a `SequenceModel`; its name says which, and on which backbone."""

    history_edges = (5, 10, 20, 50, 100)

    @property
    def title(self) -> str:
        backbone = {"transformer": "Transformer", "hstu": "HSTU"}[self.name.rpartition("_")[2]]
        return f"{'IntRR' if self._redistributes else 'Flattened SIDs'} ({backbone})"

    def settings(self, config: RunConfig) -> SequenceConfig:
        return config.sequence

    def history_length(self, config: RunConfig) -> int:
        return config.sequence.max_items

    def vector_readers(self, config: RunConfig) -> list[str]:
        return ["sequence.content"] if config.sequence.content and self._redistributes else []

    @property
    def _redistributes(self) -> bool:
        return issubclass(model_class(self.name), IntRR)

    def make(self, config: RunConfig, table: SidTable, dataset: Dataset) -> SequenceModel:
        return model_class(self.name).from_data(self.name, config.sequence, table, dataset)

    def load(self, folder: Path, table: SidTable) -> SequenceModel:
        model: SequenceModel = model_class(self.name).from_pretrained(str(folder))
        return model

    def training_rows(self, settings: SequenceConfig, dataset: Dataset) -> TrainingRows:
        windows = Windows.of(dataset, settings.max_items)
        return TrainingRows(windows.lengths, WindowCollator(dataset, windows))

    def collator(
        self, settings: SequenceConfig, dataset: Dataset, samples: Samples
    ) -> SequenceCollator:
        return SequenceCollator(dataset, samples, max_items=settings.max_items)

    def assignments(self, model: SequenceModel) -> Assignments | None:
        if not isinstance(model, IntRR):
            return None
        return lambda items: [
            level.double().cpu().numpy()
            for level in model.assignments(torch.from_numpy(items).to(model.device))
        ]
