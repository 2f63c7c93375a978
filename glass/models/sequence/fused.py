"""What generation makes of the weights once: the causal Transformer as one call, IntRR's levels.

Values are those of `Backbone` and `RecursiveAssignment` up to rounding; gradients do not pass. For
one user a call costs more than its arithmetic, so there are few.

Shapes: T tokens of B users, N of the longest user, C model width, H heads, D head width; K_l codes
of level l, h hidden width of f_l.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from glass.models.kept import Kept
from glass.models.layers import RelativePositionBias
from glass.models.sequence.backbone import Backbone, Bias
from glass.models.sequence.jagged import Jagged
from glass.models.sequence.transformer import TransformerLayer
from glass_kernels import EncoderWeights, encoder_stack
from glass_kernels.decoder_step import runs
from glass_kernels.modules import RecursiveAssignment


@dataclass
class CausalStack:
    """A causal Transformer for `encoder_stack`: no query sees a later key, by its bias."""

    weights: EncoderWeights  # "keys and values" of the output are the states themselves
    width: int  # C
    position: RelativePositionBias
    biases: Tensor  # [H, 2N - 1] of the longest history so far, by key - query

    @classmethod
    def of(cls, backbone: Backbone) -> CausalStack:
        """From the weights as they are now."""
        layers = [layer for layer in backbone.layers if isinstance(layer, TransformerLayer)]
        proj = layers[0].proj
        heads = (proj.num_heads, proj.head_dim)
        width = layers[0].attention_norm.weight.shape[0]
        qkv = [
            torch.cat([layer.proj.query.weight, layer.proj.key.weight, layer.proj.value.weight])
            * layer.attention_norm.weight
            for layer in layers
        ]
        bias, norm = backbone.biases[0], backbone.norm
        assert isinstance(bias, Bias)
        assert isinstance(norm, torch.nn.RMSNorm)
        final = F.pad(
            torch.diag(norm.weight), (0, 0, 0, -width % (2 * proj.num_heads * proj.head_dim))
        )
        weights = EncoderWeights(
            torch.unflatten(torch.stack(qkv), 1, (3, *heads)),
            torch.stack([layer.proj.output.weight for layer in layers]),
            torch.stack([layer.ff.up.weight * layer.ff_norm.weight for layer in layers]),
            torch.stack([layer.ff.down.weight for layer in layers]),
            final.view(-1, 2, *heads, width),
        )
        return cls(weights, width, bias.position, _causal(bias.position, 1))

    def states(self, x: Tensor, layout: Jagged) -> Tensor:
        """States [T, C] of tokens x [T, C]."""
        length = layout.longest
        if length > self.biases.shape[1] // 2 + 1:
            self.biases = _causal(self.position, length)
        most = self.biases.shape[1] // 2 + 1
        bias = self.biases[:, most - length : most + length - 1]
        valid = None
        if layout.slots is not None:
            valid = layout.pad(x.new_ones(len(x), dtype=torch.bool))
        found = encoder_stack(layout.pad(x), bias, self.weights, valid)
        # [M, B, N, 2, H, D] -> [B, N, M*2HD], of which the first C are the states.
        states = found.permute(1, 2, 0, 3, 4, 5).flatten(2)[..., : self.width]
        return layout.flat(states)


def _causal(position: RelativePositionBias, length: int) -> Tensor:
    """Position bias [H, 2 * length - 1] by key - query, with later keys out of sight."""
    biases = position.by_distance(length)
    biases[:, length:] = torch.finfo(biases.dtype).min
    return biases


def causal_states(backbone: Backbone, x: Tensor, layout: Jagged) -> Tensor | None:
    """States [T, C] of tokens x [T, C] in one call; None where `encoder_stack` has no kernel."""
    transformer = isinstance(backbone.layers[0], TransformerLayer)
    if not transformer or not len(x) or not runs(x):
        return None
    return _stack(backbone).states(x, layout)


_stack: Kept[Backbone, CausalStack] = Kept(CausalStack.of)


@dataclass(frozen=True)
class LevelTables:
    """f_l of a `RecursiveAssignment`: the context's half of its first layer for every code."""

    guidance: Tensor  # [(L-1) h, d]: the other halves, one below another
    bias: Tensor  # [(L-1) h]
    contexts: list[list[Tensor]]  # of level l = 1 .. L-1: [K_j, h] of each level j that it sees

    @classmethod
    def of(cls, network: RecursiveAssignment) -> LevelTables:
        """From the weights as they are now."""
        follow = [network.query(level) for level in range(1, network.num_levels)]
        d, books = network.d_model, list(network.codebooks)
        seen = [
            books[:level] if network.context == "sum" else books[level - 1 : level]
            for level in range(1, network.num_levels)
        ]
        return cls(
            torch.cat([books[0][:0], *(f.inner.weight[:, d:] for f in follow)]).contiguous(),
            torch.cat([books[0][0, :0], *(f.inner.bias for f in follow)]),
            [[f.of_context(b) for b in before] for f, before in zip(follow, seen, strict=True)],
        )


_tables: Kept[RecursiveAssignment, LevelTables] = Kept(LevelTables.of)


class Levels:
    """Logits level by level, of beams that the chosen codes extend.

    Args:
        network: of the model.
        guidance: float [B, d], one row a user, which all its beams share.
    """

    def __init__(self, network: RecursiveAssignment, guidance: Tensor) -> None:
        self._network = network
        self._guidance = guidance
        self._tables = tables = _tables(network)
        halves = F.linear(guidance, tables.guidance, tables.bias)
        self._halves = halves.chunk(max(network.num_levels - 1, 1), dim=1)
        self._codes: list[Tensor] = []  # [B, W] of each level that the next one sees
        self._level = 0

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]."""
        return self._network.level_logits(0, self._guidance[:, None])

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of the next level of beams that `codes` [B, W] extend."""
        half = self._halves[self._level][:, None]
        before = []
        if self._network.context == "sum":
            before = [earlier.gather(1, parents) for earlier in self._codes]
        self._codes = [*before, codes]
        for chosen, table in zip(self._codes, self._tables.contexts[self._level], strict=True):
            half = F.embedding(chosen, table) + half
        self._level += 1
        query = self._network.query(self._level).outer(half.relu_())
        return F.linear(query, self._network.codebooks[self._level].to(query.dtype))
