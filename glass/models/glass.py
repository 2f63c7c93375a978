"""GLASS (arXiv 2602.05663); with both of its modules off it is TIGER (arXiv 2305.05065)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

import glass_kernels
from glass.config import ModelConfig
from glass.data.batches import Batch, Collator
from glass.models.copy_head import Copied, CopyHead
from glass.models.decoder import Decoder, DecoderLayer, Memory, Retrieval
from glass.models.encoder import Encoder
from glass.models.fused import fused
from glass.models.layers import initialise, initialise_copy
from glass.models.repeats import SearchedHistory
from glass.models.tiers import fitted_edges, table_bytes
from glass_kernels.modules import HardSearch, SidTier, sid_prototypes

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable

NO_TARGET = -100
"""In place of the code where a row of targets is padding."""


@dataclass(frozen=True)
class Output:
    """Of a training forward pass."""

    loss: Tensor
    """Mean cross-entropy over all levels of all targets: scalar."""
    hits: Tensor
    """Teacher-forced hits per level: bool [B, S, L]; false where there is no target."""
    present: Tensor
    """Where there is a target and not padding: bool [B, S]."""
    retrieved: Tensor | None
    """Items that the hard search found: int32 [B, S]; None without it."""
    parts: Mapping[str, Tensor] | None = None
    """What the loss is made of, by name: detached scalars; None where it is one thing."""

    @property
    def correct(self) -> Tensor:
        """Hits of the targets alone: bool [targets, L], a shape that depends on the data."""
        return self.hits[self.present]


@dataclass(frozen=True)
class Encoded:
    """What one encoder pass leaves for the decoder."""

    memory: Memory
    index: glass_kernels.HistoryIndex | None
    tokens: Tensor | None  # int [T, L] token ids of the searched history
    copied: Copied | None = None


class Glass(
    nn.Module,
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

    codes: Tensor
    level_start: Tensor

    def __init__(
        self,
        model_config: ModelConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        vector_dim: int = 1,
    ) -> None:
        super().__init__()
        # The hub mixin gives the JSON of config.json where it cannot see the annotation's type.
        config = ModelConfig(**model_config) if isinstance(model_config, dict) else model_config
        self.config = config
        self.codebook_sizes = tuple(codebook_sizes)
        start = [0]
        for size in self.codebook_sizes:
            start.append(start[-1] + size)
        self.register_buffer("level_start", torch.tensor(start[:-1]), persistent=False)
        self.register_buffer(
            "codes", torch.zeros(num_items, len(self.codebook_sizes), dtype=torch.int32)
        )
        self.token_table = nn.Parameter(torch.randn(start[-1], config.d_model))
        self.bos = nn.Parameter(torch.randn(config.d_model))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.tier: SidTier | None = None
        if config.use_sid_tier:
            self.tier = SidTier(
                num_items,
                self.codebook_sizes[0],
                config.num_tiers,
                vector_dim,
                config.d_model,
                config.dropout,
                table_limit=table_bytes(config),
            )
        self.hard_search: HardSearch | None = None
        if config.use_hard_search:
            self.hard_search = HardSearch(
                self.codebook_sizes[0],
                max_items=config.search_max_items,
                num_neighbours=config.num_neighbours,
                min_items=config.search_min_items,
            )
            self.retrieved_projection = nn.Linear(config.d_model, config.d_model, bias=False)
            nn.init.normal_(self.retrieved_projection.weight, std=config.d_model**-0.5)
        self.copy_head: CopyHead | None = None
        if config.copy_head and config.use_hard_search:
            self.copy_head = CopyHead(config.d_model, num_items, self.num_levels)
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
        codes = torch.from_numpy(sid_table.codes)
        if len(codes) != dataset.num_items:
            raise ValueError(
                f"sid_table holds {len(codes)} items, data set {dataset.name!r} "
                f"{dataset.num_items}; build the SIDs again for this data set"
            )
        if config.use_sid_tier:
            sid_table.require_vectors("SID-Tier (model.use_sid_tier)")
        if config.use_hard_search and config.num_neighbours:
            sid_table.require_vectors("hard search in neighbour codes (model.num_neighbours)")
        vectors = torch.from_numpy(sid_table.vectors)
        model = cls(config, tuple(sid_table.codebook_sizes), len(codes), vectors.shape[1])
        model.codes.copy_(codes)
        prototypes = sid_prototypes(vectors, codes[:, 0], model.codebook_sizes[0])
        if config.tier_standardize or config.copy_head:
            batch = _training_batch(config, dataset)
        if model.tier is not None:
            edges = fitted_edges(config, vectors, prototypes, dataset)
            model.tier.rebuild(vectors, prototypes, edges)
            if config.tier_standardize:
                if len(batch) < 2:
                    raise ValueError(
                        "model.tier_standardize needs at least 2 training samples with a history, "
                        f"data set {dataset.name!r} has {len(batch)}; set model.tier_standardize "
                        "to false, or keep more training events (data.num_test_events, "
                        "data.num_valid_events)"
                    )
                model.tier.standardize(batch.long_items, batch.long_offsets)
        if model.copy_head is not None:
            users, items = (torch.from_numpy(p.astype(np.int64)) for p in dataset.train_events())
            model.copy_head.fit(codes, users, items, SearchedHistory.of(batch))
        if model.hard_search is not None:
            occupied = torch.bincount(codes[:, 0], minlength=model.codebook_sizes[0]) > 0
            model.hard_search.set_prototypes(prototypes, occupied)
        return model

    @property
    def num_levels(self) -> int:
        """L, the number of codes of a SID."""
        return len(self.codebook_sizes)

    # --- inputs

    def item_tokens(self, items: Tensor) -> Tensor:
        """Token ids int64 [..., L] of items [...]; every level has its own range of ids."""
        return self.codes[items].long() + self.level_start

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
            token = self._tier_token(batch)[:, None].to(x.dtype)
            last = self.config.tier_token_last
            x = torch.cat((x, token) if last else (token, x), dim=1)
            if valid is not None:
                valid = F.pad(valid, (0, 1) if last else (1, 0), value=True)
        return x, valid

    def _with_history(self, batch: Batch, memory: Memory) -> Encoded:
        """Adds what the decoder reads of the searched histories."""
        if self.hard_search is None:
            return Encoded(memory, None, None)
        if batch.kept is not None and batch.kept.index is not None:
            assert self.copy_head is None  # it reads every event
            return Encoded(memory, batch.kept.index, batch.kept.tokens)
        codes = self.codes[batch.long_items]
        index = self.hard_search.index(codes[:, 0], batch.long_offsets)
        copied = None
        if self.copy_head is not None:
            history = SearchedHistory.of(batch)
            copied = self.copy_head.copied(history, codes, self.codebook_sizes[0])
        return Encoded(memory, index, codes.long() + self.level_start, copied)

    def _tier_token(self, batch: Batch) -> Tensor:
        assert self.tier is not None
        if batch.kept is not None and batch.kept.tiers is not None:
            return self.tier.token(batch.kept.tiers)
        token: Tensor = self.tier(batch.long_items, batch.long_offsets)
        return token

    def retrieve(self, encoded: Encoded, sid1: Tensor) -> Retrieval | None:
        """History items that share sid1 [B, S] (negative: nothing)."""
        if self.hard_search is None or encoded.index is None or encoded.tokens is None:
            return None
        positions, lengths = self.hard_search.search(encoded.index, sid1)
        return Retrieval(encoded.tokens, positions, lengths)

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
            # Padding is masked, not cut out: one shape for torch.compile, no wait on a GPU.
            target = codes[..., level].masked_fill(~present, NO_TARGET)
            wide = torch.promote_types(logits.dtype, torch.float32)
            flat = logits.to(wide).flatten(0, 1)
            losses.append(F.cross_entropy(flat, target.flatten(), ignore_index=NO_TARGET))
            hits.append(logits.detach().argmax(-1) == target)
        retrieved = None if retrieval is None else retrieval.lengths
        return Output(torch.stack(losses).mean(), torch.stack(hits, dim=-1), present, retrieved)

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
        if self.copy_head is None:
            return logits
        assert encoded.copied is not None
        positions = None if retrieval is None else retrieval.positions
        mass = encoded.copied.mass(prefix[..., :level], self.codebook_sizes[level], positions)
        mixture: Tensor = self.copy_head(logits, hidden, *mass, level)
        return mixture

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
        self._size = len(batch)
        self._prefix = batch.short_items.new_zeros(self._size, 1, 0)
        self._retrieval: Retrieval | None = None
        self._past: Tensor | None = None  # [layers, B*W, n, 2, H, D]

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]; nothing is retrieved for them."""
        return self._logits(None)

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of beams that were extended by `codes` [B, W]."""
        parents, codes = parents.long(), codes.long()
        prefix = self._prefix.gather(1, parents[..., None].expand(-1, -1, self._prefix.shape[-1]))
        # Each beam takes over its parent's self-attention keys and values, and its search.
        assert self._past is not None
        width = self._prefix.shape[1]
        first = torch.arange(0, self._size * width, width, device=parents.device)
        self._past = self._past.index_select(1, (parents + first[:, None]).flatten())
        self._prefix = torch.cat((prefix, codes[..., None]), dim=-1)
        if self._prefix.shape[-1] == 1:
            self._retrieval = self._model.retrieve(self._encoded, codes)
        elif self._retrieval is not None:
            self._retrieval = self._retrieval.reorder(parents)
        return self._logits(codes)

    def _logits(self, newest: Tensor | None) -> Tensor:
        users, width, level = self._prefix.shape
        hidden, self._past = self._trunk.step(
            newest, self._encoded.memory, self._retrieval, self._past, (users, width)
        )
        return self._model.level_logits(hidden, level, self._encoded, self._retrieval, self._prefix)


def _training_batch(config: ModelConfig, dataset: Dataset, count: int = 4096) -> Batch:
    """Up to `count` training samples drawn with a fixed seed."""
    samples = dataset.samples("train")
    collate = Collator(
        dataset, samples, short_length=config.short_length, long_history=config.long_history
    )
    rng = np.random.default_rng(0)
    return collate(np.sort(rng.permutation(len(samples))[:count]))
