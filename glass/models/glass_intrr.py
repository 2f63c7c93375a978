"""GLASS and IntRR together; ours, no paper has it. docs/models.md tells the whole.

GLASS reads an item as its L codes, and decodes L positions for every beam. Here an item is one
token (IntRR), the decoder runs at one position for each user, and all levels come from IntRR's
recursive-assignment network. Its first level needs nothing but the user's guidance h; the first
code of each beam then searches the history (GLASS), and what it finds, by the gate, turns h into
the h' of the deeper levels:

    logits_1 = h C_1^T
    z = attention of h + A C_1[sid_1] over the codes of the items found
    h' = h + g * (z - h) + B C_1[sid_1],  g = sigmoid(W [h ; z] + b)
    logits_l = f_l([C_{l-1}[sid_{l-1}] ; h']) C_l^T

Shapes: B users, N positions, S sets a user (targets in training, beams in generation), d width,
U distinct items, V items, L levels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

import glass_kernels
from glass.config import ItemSideConfig, ModelConfig, RunConfig, UnionConfig
from glass.data.batches import Batch, distinct_items
from glass.models.copy_head import Copied
from glass.models.decoder import DecoderLayer, Retrieval
from glass.models.item_side import ItemSide
from glass.models.kept import Kept
from glass.models.layers import initialise, initialise_copy
from glass.models.output import Output, Term
from glass.models.retrieved_guidance import RetrievedGuidance, Tables
from glass.models.searching import SearchingModel, check_table, judged
from glass.models.trunk import Trunk

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable


@dataclass(frozen=True)
class GlassIntrrConfig(UnionConfig, ItemSideConfig, ModelConfig):
    """All settings of the model."""

    @classmethod
    def of_run(cls, config: RunConfig) -> GlassIntrrConfig:
        """GLASS's half from `model`, an item's token from `sequence`, the rest from `union`."""
        item_side = {name: getattr(config.sequence, name) for name in asdict(ItemSideConfig())}
        return cls(**asdict(config.model), **item_side, **asdict(config.union))


@dataclass(frozen=True)
class Read:
    """What one pass over the histories leaves."""

    guidance: Tensor  # [B, 1, d]
    index: glass_kernels.HistoryIndex | None
    tokens: Tensor | None  # int [T, L] token ids of the searched history
    copied: Copied | None


@dataclass(frozen=True)
class CodeTables:
    """What depends on the codes alone."""

    retrieval: Tables | None
    first: Tensor | None  # [K_1, d], B C_1


class GlassIntrr(
    ItemSide,
    SearchingModel,
    PyTorchModelHubMixin,
    library_name="glass-rec",
    coders={GlassIntrrConfig: (asdict, lambda stored: GlassIntrrConfig(**stored))},
):
    """One token an item, gated hard search and SID-Tier, and levels by recursive assignment.

    Args:
        union_config: sizes and switches.
        codebook_sizes: codes per level.
        num_items: catalogue size V.
        vector_dim: width of the item vectors behind SID-Tier's prototypes and `content`.

    `from_data` fills in what the data determine. All of it is in the state dict, but for the item
    vectors that stand in for a large table of SID-Tier, as with `Glass`.
    """

    config: GlassIntrrConfig

    def __init__(
        self,
        union_config: GlassIntrrConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        vector_dim: int = 1,
    ) -> None:
        given = union_config
        # The hub mixin gives the JSON of config.json where it cannot see the annotation's type.
        config = GlassIntrrConfig(**given) if isinstance(given, dict) else given
        super().__init__(config, codebook_sizes, num_items)
        width = config.d_model
        self.trunk = Trunk(replace(config, use_hard_search=False))
        self._add_item_side(config, width, num_items, vector_dim if config.content else 0)
        self._add_tier(vector_dim)
        self.tier_guidance: nn.Linear | None = None
        if config.use_sid_tier and config.tier_guidance:
            self.tier_guidance = nn.Linear(width, width, bias=False)
            nn.init.zeros_(self.tier_guidance.weight)
        self._add_search()
        self.retrieved_guidance: RetrievedGuidance | None = None
        if config.use_hard_search:
            self.retrieved_guidance = RetrievedGuidance(config)
        self.first_code: nn.Linear | None = None
        if config.first_code:
            self.first_code = nn.Linear(width, width, bias=False)
            nn.init.zeros_(self.first_code.weight)
        self._add_copy_head()
        initialise(self, width)
        if config.initialization == "copy":
            for layer in self.trunk.decoder.layers:
                assert isinstance(layer, DecoderLayer)
                initialise_copy(layer.short)
            if self.retrieved_guidance is not None:
                initialise_copy(self.retrieved_guidance.attention)

    @classmethod
    def from_data(
        cls, config: GlassIntrrConfig, sid_table: SidTable, dataset: Dataset
    ) -> GlassIntrr:
        """A new model for the SIDs and vectors of `sid_table`; fitted on training counts alone.

        Raises:
            ValueError: as for `Glass.from_data`, or `content` without item vectors.
        """
        check_table(config, sid_table, dataset)
        if config.content:
            sid_table.require_vectors("content of an item's token (sequence.content)")
        vector_dim = sid_table.vectors.shape[1]
        model = cls(config, tuple(sid_table.codebook_sizes), dataset.num_items, vector_dim)
        model.fit(sid_table, dataset)
        model._fill_item_side(sid_table, dataset)
        return model

    # --- histories

    def _inputs(self, batch: Batch, tokens: Tensor, tier: Tensor | None) -> Tensor:
        """What the encoder reads [B, N+1, d]: items as `tokens` [B, N, d], and SID-Tier's."""
        if tier is None:
            return tokens
        last = self.config.tier_token_last
        token = tier[:, None].to(tokens.dtype)
        return torch.cat((tokens, token) if last else (token, tokens), dim=1)

    def _valid(self, batch: Batch) -> Tensor | None:
        """Which positions of the encoder are not padding bool [B, N+1]; None: all."""
        if not batch.padded:
            return None
        valid = batch.short_items >= 0
        if self.tier is None:
            return valid
        return F.pad(valid, (0, 1) if self.config.tier_token_last else (1, 0), value=True)

    def _read(self, batch: Batch, state: Tensor, tier: Tensor | None) -> Read:
        """From the trunk's state [B, d]."""
        if self.tier_guidance is not None and tier is not None:
            state = state + self.tier_guidance(tier).to(state.dtype)
        return Read(state[:, None], *self.searched(batch))

    def read(self, batch: Batch) -> tuple[Read, Tensor | None]:
        """One pass over the histories, with gradients; and L_aln, of a weight above 0.

        Each distinct item of the batch goes through the item side once.
        """
        align = self.config.alignment > 0
        items, place = batch.distinct, batch.place
        if items is None or place is None:
            items, place = distinct_items(batch.short_items)
        tokens, losses = self.item_tokens(items, align=align)
        tier = None if self.tier is None else self.tier_token(batch)
        x = self._inputs(batch, F.embedding(place, tokens), tier)
        read = self._read(batch, self.trunk(x, self._valid(batch)), tier)
        if losses is None:
            return read, None
        valid = batch.short_items >= 0
        total = (losses[place] * valid).sum() / valid.sum().clamp(min=1)
        return read, total / self.num_levels

    # --- levels

    def code_tables(self) -> CodeTables:
        """What depends on the codes alone; their embeddings are scaled as items' tokens are."""
        rows = [codebook / self.network.codebook_std for codebook in self.network.codebooks]
        module, first = self.retrieved_guidance, self.first_code
        return CodeTables(
            None if module is None else module.tables(torch.cat(rows), rows[0]),
            None if first is None else first(rows[0]),
        )

    def deeper(
        self, guidance: Tensor, sid1: Tensor, tables: CodeTables, retrieval: Retrieval | None
    ) -> Tensor:
        """h' [B, S, d] from h [B, 1, d] and first codes int64 [B, S]; h itself if it takes none."""
        deeper = guidance
        if self.retrieved_guidance is not None and retrieval is not None:
            assert tables.retrieval is not None
            deeper = self.retrieved_guidance(guidance, sid1, tables.retrieval, retrieval)
        if tables.first is not None:
            deeper = deeper + F.embedding(sid1, tables.first).to(deeper.dtype)
        return deeper

    def level_logits(
        self,
        guidance: Tensor,
        level: int,
        read: Read,
        retrieval: Retrieval | None,
        prefix: Tensor,
    ) -> Tensor:
        """Logits [B, S, K_level] of the codes of one level; S is 1 for the first.

        Args:
            guidance: [B, S or 1, d], h for the first level and h' for the others.
            level: 0 .. L-1.
            read, retrieval: of these users and sets.
            prefix: int64 [B, S, level] codes chosen so far (any further columns are ignored).
        """
        before = self.network.codes_before(level, prefix)
        query = self.network.level_query(level, guidance, before)
        logits = F.linear(query, self.network.codebooks[level].to(query.dtype))
        return self.mixed(logits, query, level, read, retrieval, prefix)

    # --- training

    def forward(self, batch: Batch) -> Output:
        """Teacher-forced loss of all targets of all histories: L_rec + lambda * L_aln.

        Both are means over the levels, where IntRR has sums, so that L_rec is what GLASS minimises.
        """
        read, alignment = self.read(batch)
        present = batch.targets >= 0
        codes = self.codes[batch.targets.clamp(min=0)].long()
        sid1 = codes[..., 0]
        retrieval = self.retrieve(read, torch.where(present, sid1, -1))
        guidance = read.guidance
        deeper = self.deeper(guidance, sid1, self.code_tables(), retrieval)
        losses, hits = [], []
        for level in range(self.num_levels):
            chosen = guidance if level == 0 else deeper
            logits = self.level_logits(chosen, level, read, retrieval, codes)
            logits = logits.expand(-1, codes.shape[1], -1)
            loss, hit = judged(logits, codes[..., level], present)
            losses.append(loss)
            hits.append(hit)
        loss = torch.stack(losses).mean()
        parts = {"rec": loss.detach()}
        terms = {"rec": Term(loss, present.sum())}
        if alignment is not None:
            parts["align"] = alignment.detach()
            weighted = self.config.alignment * alignment
            terms["align"] = Term(weighted, batch.lengths.sum())
            loss = loss + weighted
        found = None if retrieval is None else retrieval.lengths
        return Output(loss, torch.stack(hits, dim=-1), present, found, terms, parts)

    def steps(self, batch: Batch) -> GlassIntrrSteps:
        """Decoding of a batch level by level, for `glass.generation.generate`."""
        return GlassIntrrSteps(self, batch)


@dataclass(frozen=True)
class Prepared:
    """What generation needs of the weights alone."""

    tokens: Tensor  # [V, d] every item's token: smaller than the UIDs it is made from
    tables: CodeTables

    @classmethod
    def of(cls, model: GlassIntrr) -> Prepared:
        """From the weights as they are now."""
        return cls(model.all_item_tokens(), model.code_tables())


prepared = Kept(Prepared.of)


class GlassIntrrSteps:
    """Decoding of a batch: one pass a user, one search a beam, then small products a level."""

    def __init__(self, model: GlassIntrr, batch: Batch) -> None:
        self._model = model
        self._prepared = prepared(model)
        tokens = F.embedding(batch.short_items.clamp(min=0), self._prepared.tokens)
        tier = None if model.tier is None else model.tier_token(batch)
        x = model._inputs(batch, tokens, tier)
        state = model.trunk.generate(x, model._valid(batch))
        self._read = model._read(batch, state, tier)
        self._guidance = self._read.guidance
        self._prefix = batch.short_items.new_zeros(len(batch), 1, 0)
        self._retrieval: Retrieval | None = None

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]; nothing is retrieved for them."""
        return self._logits()

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of beams that were extended by `codes` [B, W]."""
        parents, codes = parents.long(), codes.long()
        prefix = self._prefix.gather(1, parents[..., None].expand(-1, -1, self._prefix.shape[-1]))
        self._prefix = torch.cat((prefix, codes[..., None]), dim=-1)
        if self._prefix.shape[-1] == 1:
            self._retrieval = self._model.retrieve(self._read, codes)
            self._guidance = self._model.deeper(
                self._guidance, codes, self._prepared.tables, self._retrieval
            )
            return self._logits()
        if self._retrieval is not None:
            self._retrieval = self._retrieval.reorder(parents)
        if self._guidance.shape[1] > 1:
            width = self._guidance.shape[-1]
            self._guidance = self._guidance.gather(1, parents[..., None].expand(-1, -1, width))
        return self._logits()

    def _logits(self) -> Tensor:
        level = self._prefix.shape[-1]
        return self._model.level_logits(
            self._guidance, level, self._read, self._retrieval, self._prefix
        )
