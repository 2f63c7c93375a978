"""The trunk for generation: one position a beam, weights put together, nothing for a backward.

Values are those of `Encoder` and `Decoder` up to rounding. What makes it faster, most of all for
few users, where a call costs more than its arithmetic:
- projections of the same input are one product; the norms' weights are part of it;
- what depends on the weights alone (token tables of all layers, position biases) is made once;
- a position of self-attention reads at most L others: sums of products, no attention kernel.

Shapes: B users, W beams a user, R = B*W rows, N encoder positions, C model width, H heads, D head
width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.models.decoder import DecoderLayer, Memory, Retrieval
from glass.models.encoder import EncoderLayer
from glass.models.kept import Kept
from glass.models.layers import FeedForward, RelativePositionBias, SelfAttention
from glass_kernels import EncoderWeights, encoder_stack, hard_search_attention
from glass_kernels.decoder_step import decoder_step, pack_decoder_layer, runs, takes
from glass_kernels.modules import GatedFusion

if TYPE_CHECKING:
    from glass.models.glass import Glass
    from glass.models.trunk import Trunk

_EPS = 1e-6


def unit(x: Tensor) -> Tensor:
    """x [..., C] by its length: an RMSNorm without its weight and the factor sqrt(C)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    floor = math.sqrt(x.shape[-1] * _EPS)
    out: Tensor = x / (length.square_() + floor**2).sqrt_()
    return out


def scale_of(norm: nn.RMSNorm) -> Tensor:
    """What is missing from `unit`: [C]."""
    return norm.weight * math.sqrt(norm.weight.shape[0])


def after(norm: nn.RMSNorm, *linears: nn.Linear) -> Tensor:
    """Weight [outputs, C] of `linears` side by side, of inputs that `unit` gave."""
    return torch.cat([linear.weight for linear in linears]) * scale_of(norm)


@dataclass(frozen=True)
class Attention:
    """Self-attention with its norm."""

    qkv: Tensor  # [3HD, C]
    output: Tensor  # [HD, C]

    @classmethod
    def of(cls, norm: nn.RMSNorm, attention: SelfAttention) -> Attention:
        proj = attention.proj
        qkv = after(norm, proj.query, proj.key, proj.value)
        return cls(qkv, proj.output.weight.t().contiguous())


@dataclass(frozen=True)
class Feed:
    """Feed-forward with its norm."""

    up: Tensor  # [F, C]
    down: Tensor  # [F, C]

    @classmethod
    def of(cls, norm: nn.RMSNorm, ff: FeedForward) -> Feed:
        return cls(after(norm, ff.up), ff.down.weight.t().contiguous())

    def add(self, x: Tensor) -> Tensor:
        """x [R, C] and what the block adds to it."""
        return torch.addmm(x, F.linear(unit(x), self.up).relu_(), self.down)


@dataclass(frozen=True)
class Cross:
    """Both cross-attentions of a decoder layer with their norm."""

    query: Tensor  # [HD, C], or [2HD, C] with that of the retrieved items
    output: Tensor  # [HD, C]
    table: tuple[Tensor, Tensor] | None  # [Vt, H, D]
    retrieved: Tensor | None  # [HD, C]
    fusion: GatedFusion | None
    state: Tensor | None  # [C], what makes `unit` the state that the gate wants


@dataclass
class Fused:
    """Weights of a `Glass` as generation wants them; `fused` makes and keeps it."""

    heads: tuple[int, int]
    empty_retrieval: str
    encoder: EncoderWeights  # with the keys and values for the decoder's layers
    decoder: list[tuple[Attention, Cross, Feed]]
    encoder_position: RelativePositionBias
    decoder_bias: list[Tensor]  # of each query, [its positions, H]
    final: Tensor  # [C]
    level_tokens: list[Tensor]  # [K_l, C] embeddings of each level's codes
    level_heads: list[Tensor]  # [C, K_l]: what makes logits of a hidden state
    bos: Tensor
    packed: list[Tensor] | None  # the decoder's weights for `decoder_step`, where it can run
    _biases: Tensor  # [H, 2N - 1] of the longest input so far, by key - query

    @classmethod
    def of(cls, model: Glass | Trunk) -> Fused:
        """From the weights as they are now."""
        config = model.config
        rows = None
        if model.hard_search is not None:
            rows = model.retrieved_projection(model.token_table)
        decoder = []
        for layer in model.decoder.layers:
            assert isinstance(layer, DecoderLayer)
            attention = Attention.of(layer.attention_norm, layer.attention)
            cross = _cross(layer, rows, config.gate_input == "state")
            decoder.append((attention, cross, Feed.of(layer.ff_norm, layer.ff)))
        table, sizes = model.token_table.detach(), list(model.codebook_sizes)
        return cls(
            (config.num_heads, config.head_dim),
            config.empty_retrieval,
            _encoder(model),
            decoder,
            model.encoder.position,
            _decoder_biases(model),
            scale_of(model.decoder.norm),
            list(torch.split(table, sizes)),
            [(rows * config.d_model**-0.5).t().contiguous() for rows in torch.split(table, sizes)],
            model.bos.detach(),
            _packed(decoder),
            model.encoder.position.by_distance(1),
        )

    def memory(self, x: Tensor, valid: Tensor | None) -> Memory:
        """Keys and values of the encoder's output for x [B, N, C], valid bool [B, N]."""
        backend = None if runs(x) else "reference"  # there is no other kernel than that in C++
        both = encoder_stack(x, self._bias(x.shape[1]), self.encoder, valid, backend=backend)
        keys_values = [(keys, values) for keys, values in both.permute(0, 3, 1, 4, 2, 5)]
        tables = [cross.table for _, cross, _ in self.decoder if cross.table is not None]
        mask = None if valid is None else valid[:, None, None, :]
        return Memory(keys_values, mask, tables or None)

    def _bias(self, length: int) -> Tensor:
        """Position bias of the encoder [H, 2N - 1] by key - query."""
        biases = self._biases
        most = biases.shape[1] // 2 + 1
        if length > most:
            most = length
            self._biases = biases = self.encoder_position.by_distance(most)
        return biases[:, most - length : most + max(length, 1) - 1]

    def step(
        self, newest: Tensor | None, memory: Memory, retrieval: Retrieval | None,
        past: list[Tensor], ancestors: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Hidden state [B, W, C] that predicts the next level, and what this position leaves.

        Args:
            newest: int64 [B, W] codes of the level before; None: BOS.
            memory, retrieval: of these users and beams.
            past: what each position before left, [layers, B, W_p, 2, HD].
            ancestors: int64 [B, W, n], the beam of its user that each beam was at each of these.
        """
        level = len(past)
        if newest is None:
            x = self.bos.expand(*ancestors.shape[:2], -1)
        else:
            x = F.embedding(newest, self.level_tokens[level - 1])
        if self.packed is None or not runs(x, memory.keys_values[0][0]):
            return self._step(x, memory, retrieval, past, ancestors)
        keys, values = zip(*memory.keys_values, strict=True)
        fusion = self.decoder[0][1].fusion
        found = {} if retrieval is None else vars(retrieval)
        return decoder_step(
            x, self.packed, self.final, self.decoder_bias[level], keys, values,
            mask=memory.mask, past=past, ancestors=ancestors, **found,
            fixed_gate=0.5 if fusion is None else fusion.fixed_gate,
            gate_reads_state=fusion is not None and fusion.gate_input == "state",
            empty_is_short=self.empty_retrieval == "short",
        )  # fmt: skip

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """Logits [B, W, K_level] of a level's codes from the state [B, W, C] that predicts it."""
        return hidden @ self.level_heads[level]

    def _step(
        self, x: Tensor, memory: Memory, retrieval: Retrieval | None, past: list[Tensor],
        ancestors: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`step` of embeddings x [B, W, C] in plain PyTorch: the equations of `decoder_step`."""
        users, width, level = ancestors.shape
        x = x.reshape(users * width, -1)
        bias = self.decoder_bias[level]
        has_retrieval = None
        if retrieval is not None and self.empty_retrieval == "short":
            has_retrieval = (retrieval.lengths > 0).flatten()
        of_user = torch.arange(users, device=x.device)[:, None]
        # Each beam takes over its ancestors' keys and values: [layers, R, 1, 2, H, D] a position.
        taken = [
            position[:, of_user, ancestors[..., number]].view(-1, len(x), 1, 2, *self.heads)
            for number, position in enumerate(past)
        ]
        present = []
        for number, (attention, cross, feed) in enumerate(self.decoder):
            own = F.linear(unit(x), attention.qkv).view(len(x), 3, *self.heads)
            present.append(own[:, 1:])
            cache = torch.cat([*(position[number] for position in taken), own[:, None, 1:]], dim=1)
            weight = (own[:, None, 0] * cache[:, :, 0]).sum(-1).add_(bias).softmax(1)
            out = (weight[..., None] * cache[:, :, 1]).sum(1)
            x = torch.addmm(x, out.flatten(1), attention.output)
            x = x + self._cross(cross, x, memory, number, retrieval, has_retrieval, (users, width))
            x = feed.add(x)
        hidden = (unit(x) * self.final).view(users, width, len(self.final))
        return hidden, torch.stack(present).view(len(present), users, width, 2, -1)

    def _cross(
        self, cross: Cross, x: Tensor, memory: Memory, number: int, retrieval: Retrieval | None,
        has_retrieval: Tensor | None, shape: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """Z [R, C]: the short context, fused with what each beam's items say."""
        normed = unit(x)
        inner = self.heads[0] * self.heads[1]
        # Of the queries, those of the encoder's output come first.
        count = 1 if retrieval is None else 2
        query = F.linear(normed, cross.query[: count * inner]).view(*shape, count, *self.heads)
        context = F.scaled_dot_product_attention(
            query[:, :, 0].transpose(1, 2),
            *memory.keys_values[number],
            attn_mask=memory.mask,
            scale=1.0,
        )
        short = context.transpose(1, 2).reshape(len(x), inner) @ cross.output
        if retrieval is None or cross.fusion is None:
            return short
        assert cross.table is not None
        assert cross.retrieved is not None
        found = hard_search_attention(
            query[:, :, 1:], *cross.table, retrieval.tokens, retrieval.positions, retrieval.lengths
        )
        found = found.reshape(len(x), inner) @ cross.retrieved
        state = None if cross.state is None else normed * cross.state
        fused = cross.fusion(short, found, has_retrieval, state=state)
        assert isinstance(fused, Tensor)
        return fused


def _decoder_biases(model: Glass | Trunk) -> list[Tensor]:
    """Of the query at each level, [positions up to its own, H]."""
    levels = model.num_levels
    bias = model.decoder.position(levels, levels)[0].permute(1, 2, 0)
    return [bias[level, : level + 1].contiguous() for level in range(levels)]


def _encoder(model: Glass | Trunk) -> EncoderWeights:
    """The encoder's weights, and of the decoder's those that read its output."""
    layers = [layer for layer in model.encoder.layers if isinstance(layer, EncoderLayer)]
    attentions = [layer.attention.proj for layer in layers]
    readers = [layer.short for layer in model.decoder.layers if isinstance(layer, DecoderLayer)]
    heads = (model.config.num_heads, model.config.head_dim)

    def normed(norm: nn.RMSNorm, *linears: nn.Linear) -> Tensor:
        return torch.cat([linear.weight for linear in linears]) * norm.weight

    qkv = [
        normed(layer.attention_norm, proj.query, proj.key, proj.value)
        for layer, proj in zip(layers, attentions, strict=True)
    ]
    memory = [normed(model.encoder.norm, reader.key, reader.value) for reader in readers]
    return EncoderWeights(
        torch.unflatten(torch.stack(qkv), 1, (3, *heads)),
        torch.stack([proj.output.weight for proj in attentions]),
        torch.stack([normed(layer.ff_norm, layer.ff.up) for layer in layers]),
        torch.stack([layer.ff.down.weight for layer in layers]),
        torch.unflatten(torch.stack(memory), 1, (2, *heads)),
    )


def _cross(layer: DecoderLayer, rows: Tensor | None, state: bool) -> Cross:
    short, retrieved = layer.short, layer.retrieved
    queries = [short.query] if retrieved is None else [short.query, retrieved.query]
    return Cross(
        after(layer.cross_norm, *queries),
        short.output.weight.t().contiguous(),
        None if retrieved is None or rows is None else retrieved.tables(rows),
        None if retrieved is None else retrieved.output.weight.t().contiguous(),
        layer.fusion,
        scale_of(layer.cross_norm) if state else None,
    )


def _packed(decoder: list[tuple[Attention, Cross, Feed]]) -> list[Tensor] | None:
    """The decoder's weights for `decoder_step`; None where it cannot run."""
    if not decoder or not takes(decoder[0][0].qkv):
        return None
    packed: list[Tensor] = []
    for attention, cross, feed in decoder:
        gate = None
        if cross.fusion is not None and cross.fusion.gate == "learned":
            gate = _gate(cross.fusion, cross.state)
        packed += pack_decoder_layer(
            attention.qkv, attention.output.t(), cross.query, cross.output.t(), feed.up,
            feed.down.t(), found=None if cross.retrieved is None else cross.retrieved.t(),
            tables=cross.table, gate=gate,
        )  # fmt: skip
    return packed


def _gate(fusion: GatedFusion, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight [C, 2C] and bias [C]; of `unit` of the state where it reads that."""
    weight = fusion.weight.detach()
    if state is not None:
        weight = weight * torch.cat((state, torch.ones_like(state)))
    return weight, fusion.bias.detach()


def fused(model: Glass | Trunk) -> Fused:
    """The `Fused` of a model; made anew once a parameter was changed, replaced or moved."""
    return _kept(model)


_kept: Kept[Glass | Trunk, Fused] = Kept(Fused.of)
