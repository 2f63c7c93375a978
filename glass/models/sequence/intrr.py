"""IntRR (arXiv 2602.20704): one token an item, its codes redistributed over learned codebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import SequenceConfig
from glass.data.sequences import SequenceBatch
from glass.models.output import Output
from glass.models.sequence.backbone import Times
from glass.models.sequence.base import CODERS, BackboneName, SequenceModel, at_states, make_output
from glass.models.sequence.jagged import Jagged
from glass_kernels.modules import RecursiveAssignment

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable

_ITEMS_AT_ONCE = 8192


class IntRR(SequenceModel, library_name="glass-rec", coders=CODERS):
    """Backbone over one token an item, between the two sides of a recursive assignment.

    An item's guidance is a linear map of its own embedding (UID) and, with `content`, of its
    frozen vector. An item that training does not know has no UID worth the name: with `content`
    its vector speaks alone; without, its token is the sum of its SID's codes.

    Arguments as of `SequenceModel`.
    """

    seen: Tensor
    content: Tensor

    def __init__(
        self,
        sequence_config: SequenceConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        backbone: BackboneName = "transformer",
        content_dim: int = 0,
    ) -> None:
        super().__init__(sequence_config, codebook_sizes, num_items, backbone, content_dim)
        config = self.config
        self.register_buffer("seen", torch.ones(num_items, dtype=torch.bool))
        self.register_buffer("content", torch.zeros(num_items, content_dim))
        self.uids = nn.Embedding(num_items, config.uid_dim)
        self.guidance = nn.Linear(config.uid_dim + content_dim, config.d_model)
        self.network = RecursiveAssignment(
            config.d_model,
            self.codebook_sizes,
            hidden_dim=config.hidden_dim,
            assignment=config.assignment,
            temperature=config.temperature,
            learn_temperature=config.learn_temperature,
            codebook_std=config.codebook_std,
        )

    def _fill(self, table: SidTable, dataset: Dataset) -> None:
        self.seen.copy_(torch.from_numpy(dataset.train_counts > 0))
        if self.config.content:
            self.content.copy_(torch.from_numpy(table.vectors))

    # --- item side

    def item_guidance(self, items: Tensor) -> Tensor:
        """Guidance [U, d] of items int64 [U]; without the UID of what training does not know."""
        uid = self.uids(items)
        if not self.training:
            uid = uid * self.seen[items, None]
        if self.config.content:
            uid = torch.cat((uid, self.content[items].to(uid.dtype)), dim=-1)
        guidance: Tensor = self.guidance(uid)
        return guidance

    def item_tokens(self, items: Tensor, *, align: bool = False) -> tuple[Tensor, Tensor | None]:
        """Tokens [U, d] of distinct items int64 [U], and with `align` their losses [U]."""
        codes = self.codes[items]
        found = self.network(self.item_guidance(items), codes if align else None)
        token = found.token
        if not self.training and not self.config.content:
            books = self.network.codebooks
            static = sum(F.embedding(codes[:, i], book) for i, book in enumerate(books))
            token = torch.where(self.seen[items, None], token, static)
        # A codebook of small numbers keeps the logits small; the backbone wants tokens of size 1.
        return token / self.network.codebook_std, found.loss

    @torch.no_grad()
    def assignments(self, items: Tensor | None = None) -> list[Tensor]:
        """Soft assignment [U, K_l] of items to the codes of each level; None: of all items.

        The largest of each row is the item's redistributed code.
        """
        was = self.training
        self.eval()
        if items is None:
            items = torch.arange(self.codes.shape[0], device=self.device)
        found = [
            self.network.distributions(self.item_guidance(part))
            for part in torch.split(items, _ITEMS_AT_ONCE)
        ]
        self.train(was)
        return [torch.cat(level) for level in zip(*found, strict=True)]

    # --- user side

    def read(self, batch: SequenceBatch, *, align: bool = False) -> tuple[Tensor, Tensor | None]:
        """Guidance [P, d] of every state, and with `align` the loss of the history's items.

        Each distinct item goes through the item side once; the loss counts it as often as it
        occurs.
        """
        items, place = torch.unique(batch.items, return_inverse=True)
        tokens, losses = self.item_tokens(items, align=align)
        layout = Jagged.of(batch.offsets, batch.longest, len(place))
        times = None
        if self.backbone.timed:
            seconds = layout.pad(batch.times)
            times = Times(seconds, seconds)
        hidden, _ = self.backbone(F.embedding(place, tokens), layout, times)
        alignment = None if losses is None else losses[place].sum() / max(len(place), 1)
        return at_states(hidden, batch.states), alignment

    def forward(self, batch: SequenceBatch) -> Output:
        """L_rec + lambda * L_aln: means over targets, and over the histories' items, of sums over
        levels."""
        pairs = self._pairs(batch)
        guidance, alignment = self.read(batch, align=self.config.alignment > 0)
        found = self.network.teacher_forced(guidance.index_select(0, pairs.states), pairs.codes)
        loss = found.loss.sum() / max(len(pairs.items), 1)
        parts = {"rec": loss}
        if alignment is not None:
            parts["align"] = alignment
            loss = loss + self.config.alignment * alignment
        return make_output(loss, found.codes, pairs, parts)

    def steps(self, batch: SequenceBatch) -> IntRRSteps:
        """Decoding of a batch level by level, for `glass.generation.generate`."""
        return IntRRSteps(self, batch)


class IntRRSteps:
    """Decoding of a batch: after one pass of the backbone, levels depend on the last code alone."""

    def __init__(self, model: IntRR, batch: SequenceBatch) -> None:
        self._network = model.network
        self._guidance = model.read(batch)[0][:, None]
        self._level = 0

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]."""
        return self._network.level_logits(0, self._guidance)

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of beams that were extended by `codes` [B, W]."""
        self._level += 1
        return self._network.level_logits(self._level, self._guidance, codes)
