"""The opponents: attention to retrieved items as a good practitioner writes it in plain PyTorch.

Each gathers the embeddings of the retrieved tokens and projects them, then attends. All take a
`Layer` to [B, S, P, H, Dh]. `projected_rows` already has the first insight of the operation: it
projects the token table once and gathers its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention


@dataclass(frozen=True)
class Layer:
    """One decoder layer's attention to what its sets retrieved; the embeddings are frozen."""

    query: Tensor
    """[B, S, P, H, Dh]"""
    key_weight: Tensor
    """[H * Dh, d]"""
    value_weight: Tensor
    """[H * Dh, d]"""
    embeddings: Tensor
    """[Vt, d]"""
    tokens: Tensor
    """int64 [T, n_tok]"""
    positions: Tensor
    """int32 [B, S, M]"""
    lengths: Tensor
    """int32 [B, S]"""
    grad: Tensor
    """[B, S, P, H, Dh], of the output."""

    @property
    def trained(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the backward has gradients for."""
        return self.query, self.key_weight, self.value_weight

    def double(self) -> Layer:
        """The same in float64."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if value.is_floating_point():
                values[name] = value.detach().double().requires_grad_(value.requires_grad)
        return Layer(**values)


@dataclass(frozen=True)
class Gathered:
    """Retrieved tokens of every set, set after set."""

    tokens: Tensor
    """int64 [B * S, N]; any token where there is none."""
    present: Tensor
    """bool [B * S, N]"""
    empty: Tensor
    """bool [B * S]"""


def gathered(layer: Layer, *, trim: bool) -> Gathered:
    """`trim`: no slot that is empty in every set of the batch."""
    positions, lengths = layer.positions.flatten(0, 1), layer.lengths.flatten()
    if trim:
        positions = positions[:, : max(int(lengths.max()), 1)]
    filled = torch.arange(positions.shape[1], device=lengths.device) < lengths[:, None]
    tokens = layer.tokens[positions.clamp(min=0)].flatten(1)
    present = filled.repeat_interleave(layer.tokens.shape[1], dim=1)
    return Gathered(tokens, present, lengths == 0)


def split(x: Tensor, layer: Layer) -> Tensor:
    """[B * S, N, H * Dh] -> [B * S, H, N, Dh]."""
    return torch.unflatten(x, -1, layer.query.shape[-2:]).transpose(1, 2)


def attend(layer: Layer, keys: Tensor, values: Tensor, found: Gathered, *, fused: bool) -> Tensor:
    """By one call of PyTorch's attention, or product, softmax and product."""
    query = layer.query.flatten(0, 1).transpose(1, 2)
    # An empty set sees everything, so that there is no NaN, and is zeroed.
    mask = (found.present | found.empty[:, None])[:, None, None]
    if fused:
        out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    else:
        scores = (query @ keys.transpose(2, 3)).masked_fill(~mask, -torch.inf)
        out = scores.softmax(-1) @ values
    out = out.transpose(1, 2).masked_fill(found.empty[:, None, None, None], 0.0)
    return out.reshape(layer.query.shape)


def gather_project(layer: Layer, *, trim: bool = True, fused: bool = True) -> Tensor:
    found = gathered(layer, trim=trim)
    x = embedding(found.tokens, layer.embeddings)
    keys, values = (
        split(linear(x, weight), layer) for weight in (layer.key_weight, layer.value_weight)
    )
    return attend(layer, keys, values, found, fused=fused)


def one_product(layer: Layer) -> Tensor:
    """Keys and values from one product of twice the width."""
    found = gathered(layer, trim=True)
    x = embedding(found.tokens, layer.embeddings)
    both = linear(x, torch.cat((layer.key_weight, layer.value_weight)))
    keys, values = (split(part, layer) for part in both.chunk(2, dim=-1))
    return attend(layer, keys, values, found, fused=True)


def packed(layer: Layer) -> Tensor:
    """Projects the tokens that are there, and pads keys and values."""
    found = gathered(layer, trim=True)
    x = embedding(found.tokens[found.present], layer.embeddings)
    place = found.present.flatten().nonzero()[:, 0]

    def padded(weight: Tensor) -> Tensor:
        rows = x.new_zeros(found.present.numel(), weight.shape[0])
        rows = rows.index_copy(0, place, linear(x, weight))
        return split(torch.unflatten(rows, 0, found.present.shape), layer)

    keys, values = padded(layer.key_weight), padded(layer.value_weight)
    return attend(layer, keys, values, found, fused=True)


def by_length(layer: Layer, form: Callable[[Layer], Tensor], parts: int = 8) -> Tensor:
    """Sets in order of length, a part at a time, each trimmed to its own longest set."""
    order = layer.lengths.flatten().argsort()
    query, positions = (x.flatten(0, 1)[order] for x in (layer.query, layer.positions))
    lengths = layer.lengths.flatten()[order]
    out = []
    for part in torch.arange(len(order), device=order.device).chunk(parts):
        inputs = {"query": query[part], "positions": positions[part], "lengths": lengths[part]}
        one = replace(layer, **{name: value[None] for name, value in inputs.items()})
        out.append(form(one)[0])
    return torch.cat(out)[order.argsort()].view(layer.query.shape)


def projected_rows(layer: Layer) -> Tensor:
    """Projects the table once, and gathers its rows; sets in order of length."""
    tables = [linear(layer.embeddings, weight) for weight in (layer.key_weight, layer.value_weight)]

    def rows(part: Layer) -> Tensor:
        found = gathered(part, trim=True)
        keys, values = (split(embedding(found.tokens, table), part) for table in tables)
        return attend(part, keys, values, found, fused=True)

    return by_length(layer, rows)


FORMS = {
    "SDPA": lambda layer: gather_project(layer, trim=False),
    "SDPA, trimmed": gather_project,
    "softmax, trimmed": lambda layer: gather_project(layer, fused=False),
    "SDPA, one product": one_product,
    "SDPA, packed": packed,
    "SDPA, by length": lambda layer: by_length(layer, gather_project),
}
"""Gather + project + attention."""
