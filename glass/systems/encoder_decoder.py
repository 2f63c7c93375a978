"""GLASS, and TIGER: the same trunk without its two modules."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glass.config import ModelConfig, RunConfig
from glass.data.batches import Collator
from glass.models import Glass
from glass.models.decoder import DecoderLayer
from glass.systems.base import System, TrainingRows
from glass_kernels.modules import TierHistogram

if TYPE_CHECKING:
    from glass.data import Dataset, Samples
    from glass.sid import SidTable

_FOR_MEMORY = ("tier_table_limit",)
"""Settings that leave the weights as they are."""


class EncoderDecoder(System[ModelConfig, Glass]):
    """A system whose model is `Glass`.

    Args:
        name: as for every system.
        modules: with SID-Tier and hard search where the run's settings have them.
    """

    def __init__(self, name: str, *, modules: bool) -> None:
        super().__init__(name)
        self._modules = modules

    def settings(self, config: RunConfig) -> ModelConfig:
        if self._modules:
            return config.model
        return replace(config.model, use_sid_tier=False, use_hard_search=False)

    def decisive(self, config: RunConfig) -> dict[str, Any]:
        every = asdict(self.settings(config))
        return {name: value for name, value in every.items() if name not in _FOR_MEMORY}

    def history_length(self, config: RunConfig) -> int:
        return config.model.short_length

    def vector_readers(self, config: RunConfig) -> list[str]:
        model = self.settings(config)
        readers = ["model.use_sid_tier"] if model.use_sid_tier else []
        if model.use_hard_search and model.num_neighbours:
            readers.append("model.num_neighbours")
        return readers

    def make(self, config: RunConfig, table: SidTable, dataset: Dataset) -> Glass:
        return Glass.from_data(self.settings(config), table, dataset)

    def load(self, folder: Path, table: SidTable) -> Glass:
        model: Glass = Glass.from_pretrained(str(folder))
        if model.tier is not None:  # above model.tier_table_limit the weights hold no table
            model.tier.set_item_embeddings(torch.from_numpy(table.vectors))
        return model

    def training_rows(self, settings: ModelConfig, dataset: Dataset) -> TrainingRows:
        samples = dataset.samples("train")
        lengths = np.minimum(samples.history_end - samples.history_start, settings.short_length)
        return TrainingRows(lengths, self.collator(settings, dataset, samples))

    def collator(self, settings: ModelConfig, dataset: Dataset, samples: Samples) -> Collator:
        return Collator(
            dataset,
            samples,
            short_length=settings.short_length,
            long_history=settings.long_history,
            pad_left=settings.tier_token_last,
        )

    def gate_layers(self, model: Glass) -> list[DecoderLayer]:
        return [layer for layer in model.decoder.layers if isinstance(layer, DecoderLayer)]

    def tiers(self, model: Glass) -> TierHistogram | None:
        return model.tier
