"""Weights and padding of small encoders, for the tests of `encoder_stack`."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import EncoderWeights


def make_weights(
    width: int, heads: int, dim: int, hidden: int,
    *, layers: int = 1, memories: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0,
) -> EncoderWeights:  # fmt: skip
    """Random ones that keep rows and scores of order 1."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int, inputs: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64).div(inputs**0.5).to(dtype)

    return EncoderWeights(
        normal(layers, 3, heads, dim, width, inputs=width),
        normal(layers, width, heads * dim, inputs=heads * dim),
        normal(layers, hidden, width, inputs=width),
        normal(layers, width, hidden, inputs=hidden),
        normal(memories, 2, heads, dim, width, inputs=width),
    )


def paddings(users: int, length: int) -> dict[str, Tensor | None]:
    """Masks bool [B, N] by name."""
    g = torch.Generator().manual_seed(1)
    place = torch.arange(length)
    lengths = torch.randint(0, length + 1, (users, 1), generator=g)
    return {
        "none": None,
        "left": place >= lengths,
        "right": place < lengths,
        "before the last": (place < lengths) | (place == length - 1),
        "holes": torch.rand(users, length, generator=g) < 0.6,
        "all": torch.zeros(users, length, dtype=torch.bool),
    }
