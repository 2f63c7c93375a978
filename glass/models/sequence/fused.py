"""Backbones for generation: few calls, since for one user a call costs more than its arithmetic.

Values are those of `Backbone` up to rounding; gradients do not pass.

Shapes: T tokens of B users, N of the longest user, C model width, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from glass.models.layers import RelativePositionBias
from glass.models.sequence.backbone import Backbone, Bias, Times, time_buckets
from glass.models.sequence.hstu import HstuLayer
from glass.models.sequence.jagged import Jagged
from glass.models.sequence.transformer import TransformerLayer
from glass_kernels import EncoderWeights, encoder_stack
from glass_kernels.decoder_step import runs


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
        # Threads share this object: what one reads must be of one moment.
        length, biases = layout.longest, self.biases
        if length > biases.shape[1] // 2 + 1:
            self.biases = biases = _causal(self.position, length)
        most = biases.shape[1] // 2 + 1
        bias = biases[:, most - length : most + length - 1]
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


class HstuStack:
    """Canonical HSTU in fewer calls: biases and mask are made once, projections stay together."""

    def __init__(self, backbone: Backbone, layers: list[HstuLayer]) -> None:
        norm = backbone.norm
        assert isinstance(norm, torch.nn.LayerNorm)
        self._layers = [
            (layer.norm, layer.inputs.weight.detach(), layer.output.weight.detach().t())
            for layer in layers
        ]
        self._heads = layers[0].heads
        self._max_tokens = layers[0].max_tokens
        self._norm = norm
        self._biases = [bias for bias in backbone.biases if isinstance(bias, Bias)]
        self._made = self._make(1)

    def _make(self, length: int) -> tuple[list[Tensor], Tensor]:
        """Position biases [1, H, N, N] of all layers and the mask [N, N] of N = `length` tokens."""
        positions = [bias.position(length, length) for bias in self._biases]
        return positions, torch.full_like(positions[0][0, 0], 1 / self._max_tokens).tril()

    def states(self, x: Tensor, layout: Jagged, times: Times | None) -> Tensor:
        """States [T, C] of tokens x [T, C]."""
        length, (heads, dim) = layout.longest, self._heads
        positions, mask = self._made  # together, since threads share this object
        if length > len(mask):
            self._made = positions, mask = self._make(length)
        mask, inner = mask[:length, :length], heads * dim
        passed = None
        if times is not None:
            passed = time_buckets(times.asked[:, :, None] - times.seen[:, None, :])
        shape = (layout.size, length, 3, heads, dim)
        for layer, bias, position in zip(self._layers, self._biases, positions, strict=True):
            norm, inputs, output = layer
            projected = F.silu(F.linear(norm(x), inputs), inplace=True)
            together = layout.pad(projected[:, inner:]).view(shape).permute(2, 0, 3, 1, 4)
            value, query, key = together.unbind(0)
            scores = torch.matmul(query, key.transpose(2, 3))
            scores += position[..., :length, :length]
            if passed is not None and bias.time is not None:
                scores += bias.time[passed][:, None]
            weights = F.silu(scores, inplace=True).mul_(mask)
            attended = layout.flat(torch.matmul(weights, value).transpose(1, 2)).flatten(1)
            normed = F.layer_norm(attended, (inner,), eps=1e-6)
            x = torch.addmm(x, normed.mul_(projected[:, :inner]), output)
        out: Tensor = self._norm(x)
        return out


@dataclass(frozen=True)
class Stack:
    """A backbone as generation wants it."""

    causal: CausalStack | None
    hstu: HstuStack | None

    @classmethod
    def of(cls, backbone: Backbone) -> Stack:
        """From the weights as they are now; of neither kind, it has no states."""
        layers = list(backbone.layers)
        if layers and all(isinstance(layer, TransformerLayer) for layer in layers):
            return cls(CausalStack.of(backbone), None)
        canonical = [layer for layer in layers if type(layer) is HstuLayer]
        if layers and len(canonical) == len(layers):
            return cls(None, HstuStack(backbone, canonical))
        return cls(None, None)

    def states(self, x: Tensor, layout: Jagged, times: Times | None) -> Tensor | None:
        """States [T, C] of tokens x [T, C]; None where there is nothing faster than the module."""
        if not len(x):
            return None
        if self.hstu is not None:
            return self.hstu.states(x, layout, times)
        # `encoder_stack` has one kernel, in C++.
        return self.causal.states(x, layout) if self.causal is not None and runs(x) else None
