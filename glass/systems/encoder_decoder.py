"""GLASS; TIGER, the same trunk without its two modules; and GLASS with IntRR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from glass.config import ModelConfig, RunConfig
from glass.data.batches import Collator
from glass.evaluation.redistribution import Assignments
from glass.models import Glass, GlassIntrr, SearchingModel
from glass.models.decoder import DecoderLayer
from glass.models.glass_intrr import GlassIntrrConfig
from glass.systems.base import Gated, System, TrainingRows
from glass_kernels.modules import TierHistogram

if TYPE_CHECKING:
    from glass.data import Dataset, Samples
    from glass.sid import SidTable

_FOR_MEMORY = ("tier_table_limit",)
"""Settings that leave the weights as they are."""


SettingsT = TypeVar("SettingsT", bound=ModelConfig)
ModelT = TypeVar("ModelT", bound=SearchingModel)


class EncoderDecoder(System[SettingsT, ModelT]):
    """What systems share whose models read the batches of `Collator`."""

    reads_items = False
    """Whether the model has a token for each item, and so wants each item of a batch once."""

    def decisive(self, config: RunConfig) -> dict[str, Any]:
        every = super().decisive(config)
        return {name: value for name, value in every.items() if name not in _FOR_MEMORY}

    def history_length(self, config: RunConfig) -> int:
        return config.model.short_length

    def vector_readers(self, config: RunConfig) -> list[str]:
        model = self.settings(config)
        readers = ["model.use_sid_tier"] if model.use_sid_tier else []
        if model.use_hard_search and model.num_neighbours:
            readers.append("model.num_neighbours")
        return readers

    def training_rows(self, settings: SettingsT, dataset: Dataset) -> TrainingRows:
        samples = dataset.samples("train")
        lengths = np.minimum(samples.history_end - samples.history_start, settings.short_length)
        return TrainingRows(lengths, self.collator(settings, dataset, samples))

    def collator(self, settings: SettingsT, dataset: Dataset, samples: Samples) -> Collator:
        return Collator(
            dataset,
            samples,
            short_length=settings.short_length,
            long_history=settings.long_history,
            pad_left=settings.tier_token_last,
            distinct=self.reads_items,
        )

    def tiers(self, model: ModelT) -> TierHistogram | None:
        return model.tier


class GlassSystem(EncoderDecoder[ModelConfig, Glass]):
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

    def make(self, config: RunConfig, table: SidTable, dataset: Dataset) -> Glass:
        return Glass.from_data(self.settings(config), table, dataset)

    def load(self, folder: Path, table: SidTable) -> Glass:
        model: Glass = Glass.from_pretrained(str(folder))
        return with_vectors(model, table)

    def gate_layers(self, model: Glass) -> list[Gated]:
        return [layer for layer in model.decoder.layers if isinstance(layer, DecoderLayer)]


class UnionSystem(EncoderDecoder[GlassIntrrConfig, GlassIntrr]):
    """A system whose model is `GlassIntrr`."""

    reads_items = True

    def settings(self, config: RunConfig) -> GlassIntrrConfig:
        return GlassIntrrConfig.of_run(config)

    def vector_readers(self, config: RunConfig) -> list[str]:
        content = ["sequence.content"] if config.sequence.content else []
        return [*super().vector_readers(config), *content]

    def make(self, config: RunConfig, table: SidTable, dataset: Dataset) -> GlassIntrr:
        return GlassIntrr.from_data(self.settings(config), table, dataset)

    def load(self, folder: Path, table: SidTable) -> GlassIntrr:
        model: GlassIntrr = GlassIntrr.from_pretrained(str(folder))
        return with_vectors(model, table)

    def gate_layers(self, model: GlassIntrr) -> list[Gated]:
        return [] if model.retrieved_guidance is None else [model.retrieved_guidance]

    def assignments(self, model: GlassIntrr) -> Assignments | None:
        return lambda items: [
            level.double().cpu().numpy()
            for level in model.assignments(torch.from_numpy(items).to(model.codes.device))
        ]


def with_vectors(model: ModelT, table: SidTable) -> ModelT:
    """The model with the item vectors that its weights lack above `model.tier_table_limit`."""
    if model.tier is not None:
        model.tier.set_item_embeddings(torch.from_numpy(table.vectors))
    return model
