"""Guidance of the deeper levels: a user's guidance and what the first code found, by the gate.

Shapes: B users, S sets a user (targets in training, beams in generation), d width, H heads, D head
width, C codes of all levels, K_1 those of the first.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import ModelConfig
from glass.models.decoder import Retrieval
from glass_kernels.modules import GatedFusion, RetrievedAttention

Tables = tuple[Tensor, Tensor, Tensor]
"""Keys and values [C, H, D] of all codes, and what each first code adds to the query [K_1, d]."""


class RetrievedGuidance(nn.Module):
    """h' of each set from h and the items that its first code found.

    One attention for all deeper levels, where GLASS has one for every layer and position.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.empty_retrieval = config.empty_retrieval
        self.context = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.context.weight, std=width**-0.5)
        self.attention = RetrievedAttention(
            width, config.num_heads, config.head_dim, train_table=config.train_retrieved
        )
        self.fusion = GatedFusion(
            width,
            gate=config.gate,
            fixed_gate=config.fixed_gate,
            gate_input=config.gate_input,
            track_gate=False,
        )
        self.keep_gate = False
        self.gate: Tensor | None = (
            None  # [B, S, 2, d], BOS first, of the last forward while `keep_gate`
        )

    def tables(self, rows: Tensor, first: Tensor) -> Tables:
        """What depends on the codes alone: on embeddings [C, d] of all, [K_1, d] of the first."""
        return (*self.attention.tables(rows), self.context(first))

    def forward(
        self, guidance: Tensor, sid1: Tensor, tables: Tables, retrieval: Retrieval
    ) -> Tensor:
        """h' [B, S, d] from guidance [B, 1, d], first codes int64 [B, S] and what they found."""
        key, value, context = tables
        query = guidance + F.embedding(sid1, context).to(guidance.dtype)
        found = self.attention(
            query[:, :, None], (key, value), retrieval.tokens, retrieval.positions,
            retrieval.lengths,
        )  # fmt: skip
        has_retrieval = retrieval.lengths > (0 if self.empty_retrieval == "short" else -1)
        short = guidance.expand_as(query)
        fused = self.fusion(
            short, found[:, :, 0], has_retrieval, state=query, return_gate=self.keep_gate
        )
        if self.keep_gate:
            fused, gate = fused
            self.gate = F.pad(gate.detach()[:, :, None], (0, 0, 1, 0))
        deeper: Tensor = fused
        return deeper
