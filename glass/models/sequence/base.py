"""What IntRR and the flattened baseline share: a catalogue's SIDs, a backbone, pairs to predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import SequenceConfig
from glass.data.sequences import SequenceBatch
from glass.generation.protocol import Steps
from glass.models.output import Output, Term
from glass.models.sequence.backbone import Backbone
from glass.models.sequence.hstu import hstu
from glass.models.sequence.transformer import transformer

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable

BackboneName = Literal["transformer", "hstu"]
CODERS = {SequenceConfig: (asdict, lambda stored: SequenceConfig(**stored))}


@dataclass(frozen=True)
class Pairs:
    """The R targets of all states, padding left out."""

    states: Tensor  # int64 [R], rows of `batch.states`; they do not fall
    items: Tensor  # int64 [R]
    codes: Tensor  # int64 [R, L]
    columns: Tensor  # int64 [R], of `batch.targets`
    present: Tensor  # bool [P, S]


class SequenceModel(nn.Module, PyTorchModelHubMixin, ABC):
    """A causal backbone over histories and a predictor of SIDs; a `Generative` over them.

    Args:
        sequence_config: sizes and switches.
        codebook_sizes: codes per level.
        num_items: catalogue size V.
        backbone: "transformer" or "hstu".
        content_dim: width of the item vectors, with `content`.

    `from_data` fills in what the data determine. All of it is in the state dict.
    """

    codes: Tensor

    def __init__(
        self,
        sequence_config: SequenceConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        backbone: BackboneName = "transformer",
        content_dim: int = 0,
    ) -> None:
        super().__init__()
        # The hub mixin gives the JSON of config.json where it cannot see the annotation's type.
        given = sequence_config
        self.config = SequenceConfig(**given) if isinstance(given, dict) else given
        self.codebook_sizes = tuple(codebook_sizes)
        codes = torch.zeros(num_items, len(self.codebook_sizes), dtype=torch.int32)
        self.register_buffer("codes", codes)
        self.backbone = self._backbone(backbone)

    def _backbone(self, name: BackboneName) -> Backbone:
        if name == "transformer":
            return transformer(self.config)
        if name == "hstu":
            return hstu(self.config, self.config.max_items * self.tokens_per_item)
        raise ValueError(f"backbone must be 'transformer' or 'hstu', was {name!r}")

    @classmethod
    def from_data(
        cls, system: str, config: SequenceConfig, table: SidTable, dataset: Dataset
    ) -> SequenceModel:
        """A new model for the SIDs of `table`, with random weights.

        Args:
            system: its name, of which the part after "_" is the backbone.
            config: sizes and switches.
            table: semantic IDs, and the item vectors for `content`.
            dataset: tells which items training knows, and whether there are clock times.

        Raises:
            ValueError: the SIDs are of another catalogue than the data set's, or `content` without
                item vectors.
        """
        codes = torch.from_numpy(table.codes)
        if len(codes) != dataset.num_items:
            raise ValueError(
                f"table holds {len(codes)} items, data set {dataset.name!r} {dataset.num_items}; "
                "build the SIDs again for this data set"
            )
        if config.content and table.vectors.shape[1] == 0:
            raise ValueError(
                "sequence.content is true, but the semantic IDs came without item vectors; set it "
                "to false or sid.source to what makes vectors"
            )
        if dataset.manifest.get("time_unit", "seconds") != "seconds":
            config = replace(config, time_bias=False)
        content_dim = table.vectors.shape[1] if config.content else 0
        backbone: Any = system.rpartition("_")[2]
        sizes = tuple(table.codebook_sizes)
        config = cls.own_config(config, sizes, backbone, content_dim)
        model = cls(config, sizes, len(codes), backbone, content_dim)
        model.codes.copy_(codes)
        model._fill(table, dataset)
        return model

    @classmethod
    def own_config(
        cls,
        config: SequenceConfig,
        codebook_sizes: tuple[int, ...],
        backbone: BackboneName,
        content_dim: int,
    ) -> SequenceConfig:
        """The settings as this class uses them."""
        return config

    def _fill(self, table: SidTable, dataset: Dataset) -> None:
        """Copies further data into the buffers of a new model."""

    @property
    def tokens_per_item(self) -> int:
        """Tokens that the backbone reads of each item."""
        return 1

    @property
    def num_levels(self) -> int:
        """L, the number of codes of a SID."""
        return len(self.codebook_sizes)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.codes.device

    @property
    def reads_times(self) -> bool:
        """Whether `SequenceBatch.times` are looked at."""
        return self.backbone.timed

    @abstractmethod
    def forward(self, batch: SequenceBatch) -> Output:
        """Teacher-forced loss of all targets of all states."""

    @abstractmethod
    def steps(self, batch: SequenceBatch) -> Steps:
        """Decoding of a batch level by level, for `glass.generation.generate`."""

    def _pairs(self, batch: SequenceBatch) -> Pairs:
        present = batch.targets >= 0
        places = present.nonzero().T if batch.present is None else batch.present
        states, columns = places.unbind()
        items = batch.targets[states, columns]
        return Pairs(states, items, self.codes[items].long(), columns, present)


def at_states(rows: Tensor, states: Tensor) -> Tensor:
    """rows [T, C] at `states` int64 [P]; zeros for the state -1 of an empty history."""
    return F.pad(rows, (0, 0, 0, 1))[states]


def make_output(
    terms: dict[str, Term], best: Tensor, pairs: Pairs, parts: dict[str, Tensor] | None = None
) -> Output:
    """Of the summands of the loss and the best codes int64 [R, L] of every pair."""
    hits = pairs.present.new_zeros(*pairs.present.shape, best.shape[1])
    hits = hits.index_put((pairs.states, pairs.columns), best == pairs.codes)
    detached = None if parts is None else {name: part.detach() for name, part in parts.items()}
    first, *others = (term.value for term in terms.values())
    loss = sum(others, start=first)
    return Output(loss, hits, pairs.present, None, terms, detached)
