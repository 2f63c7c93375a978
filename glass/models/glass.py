"""GLASS (arXiv 2602.05663); with both of its modules off it is TIGER (arXiv 2305.05065)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

import glass_kernels
from glass.config import ModelConfig
from glass.data.batches import Batch
from glass.models.copy_head import Copied
from glass.models.decoder import Decoder, DecoderLayer, Memory, Retrieval
from glass.models.encoder import Encoder
from glass.models.fused import fused
from glass.models.layers import initialise, initialise_copy
from glass.models.output import Output, Term
from glass.models.searching import SearchingModel, check_table, judged

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable


@dataclass(frozen=True)
class Encoded:
    """What one encoder pass leaves for the decoder."""

    memory: Memory
    index: glass_kernels.HistoryIndex | None
    tokens: Tensor | None  # int [T, L] token ids of the searched history
    copied: Copied | None = None


class Glass(
    SearchingModel,
    PyTorchModelHubMixin,
    library_name="glass-rec",
    coders={ModelConfig: (asdict, lambda stored: ModelConfig(**stored))},
):
    """Encoder-decoder over semantic IDs with SID-Tier token and gated hard search.

    Args:
        model_config: sizes and switches.
        codebook_sizes: codes per level.
        num_items: catalogue size V.
        vector_dim: width of the item vectors behind SID-Tier's prototypes.

    `from_data` fills in what the data determine: every item's codes, prototypes, tier edges and
    table, neighbour codes. All of it is in the state dict, but for the item vectors that a
    catalogue above `tier_table_limit` has in place of a table: give them to
    `tier.set_item_embeddings` after loading, as `load_system` does.
    """

    def __init__(
        self,
        model_config: ModelConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        vector_dim: int = 1,
    ) -> None:
        # The hub mixin gives the JSON of config.json where it cannot see the annotation's type.
        config = ModelConfig(**model_config) if isinstance(model_config, dict) else model_config
        super().__init__(config, codebook_sizes, num_items)
        self.token_table = nn.Parameter(torch.randn(sum(self.codebook_sizes), config.d_model))
        self.bos = nn.Parameter(torch.randn(config.d_model))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self._add_tier(vector_dim)
        self._add_search()
        if self.hard_search is not None:
            self.retrieved_projection = nn.Linear(config.d_model, config.d_model, bias=False)
            nn.init.normal_(self.retrieved_projection.weight, std=config.d_model**-0.5)
        self._add_copy_head()
        initialise(self, config.d_model)
        self._initialise_modules()

    def _initialise_modules(self) -> None:
        """With `initialization = copy` the decoder's cross-attentions start as copies."""
        if self.config.initialization == "copy":
            for layer in self.decoder.layers:
                assert isinstance(layer, DecoderLayer)
                initialise_copy(layer.short)
                if layer.retrieved is not None:
                    initialise_copy(layer.retrieved)
            if self.hard_search is not None:
                nn.init.eye_(self.retrieved_projection.weight)

    @classmethod
    def from_data(cls, config: ModelConfig, sid_table: SidTable, dataset: Dataset) -> Glass:
        """A new model for the SIDs and vectors of `sid_table`; fitted on training counts alone.

        Raises:
            ValueError: the SIDs are of another catalogue than the data set's or have no item
                vectors where SID-Tier or neighbour codes read them, or `tier_standardize` with
                fewer than two training samples.
        """
        check_table(config, sid_table, dataset)
        vector_dim = sid_table.vectors.shape[1]
        model = cls(config, tuple(sid_table.codebook_sizes), dataset.num_items, vector_dim)
        model.fit(sid_table, dataset)
        return model

    # --- inputs

    def item_tokens(self, items: Tensor) -> Tensor:
        """Token ids int64 [..., L] of items [...]; every level has its own range of ids."""
        return F.embedding(items, self.codes).long() + self.level_start

    def encode(self, batch: Batch) -> Encoded:
        """One encoder pass and everything that all sets of a user share.

        What `batch.kept` holds is taken from there; a copy head, which reads every event, needs
        its index made from `batch.long_items`.
        """
        x, valid = self._inputs(batch)
        encoded = self.encoder(x, valid)
        rows = None
        if self.hard_search is not None:
            train = self.config.train_retrieved
            rows = self.retrieved_projection(
                self.token_table if train else self.token_table.detach()
            )
        return self._with_history(batch, self.decoder.memory(encoded, valid, rows))

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the encoder reads [B, N, C], and which of it is not padding bool [B, N]."""
        items = batch.short_items.clamp(min=0) if batch.padded else batch.short_items
        x = F.embedding(self.item_tokens(items), self.token_table).flatten(1, 2)
        valid = None
        if batch.padded:
            valid = (batch.short_items >= 0).repeat_interleave(self.num_levels, dim=1)
        if self.tier is not None:
            token = self.tier_token(batch)[:, None].to(x.dtype)
            last = self.config.tier_token_last
            x = torch.cat((x, token) if last else (token, x), dim=1)
            if valid is not None:
                valid = F.pad(valid, (0, 1) if last else (1, 0), value=True)
        return x, valid

    def _with_history(self, batch: Batch, memory: Memory) -> Encoded:
        """Adds what the decoder reads of the searched histories."""
        return Encoded(memory, *self.searched(batch))

    # --- training

    def forward(self, batch: Batch) -> Output:
        """Teacher-forced loss of all targets of all histories."""
        encoded = self.encode(batch)
        present = batch.targets >= 0
        codes = self.codes[batch.targets.clamp(min=0)].long()
        retrieval = self.retrieve(encoded, torch.where(present, codes[..., 0], -1))
        hidden, _ = self.decode(encoded, codes[..., :-1], retrieval)
        losses, hits = [], []
        for level in range(self.num_levels):
            state = hidden[..., level, :]
            logits = self.level_logits(state, level, encoded, retrieval, codes)
            loss, hit = judged(logits, codes[..., level], present)
            losses.append(loss)
            hits.append(hit)
        retrieved = None if retrieval is None else retrieval.lengths
        loss = torch.stack(losses).mean()
        terms = {"rec": Term(loss, present.sum())}
        return Output(loss, torch.stack(hits, dim=-1), present, retrieved, terms)

    # --- decoding

    def decode(
        self,
        encoded: Encoded,
        prefix: Tensor,
        retrieval: Retrieval | None,
        past: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states [B, S, P, C] that predict the levels after `prefix`.

        Without `past`, prefix int [B, S, P-1] holds the first codes and BOS is put before them;
        with it, prefix [B, S, 1] is the newest code alone.
        """
        first = 0 if past is None else past[0][0].shape[2] - 1
        levels = self.level_start[first : first + prefix.shape[-1]]
        x = F.embedding(prefix + levels, self.token_table)
        if past is None:
            bos = self.bos.expand(*prefix.shape[:-1], 1, -1)
            x = torch.cat((bos.to(x.dtype), x), dim=-2)
        has_retrieval = None
        if retrieval is not None:
            found = retrieval.lengths > (0 if self.config.empty_retrieval == "short" else -1)
            found = found[..., None].expand(x.shape[:-1])
            # BOS predicts sid_1, before anything can be searched.
            after_bos = torch.arange(x.shape[-2], device=x.device) > (0 if past is None else -1)
            has_retrieval = found & after_bos
        out: tuple[Tensor, list[tuple[Tensor, Tensor]]] = self.decoder(
            x, encoded.memory, retrieval, has_retrieval, past
        )
        return out

    def level_logits(
        self,
        hidden: Tensor,
        level: int,
        encoded: Encoded,
        retrieval: Retrieval | None,
        prefix: Tensor,
    ) -> Tensor:
        """Logits [B, S, K_level] of the codes of one level alone; the head is the token table.

        Args:
            hidden: decoder state [B, S, C] that predicts this level.
            level: 0 .. L-1.
            encoded, retrieval: of these users and sets.
            prefix: int64 [B, S, level] codes chosen so far (any further columns are ignored).
        """
        start = int(sum(self.codebook_sizes[:level]))
        head = self.token_table[start : start + self.codebook_sizes[level]]
        logits = F.linear(hidden * self.config.d_model**-0.5, head)
        return self.mixed(logits, hidden, level, encoded, retrieval, prefix)

    def steps(self, batch: Batch) -> GlassSteps:
        """Decoding of a batch level by level, for `glass.generation.generate`."""
        return GlassSteps(self, batch)


class GlassSteps:
    """Decoding of a batch: what all beams of a user share, and the caches of each beam."""

    def __init__(self, model: Glass, batch: Batch) -> None:
        self._model = model
        self._trunk = fused(model)
        memory = self._trunk.memory(*model._inputs(batch))
        self._encoded = model._with_history(batch, memory)
        self._prefix = batch.short_items.new_zeros(len(batch), 1, 0)
        self._retrieval: Retrieval | None = None
        self._ancestors = self._prefix  # beams of each level that the beams of now go back to
        self._past: list[Tensor] = []

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]; nothing is retrieved for them."""
        return self._logits(None)

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of beams that were extended by `codes` [B, W]."""
        parents, codes = parents.long(), codes.long()
        if self._model.copy_head is not None:  # the only reader of whole prefixes
            self._prefix = _extended(self._prefix, parents, codes)
        self._ancestors = _extended(self._ancestors, parents, parents)
        if len(self._past) == 1:
            self._retrieval = self._model.retrieve(self._encoded, codes)
        elif self._retrieval is not None:
            self._retrieval = self._retrieval.reorder(parents)
        return self._logits(codes)

    def _logits(self, newest: Tensor | None) -> Tensor:
        hidden, present = self._trunk.step(
            newest, self._encoded.memory, self._retrieval, self._past, self._ancestors
        )
        self._past.append(present)
        level = len(self._past) - 1
        logits = self._trunk.logits(hidden, level)
        return self._model.mixed(
            logits, hidden, level, self._encoded, self._retrieval, self._prefix
        )


def _extended(paths: Tensor, parents: Tensor, newest: Tensor) -> Tensor:
    """Each beam's parent's of paths [B, W, n], and `newest` [B, W'] after it: [B, W', n + 1]."""
    if paths.shape[-1] == 0:
        return newest[..., None]
    index = parents[..., None].expand(-1, -1, paths.shape[-1])
    return torch.cat((paths.gather(1, index), newest[..., None]), dim=-1)
