"""GLASS for one user and one target, read literally from the paper's equations, loop by loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glass.config import ModelConfig
from glass.models import Glass
from glass.sid import SidTable


def bucket(distance: int, bidirectional: bool) -> int:
    """T5's bucket of key position minus query position; 32 buckets, 128 the largest distance."""
    count, base = 32, 0
    if bidirectional:
        count, base = 16, 16 if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    half = count // 2
    if distance < half:
        return base + distance
    far = half + int(math.log(distance / half) / math.log(128 / half) * (count - half))
    return base + min(far, count - 1)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


@dataclass
class Literal:
    """Reads the parameters of `model`, and nothing of its code."""

    model: Glass
    config: ModelConfig
    sids: SidTable
    edges: list[float]

    def __post_init__(self) -> None:
        self.p = dict(self.model.named_parameters())
        self.start = [0, *np.cumsum(self.sids.codebook_sizes).tolist()]

    def code(self, item: int, level: int) -> int:
        return int(self.sids.codes[item, level])

    def item_rows(self, item: int, table: Tensor) -> list[Tensor]:
        levels = range(len(self.sids.codebook_sizes))
        return [table[self.start[level] + self.code(item, level)] for level in levels]

    # --- SID-Tier (section 2)

    def prototypes(self) -> list[np.ndarray]:
        vectors = self.sids.vectors.astype(np.float64)
        result = []
        for code in range(self.sids.codebook_sizes[0]):
            members = [vectors[i] for i in range(len(vectors)) if self.code(i, 0) == code]
            result.append(np.mean(members, axis=0) if members else vectors.mean(axis=0))
        return result

    def histogram(self, history: list[int]) -> list[float]:
        """Share of the history in each tier of each code; float32, as the operation gives it."""
        features = []
        for prototype in self.prototypes():
            tiers = [0] * self.config.num_tiers
            for item in history:
                vector = self.sids.vectors[item].astype(np.float64)
                lengths = np.linalg.norm(vector) * np.linalg.norm(prototype)
                similarity = float(vector @ prototype / lengths)
                inner = self.edges[1:-1]
                tiers[sum(similarity >= edge for edge in inner)] += 1
            features += [float(np.float32(t / max(len(history), 1))) for t in tiers]
        return features

    def tier_token(self, history: list[int]) -> Tensor:
        x = torch.tensor(self.histogram(history), dtype=torch.float64)
        if self.config.tier_standardize:
            buffers = dict(self.model.named_buffers())
            x = (x - buffers["tier.feature_mean"]) * buffers["tier.feature_scale"]
            x = x.clamp(-32, 32)
        hidden = torch.relu(self.p["tier.mlp.0.weight"] @ x + self.p["tier.mlp.0.bias"])
        return self.p["tier.mlp.3.weight"] @ hidden + self.p["tier.mlp.3.bias"]

    # --- search (section 3)

    def neighbours(self, code: int) -> list[int]:
        prototypes = [p / np.linalg.norm(p) for p in self.prototypes()]
        others = sorted({*self.sids.codes[:, 0].tolist()} - {code})  # codes that have items
        others.sort(key=lambda other: -float(prototypes[code] @ prototypes[other]))
        return others[: self.config.num_neighbours]

    def retrieved(self, history: list[int], code: int) -> list[int]:
        def newest_first(wanted: int) -> list[int]:
            return [item for item in reversed(history) if self.code(item, 0) == wanted]

        most, few = self.config.search_max_items, self.config.search_min_items
        found = newest_first(code)[:most]
        for neighbour in self.neighbours(code):
            for item in newest_first(neighbour):
                if len(found) < min(few, most):
                    found.append(item)
        return found

    # --- attention (section 4)

    def attend(self, x: Tensor, memory: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
        """x [P, C] attends to memory [N, C]; bias [P, N, H], -inf where not allowed."""
        heads, width = self.config.num_heads, self.config.head_dim
        outs = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            query = x @ self.p[f"{name}.query.weight"][part].T
            key = memory @ self.p[f"{name}.key.weight"][part].T
            value = memory @ self.p[f"{name}.value.weight"][part].T
            scores = query @ key.T  # not divided by sqrt(d)
            if bias is not None:
                scores = scores + bias[:, :, head]
            outs.append(scores.softmax(-1) @ value)
        return torch.cat(outs, dim=-1) @ self.p[f"{name}.output.weight"].T

    def position_bias(self, stack: str, length: int) -> Tensor:
        weight = self.p[f"{stack}.position.weight"]
        rows = []
        for query in range(length):
            row = []
            for key in range(length):
                if stack == "decoder" and key > query:
                    row.append(torch.full_like(weight[0], -math.inf))
                else:
                    row.append(weight[bucket(key - query, stack == "encoder")])
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def feed_forward(self, x: Tensor, layer: str) -> Tensor:
        x = norm(x, self.p[f"{layer}.ff_norm.weight"])
        return (
            torch.relu(x @ self.p[f"{layer}.ff.up.weight"].T) @ self.p[f"{layer}.ff.down.weight"].T
        )

    def encode(self, rows: list[Tensor]) -> Tensor:
        x = torch.stack(rows)
        bias = self.position_bias("encoder", len(rows))
        for number in range(self.config.num_encoder_layers):
            layer = f"encoder.layers.{number}"
            normed = norm(x, self.p[f"{layer}.attention_norm.weight"])
            x = x + self.attend(normed, normed, f"{layer}.attention.proj", bias)
            x = x + self.feed_forward(x, layer)
        return norm(x, self.p["encoder.norm.weight"])

    def gate(self, z_short: Tensor, z_ret: Tensor, x: Tensor, layer: str) -> Tensor:
        if self.config.gate == "fixed":
            return torch.full_like(z_short, self.config.fixed_gate)
        first = z_short if self.config.gate_input == "short" else x
        weight, bias = self.p[f"{layer}.fusion.weight"], self.p[f"{layer}.fusion.bias"]
        return torch.sigmoid(weight @ torch.cat((first, z_ret)) + bias)

    def decode(self, rows: list[Tensor], encoded: Tensor, found: list[Tensor]) -> Tensor:
        x = torch.stack(rows)
        bias = self.position_bias("decoder", len(rows))
        for number in range(self.config.num_decoder_layers):
            layer = f"decoder.layers.{number}"
            normed = norm(x, self.p[f"{layer}.attention_norm.weight"])
            x = x + self.attend(normed, normed, f"{layer}.attention.proj", bias)
            normed = norm(x, self.p[f"{layer}.cross_norm.weight"])
            z_short = self.attend(normed, encoded, f"{layer}.short")
            fused = []
            for position in range(len(rows)):
                z = z_short[position]
                by_gate = self.config.use_hard_search and self.config.empty_retrieval == "gate"
                if position > 0 and (found or by_gate):  # BOS has nothing to search with
                    z_ret = torch.zeros_like(z)
                    if found:
                        query = normed[position : position + 1]
                        z_ret = self.attend(query, torch.stack(found), f"{layer}.retrieved")[0]
                    g = self.gate(z, z_ret, normed[position], layer)
                    z = (1 - g) * z + g * z_ret
                fused.append(z)
            x = x + torch.stack(fused)
            x = x + self.feed_forward(x, layer)
        return norm(x, self.p["decoder.norm.weight"])

    def loss(self, history: list[int], target: int) -> Tensor:
        """Mean over the levels of -log P(code | history, codes before)."""
        config, table = self.config, self.p["token_table"]
        short = history[-config.short_length :]
        older = history[: -config.short_length] if config.long_history == "older" else history
        rows = [row for item in short for row in self.item_rows(item, table)]
        if config.use_sid_tier:
            token = self.tier_token(older)
            rows = [*rows, token] if config.tier_token_last else [token, *rows]
        found = []
        if config.use_hard_search:
            frozen = table if config.train_retrieved else table.detach()
            for item in self.retrieved(older, self.code(target, 0)):
                found += [
                    self.p["retrieved_projection.weight"] @ row
                    for row in self.item_rows(item, frozen)
                ]
        truth = self.item_rows(target, table)
        hidden = self.decode([self.p["bos"], *truth[:-1]], self.encode(rows), found)
        total = hidden.new_zeros(())
        for level in range(len(truth)):
            head = table[self.start[level] : self.start[level + 1]]
            logits = head @ hidden[level] / math.sqrt(config.d_model)
            total = total - logits.log_softmax(-1)[self.code(target, level)]
        return total / len(truth)
