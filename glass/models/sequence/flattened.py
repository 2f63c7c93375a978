"""The baseline that IntRR shortens: the same backbones over one token a code, a head a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import SequenceConfig
from glass.data.sequences import SequenceBatch
from glass.models.output import Output, Term
from glass.models.sequence.backbone import Branches, Context, KeysValues, Times
from glass.models.sequence.base import (
    CODERS,
    BackboneName,
    Pairs,
    SequenceModel,
    at_states,
    make_output,
)
from glass.models.sequence.budget import matched
from glass.models.sequence.jagged import Jagged


class Flattened(SequenceModel, library_name="glass-rec", coders=CODERS):
    """Causal backbone over L tokens an item; the state at each predicts the next code.

    Arguments as of `SequenceModel`; `content_dim` is not used.
    """

    level_start: Tensor

    def __init__(
        self,
        sequence_config: SequenceConfig | dict[str, Any],
        codebook_sizes: tuple[int, ...],
        num_items: int,
        backbone: BackboneName = "transformer",
        content_dim: int = 0,
    ) -> None:
        super().__init__(sequence_config, codebook_sizes, num_items, backbone, content_dim)
        width = self.config.d_model
        sizes = torch.tensor(self.codebook_sizes)
        self.register_buffer("level_start", sizes.cumsum(0) - sizes, persistent=False)
        self.token_table = nn.Parameter(torch.randn(int(sizes.sum()), width))
        self.heads = nn.ParameterList(torch.empty(size, width) for size in self.codebook_sizes)
        for head in self.heads:
            nn.init.normal_(head, std=width**-0.5)

    @classmethod
    def own_config(
        cls,
        config: SequenceConfig,
        codebook_sizes: tuple[int, ...],
        backbone: BackboneName,
        content_dim: int,
    ) -> SequenceConfig:
        """As wide as IntRR has parameters, with `match_parameters`."""
        return matched(config, codebook_sizes, backbone, content_dim)

    @property
    def tokens_per_item(self) -> int:
        """L."""
        return self.num_levels

    def embed(self, items: Tensor) -> Tensor:
        """Tokens [n*L, d] of items int64 [n]."""
        return F.embedding(self.codes[items].long() + self.level_start, self.token_table).flatten(
            0, 1
        )

    def read(
        self, items: Tensor, offsets: Tensor, longest: int, times: Tensor
    ) -> tuple[Tensor, Context]:
        """States [T*L, d] of all tokens of histories, and what they leave for branches."""
        levels = self.num_levels
        layout = Jagged.of(offsets * levels, longest * levels, len(items) * levels)
        given = None
        if self.backbone.timed:
            # The codes before an item's last ask at the time of the event before it.
            before = torch.cat((times[:1], times[:-1]))
            first = offsets[:-1][offsets.diff() > 0]
            before[first] = times[first]
            asked = before[:, None].repeat(1, levels)
            asked[:, -1] = times
            seen = times[:, None].expand(-1, levels)
            given = Times(layout.pad(asked.flatten()), layout.pad(seen.flatten()))
        states, context = self.backbone(self.embed(items), layout, given)
        return states, context

    def forward(self, batch: SequenceBatch) -> Output:
        """Cross-entropy, summed over levels: mean over all targets of all states.

        Where a target is the item that follows its state anyway, its codes are tokens of the
        history, so one pass predicts all of a history whose groups are single events. The other
        targets of larger groups are branches from it.
        """
        pairs = self._pairs(batch)
        whole = _Continued.of(batch)
        states, context = self.read(whole.items, whole.offsets, batch.longest + 1, whole.times)
        place = whole.following[pairs.states]
        levels = self.num_levels
        # After the tokens comes a row of zeros, the state of an empty history, then the branches.
        read = place[:, None] * levels - 1 + torch.arange(levels, device=place.device)
        read[:, 0].masked_fill_(batch.states[pairs.states] < 0, len(states))
        rows = [states, states.new_zeros(1, states.shape[1])]
        apart = (whole.items[place] != pairs.items).nonzero()[:, 0]
        if len(apart) and levels > 1:
            branches = self._branches(batch, whole, context, pairs, apart)
            rows.append(branches.flatten(0, 1))
            first = torch.arange(len(apart), device=place.device)[:, None] * (levels - 1)
            column = torch.arange(levels - 1, device=place.device)
            read[apart, 1:] = len(states) + 1 + first + column
        together = torch.cat(rows)
        losses, best = [], []
        for level in range(levels):
            logits = self.logits(level, together.index_select(0, read[:, level]))
            wide = torch.promote_types(logits.dtype, torch.float32)
            losses.append(F.cross_entropy(logits.to(wide), pairs.codes[:, level], reduction="sum"))
            best.append(logits.detach().argmax(-1))
        loss = torch.stack(losses).sum() / max(len(pairs.items), 1)
        terms = {"rec": Term(loss, len(pairs.items))}
        return make_output(terms, torch.stack(best, dim=1), pairs)

    def _branches(
        self,
        batch: SequenceBatch,
        whole: _Continued,
        context: Context,
        pairs: Pairs,
        apart: Tensor,
    ) -> Tensor:
        """States [R, L-1, d] of the codes of the pairs `apart` int64 [R], but their last."""
        state = pairs.states[apart]
        owner = batch.owners[state]
        layout = Jagged.of_owners(owner, len(batch))
        end = (whole.following[state] - whole.offsets[owner]) * self.num_levels
        times = None
        if self.backbone.timed:
            times = layout.pad(at_states(batch.times[:, None], batch.states[state])[:, 0])
        tokens = pairs.codes[apart, :-1] + self.level_start[:-1]
        x = F.embedding(tokens, self.token_table)
        out, _ = self.backbone.extend(x, context, Branches(layout, layout.pad(end), times))
        return out

    def logits(self, level: int, states: Tensor) -> Tensor:
        """Logits [..., K_level] from states [..., d]."""
        return F.linear(states, self.heads[level])

    def steps(self, batch: SequenceBatch) -> FlattenedSteps:
        """Decoding of a batch level by level, for `glass.generation.generate`."""
        return FlattenedSteps(self, batch)


@dataclass(frozen=True)
class _Continued:
    """Histories of a batch, each with one more item: the first target of its newest state."""

    items: Tensor  # int64 [T + B]
    offsets: Tensor  # int64 [B + 1]
    times: Tensor  # int64 [T + B]; the last item's is that of the event before
    following: Tensor  # int64 [P], place of the item that follows each state

    @classmethod
    def of(cls, batch: SequenceBatch) -> _Continued:
        device, size = batch.device, len(batch)
        user = torch.arange(size + 1, device=device)
        offsets = batch.offsets + user
        place = torch.arange(len(batch.items), device=device)
        place += user[:-1].repeat_interleave(batch.lengths, output_size=len(batch.items))
        first = offsets[batch.owners]
        following = torch.where(batch.states < 0, first, batch.states + batch.owners + 1)
        items = batch.items.new_zeros(len(batch.items) + size)
        items[place] = batch.items
        newest = following == offsets[batch.owners + 1] - 1
        items[following[newest]] = batch.targets[newest, 0].clamp(min=0)
        times = torch.zeros_like(items)
        times[place] = batch.times
        filled = batch.lengths > 0
        times[offsets[1:][filled] - 1] = batch.times[batch.offsets[1:][filled] - 1]
        return cls(items, offsets, times, following)


class FlattenedSteps:
    """Decoding of a batch: keys and values of a user are shared by its beams."""

    def __init__(self, model: Flattened, batch: SequenceBatch) -> None:
        self._model = model
        states, self._context = model.read(batch.items, batch.offsets, batch.longest, batch.times)
        levels = model.num_levels
        newest = torch.where(batch.states < 0, -1, batch.states * levels + levels - 1)
        self._newest = at_states(states, newest)
        self._ends = batch.lengths[:, None] * levels
        self._times = at_states(batch.times[:, None], batch.states)
        self._past: list[KeysValues] | None = None
        self._level = 0

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]."""
        return self._model.logits(0, self._newest)[:, None]

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of beams that were extended by `codes` [B, W]."""
        model, (users, width) = self._model, codes.shape
        if self._past is not None:
            # Each beam takes over its parent's keys and values.
            before = self._past[0][0].shape[1]
            first = torch.arange(0, users * before, before, device=parents.device)
            rows = (parents.long() + first[:, None]).flatten()
            self._past = [
                (_follow(key, rows, (users, width)), _follow(value, rows, (users, width)))
                for key, value in self._past
            ]
        x = F.embedding(codes.flatten() + model.level_start[self._level], model.token_table)
        layout = Jagged(users, width, None)
        branches = Branches(layout, self._ends, self._times, self._past)
        states, self._past = model.backbone.extend(x[:, None], self._context, branches)
        self._level += 1
        return model.logits(self._level, layout.pad(states[:, 0]))


def _follow(part: Tensor, rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """[B, W', ...] -> [B, W, ...], shape = (B, W): its rows int64 [B*W] of B*W'."""
    return torch.unflatten(part.flatten(0, 1).index_select(0, rows), 0, shape)
