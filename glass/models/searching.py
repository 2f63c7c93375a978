"""What models have in common that search the history by semantic ID: SID-Tier, search, copy head.

Shapes: B users, S sets a user, T events of the searched histories, V items, L levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import glass_kernels
from glass.config import ModelConfig
from glass.data.batches import Batch, Collator
from glass.models.copy_head import Copied, CopyHead
from glass.models.decoder import Retrieval
from glass.models.repeats import SearchedHistory
from glass.models.tiers import fitted_edges, table_bytes
from glass_kernels.modules import HardSearch, SidTier, sid_prototypes

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable

NO_TARGET = -100
"""In place of the code where a row of targets is padding."""


class Searched(Protocol):
    """What is known of the searched histories of B users."""

    @property
    def index(self) -> glass_kernels.HistoryIndex | None:
        """Events by sid_1."""

    @property
    def tokens(self) -> Tensor | None:
        """int [T, L] token ids that the index points to."""

    @property
    def copied(self) -> Copied | None:
        """What the copy head made of every event."""


class SearchingModel(nn.Module):
    """Every item's codes and, as the settings want them, SID-Tier, hard search and copy head.

    A model makes them by the `_add_` methods, in the order in which they are to draw their weights.

    Args:
        config: sizes and switches.
        codebook_sizes: codes per level.
        num_items: catalogue size V.
    """

    codes: Tensor
    level_start: Tensor

    def __init__(
        self, config: ModelConfig, codebook_sizes: tuple[int, ...], num_items: int
    ) -> None:
        super().__init__()
        self.config = config
        self.codebook_sizes = tuple(codebook_sizes)
        start = np.cumsum([0, *self.codebook_sizes[:-1]])
        self.register_buffer("level_start", torch.from_numpy(start), persistent=False)
        self.register_buffer(
            "codes", torch.zeros(num_items, len(self.codebook_sizes), dtype=torch.int32)
        )
        self.tier: SidTier | None = None
        self.hard_search: HardSearch | None = None
        self.copy_head: CopyHead | None = None

    def _add_tier(self, vector_dim: int) -> None:
        config = self.config
        if config.use_sid_tier:
            self.tier = SidTier(
                len(self.codes),
                self.codebook_sizes[0],
                config.num_tiers,
                vector_dim,
                config.d_model,
                config.dropout,
                table_limit=table_bytes(config),
            )

    def _add_search(self) -> None:
        config = self.config
        if config.use_hard_search:
            self.hard_search = HardSearch(
                self.codebook_sizes[0],
                max_items=config.search_max_items,
                num_neighbours=config.num_neighbours,
                min_items=config.search_min_items,
            )

    def _add_copy_head(self) -> None:
        if self.config.copy_head and self.config.use_hard_search:
            self.copy_head = CopyHead(self.config.d_model, len(self.codes), self.num_levels)

    @property
    def num_levels(self) -> int:
        """L, the number of codes of a SID."""
        return len(self.codebook_sizes)

    # --- from data

    def fit(self, sid_table: SidTable, dataset: Dataset) -> None:
        """Takes from the data what they determine; training counts alone.

        Raises:
            ValueError: `tier_standardize` with fewer than two training samples.
        """
        config = self.config
        codes, vectors = torch.from_numpy(sid_table.codes), torch.from_numpy(sid_table.vectors)
        self.codes.copy_(codes)
        prototypes = sid_prototypes(vectors, codes[:, 0], self.codebook_sizes[0])
        if config.tier_standardize or config.copy_head:
            batch = _training_batch(config, dataset)
        if self.tier is not None:
            edges = fitted_edges(config, vectors, prototypes, dataset)
            self.tier.rebuild(vectors, prototypes, edges)
            if config.tier_standardize:
                if len(batch) < 2:
                    raise ValueError(
                        "model.tier_standardize needs at least 2 training samples with a history, "
                        f"data set {dataset.name!r} has {len(batch)}; set model.tier_standardize "
                        "to false, or keep more training events (data.num_test_events, "
                        "data.num_valid_events)"
                    )
                self.tier.standardize(batch.long_items, batch.long_offsets)
        if self.copy_head is not None:
            users, items = (torch.from_numpy(p.astype(np.int64)) for p in dataset.train_events())
            self.copy_head.fit(codes, users, items, SearchedHistory.of(batch))
        if self.hard_search is not None:
            occupied = torch.bincount(codes[:, 0], minlength=self.codebook_sizes[0]) > 0
            self.hard_search.set_prototypes(prototypes, occupied)

    # --- histories

    def tier_token(self, batch: Batch) -> Tensor:
        """SID-Tier's token [B, C]; of a model that has it."""
        assert self.tier is not None
        if batch.kept is not None and batch.kept.tiers is not None:
            return self.tier.token(batch.kept.tiers)
        token: Tensor = self.tier(batch.long_items, batch.long_offsets)
        return token

    def searched(
        self, batch: Batch
    ) -> tuple[glass_kernels.HistoryIndex | None, Tensor | None, Copied | None]:
        """Index, tokens and copy of `Searched`.

        What `batch.kept` holds is taken from there; a copy head, which reads every event, needs
        its index made from `batch.long_items`.
        """
        if self.hard_search is None:
            return None, None, None
        if batch.kept is not None and batch.kept.index is not None:
            assert self.copy_head is None  # it reads every event
            return batch.kept.index, batch.kept.tokens, None
        codes = F.embedding(batch.long_items, self.codes)
        index = self.hard_search.index(codes[:, 0], batch.long_offsets)
        copied = None
        if self.copy_head is not None:
            history = SearchedHistory.of(batch)
            copied = self.copy_head.copied(history, codes, self.codebook_sizes[0])
        return index, codes.long() + self.level_start, copied

    def retrieve(self, encoded: Searched, sid1: Tensor) -> Retrieval | None:
        """History items that share sid1 [B, S] (negative: nothing)."""
        if self.hard_search is None or encoded.index is None or encoded.tokens is None:
            return None
        positions, lengths = self.hard_search.search(encoded.index, sid1)
        return Retrieval(encoded.tokens, positions, lengths)

    # --- predictions

    def mixed(
        self,
        logits: Tensor,
        hidden: Tensor,
        level: int,
        encoded: Searched,
        retrieval: Retrieval | None,
        prefix: Tensor,
    ) -> Tensor:
        """Logits [B, S, K] of a level, mixed with the history's by a copy head if there is one.

        Args:
            logits: the decoder's, from `hidden` [B, S, C].
            level: 0 .. L-1.
            encoded, retrieval: of these users and sets.
            prefix: int64 [B, S, level] codes chosen so far (any further columns are ignored).
        """
        if self.copy_head is None:
            return logits
        assert encoded.copied is not None
        positions = None if retrieval is None else retrieval.positions
        mass = encoded.copied.mass(prefix[..., :level], self.codebook_sizes[level], positions)
        mixture: Tensor = self.copy_head(logits, hidden, *mass, level)
        return mixture


def check_table(config: ModelConfig, sid_table: SidTable, dataset: Dataset) -> None:
    """Raises ValueError if the SIDs are of another catalogue, or lack vectors that are read."""
    if len(sid_table.codes) != dataset.num_items:
        raise ValueError(
            f"sid_table holds {len(sid_table.codes)} items, data set {dataset.name!r} "
            f"{dataset.num_items}; build the SIDs again for this data set"
        )
    if config.use_sid_tier:
        sid_table.require_vectors("SID-Tier (model.use_sid_tier)")
    if config.use_hard_search and config.num_neighbours:
        sid_table.require_vectors("hard search in neighbour codes (model.num_neighbours)")


def judged(logits: Tensor, codes: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (scalar) and hits bool [B, S] of one level.

    Padding is masked, not cut out: one shape for torch.compile, no wait on a GPU.

    Args:
        logits: [B, S, K].
        codes: int64 [B, S] true codes.
        present: bool [B, S], where there is a target.
    """
    target = codes.masked_fill(~present, NO_TARGET)
    wide = torch.promote_types(logits.dtype, torch.float32)
    flat = logits.to(wide).flatten(0, 1)
    loss = F.cross_entropy(flat, target.flatten(), ignore_index=NO_TARGET)
    return loss, logits.detach().argmax(-1) == target


def _training_batch(config: ModelConfig, dataset: Dataset, count: int = 4096) -> Batch:
    """Up to `count` training samples drawn with a fixed seed."""
    samples = dataset.samples("train")
    collate = Collator(
        dataset, samples, short_length=config.short_length, long_history=config.long_history
    )
    rng = np.random.default_rng(0)
    return collate(np.sort(rng.permutation(len(samples))[:count]))
