"""IntRR (arXiv 2602.20704): one token an item, its codes redistributed over learned codebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glass.config import SequenceConfig
from glass.data.batches import distinct_items
from glass.data.sequences import SequenceBatch
from glass.models.item_side import ItemSide
from glass.models.kept import Kept
from glass.models.output import Output, Term
from glass.models.sequence.backbone import Times
from glass.models.sequence.base import CODERS, BackboneName, SequenceModel, at_states, make_output
from glass.models.sequence.fused import Stack
from glass.models.sequence.jagged import Jagged
from glass.models.sequence.levels import Levels, LevelTables

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable


class IntRR(ItemSide, SequenceModel, library_name="glass-rec", coders=CODERS):
    """Backbone over one token an item, between the two sides of a recursive assignment.

    Arguments as of `SequenceModel`.
    """

    def __init__(
        self,
        sequence_config: SequenceConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        backbone: BackboneName = "transformer",
        content_dim: int = 0,
    ) -> None:
        super().__init__(sequence_config, codebook_sizes, num_items, backbone, content_dim)
        self._add_item_side(self.config, self.config.d_model, num_items, content_dim)

    def _fill(self, table: SidTable, dataset: Dataset) -> None:
        self._fill_item_side(table, dataset)

    # --- user side

    def read(self, batch: SequenceBatch, *, align: bool = False) -> tuple[Tensor, Tensor | None]:
        """Guidance [P, d] of every state, and with `align` the loss of the history's items.

        Each distinct item goes through the item side once; the loss counts it as often as it
        occurs. Where nothing is trained, the tokens of all items are made once for the weights as
        they are, and looked up.
        """
        learns = self.training or align or torch.is_grad_enabled()
        ready, losses = None, None
        if learns:
            items, place = batch.distinct, batch.place
            if items is None or place is None:
                items, place = distinct_items(batch.items)
            tokens, losses = self.item_tokens(items, align=align)
        else:
            ready = prepared(self)
            place, tokens = batch.items, ready.tokens
        layout = Jagged.of(batch.offsets, batch.longest, len(place))
        x = F.embedding(place, tokens)
        times = None
        if self.backbone.timed:
            seconds = layout.pad(batch.times)
            times = Times(seconds, seconds)
        hidden = None if ready is None else ready.stack.states(x, layout, times)
        if hidden is None:
            hidden, _ = self.backbone(x, layout, times)
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
        terms = {"rec": Term(loss, len(pairs.items))}
        if alignment is not None:
            parts["align"] = alignment
            terms["align"] = Term(self.config.alignment * alignment, len(batch.items))
        return make_output(terms, found.codes, pairs, parts)

    def steps(self, batch: SequenceBatch) -> IntRRSteps:
        """Decoding of a batch level by level, for `glass.generation.generate`."""
        return IntRRSteps(self, batch)


@dataclass(frozen=True)
class Prepared:
    """What generation needs of the weights alone."""

    tokens: Tensor  # [V, d] of every item
    stack: Stack
    tables: LevelTables

    @classmethod
    def of(cls, model: IntRR) -> Prepared:
        """From the weights as they are now."""
        stack, tables = Stack.of(model.backbone), LevelTables.of(model.network)
        return cls(model.all_item_tokens(), stack, tables)


prepared: Kept[IntRR, Prepared] = Kept(Prepared.of, buffers=True)


class IntRRSteps:
    """Decoding of a batch: after one pass of the backbone, levels depend on the last code alone."""

    def __init__(self, model: IntRR, batch: SequenceBatch) -> None:
        with torch.no_grad():
            guidance, _ = model.read(batch)
            self._levels = Levels(model.network, prepared(model).tables, guidance)

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]."""
        return self._levels.first()

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of beams that were extended by `codes` [B, W]."""
        return self._levels.next(parents, codes)
