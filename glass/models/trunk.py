"""GLASS's trunk for a model that decodes one position a user: what its encoder read, in one state.

Shapes: B users, N tokens, C model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass.config import ModelConfig
from glass.models.decoder import Decoder
from glass.models.encoder import Encoder
from glass.models.fused import fused


class Trunk(nn.Module):
    """Encoder, and decoder layers at the one position BOS.

    It offers what `fused` reads of a model: here one that has no codes and searches nothing.
    """

    token_table: Tensor
    codebook_sizes: tuple[int, ...] = ()
    num_levels = 1
    hard_search = None
    retrieved_projection: nn.Linear

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bos = nn.Parameter(torch.randn(config.d_model))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("token_table", torch.zeros(0, config.d_model), persistent=False)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """State [B, C] of each user from tokens x [B, N, C]; valid bool [B, N], None: all."""
        memory = self.decoder.memory(self.encoder(x, valid), valid, None)
        bos = self.bos.to(x.dtype).expand(x.shape[0], 1, 1, -1)
        hidden, _ = self.decoder(bos, memory)
        state: Tensor = hidden[:, 0, 0]
        return state

    def generate(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`forward` with the weights put together, without gradients and dropout."""
        trunk = fused(self)
        ancestors = torch.zeros(len(x), 1, 0, dtype=torch.int64, device=x.device)
        hidden, _ = trunk.step(None, trunk.memory(x, valid), None, [], ancestors)
        state: Tensor = hidden[:, 0]
        return state
