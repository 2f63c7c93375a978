"""GLASS with IntRR for one user and one target, read literally from its equations, loop by loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from literal import Literal
from torch import Tensor

from glass.models import GlassIntrr


@dataclass
class LiteralUnion(Literal):
    """Reads the parameters of `model`, and nothing of its code."""

    model: GlassIntrr  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        # Encoder and decoder are called as in GLASS.
        named = self.model.named_parameters()
        self.p = {name.removeprefix("trunk."): parameter for name, parameter in named}
        levels = range(len(self.sids.codebook_sizes))
        self.codebooks = [self.p[f"network.codebooks.{level}"] for level in levels]
        self.std = self.config.codebook_std or self.config.d_model**-0.5  # type: ignore[attr-defined]

    def follow(self, level: int, context: Tensor, guidance: Tensor) -> Tensor:
        """f_l of the code before and the guidance."""
        name = f"network.queries.{level - 1}"
        hidden = self.p[f"{name}.inner.weight"] @ torch.cat((context, guidance))
        hidden = torch.relu(hidden + self.p[f"{name}.inner.bias"])
        return self.p[f"{name}.outer.weight"] @ hidden + self.p[f"{name}.outer.bias"]

    # --- items

    def item(self, item: int) -> tuple[Tensor, Tensor]:
        """Token of an item, and its cross-entropy against its SID, a mean over levels."""
        given = self.p["uids.weight"][item]
        if self.config.content:  # type: ignore[attr-defined]
            given = torch.cat((given, torch.from_numpy(self.sids.vectors[item]).double()))
        guidance = self.p["guidance.weight"] @ given + self.p["guidance.bias"]
        token, loss, context = torch.zeros_like(guidance), torch.zeros_like(guidance[0]), guidance
        for level, codebook in enumerate(self.codebooks):
            before = token if self.config.context == "sum" else context  # type: ignore[attr-defined]
            query = guidance if level == 0 else self.follow(level, before, guidance)
            logits = codebook @ query
            soft = (logits / self.config.temperature).softmax(0) @ codebook  # type: ignore[attr-defined]
            context = soft
            if self.config.assignment == "straight_through":  # type: ignore[attr-defined]
                context = soft + (codebook[int(logits.argmax())] - soft).detach()
            token = token + context
            loss = loss - logits.log_softmax(0)[self.code(item, level)]
        return token / self.std, loss / len(self.codebooks)

    # --- user

    def guidance(self, history: list[int]) -> Tensor:
        """h: what BOS made of the newest items and SID-Tier."""
        config = self.config
        rows = [self.item(item)[0] for item in history[-config.short_length :]]
        tier = None
        if config.use_sid_tier:
            tier = self.tier_token(self.older(history))
            rows = [*rows, tier] if config.tier_token_last else [tier, *rows]
        state = self.decode([self.p["bos"]], self.encode(rows), [])[0]
        if tier is not None and config.tier_guidance:  # type: ignore[attr-defined]
            state = state + self.p["tier_guidance.weight"] @ tier
        return state

    def older(self, history: list[int]) -> list[int]:
        config = self.config
        return history[: -config.short_length] if config.long_history == "older" else history

    def deeper(self, guidance: Tensor, history: list[int], sid1: int) -> Tensor:
        """h': with what the first code found, and that code."""
        deeper = self.with_retrieved(guidance, history, sid1)
        if not self.config.first_code:  # type: ignore[attr-defined]
            return deeper
        return deeper + self.p["first_code.weight"] @ (self.codebooks[0][sid1] / self.std)

    def with_retrieved(self, guidance: Tensor, history: list[int], sid1: int) -> Tensor:
        if not self.config.use_hard_search:
            return guidance
        first = self.codebooks[0][sid1] / self.std
        query = guidance + self.p["retrieved_guidance.context.weight"] @ first
        found = [
            self.codebooks[level][self.code(item, level)] / self.std
            for item in self.retrieved(self.older(history), sid1)
            for level in range(len(self.codebooks))
        ]
        if not found and self.config.empty_retrieval == "short":
            return guidance
        z = torch.zeros_like(guidance)
        if found:
            rows = torch.stack(found)
            if not self.config.train_retrieved:
                rows = rows.detach()
            z = self.attend(query[None], rows, "retrieved_guidance.attention")[0]
        g = self.gate(guidance, z, query, "retrieved_guidance")
        return guidance + g * (z - guidance)

    def log_probs(self, history: list[int], codes: list[int]) -> list[Tensor]:
        """Of every code of each level, the codes before it given."""
        guidance = self.guidance(history)
        found = [(self.codebooks[0] @ guidance).log_softmax(0)]
        deeper = self.deeper(guidance, history, codes[0])
        for level in range(1, len(self.codebooks)):
            chosen = [self.codebooks[j][codes[j]] for j in range(level)]
            summed = self.config.context == "sum"  # type: ignore[attr-defined]
            context = torch.stack(chosen).sum(0) if summed else chosen[-1]
            query = self.follow(level, context, deeper)
            found.append((self.codebooks[level] @ query).log_softmax(0))
        return found

    def loss(self, history: list[int], target: int) -> Tensor:
        """L_rec + lambda * L_aln."""
        codes = [self.code(target, level) for level in range(len(self.codebooks))]
        found = self.log_probs(history, codes)
        picked = [log_probs[code] for log_probs, code in zip(found, codes, strict=True)]
        short = history[-self.config.short_length :]
        alignment = torch.stack([self.item(item)[1] for item in short]).mean()
        weight: float = self.config.alignment  # type: ignore[attr-defined]
        return weight * alignment - torch.stack(picked).mean()
