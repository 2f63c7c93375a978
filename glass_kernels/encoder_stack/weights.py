"""Weights of an encoder as `encoder_stack` wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from glass_kernels.checks import FLOATS, check_tensor
from glass_kernels.panels import WHOLE, panels


class Packed(NamedTuple):
    """What the C++ kernel reads; see csrc/cpu/encoder_stack.cpp."""

    qkv: Tensor  # [layers, H, panels, C, 16]: queries, keys and values of a head
    output: Tensor  # [layers, panels, H*D, 16]
    up: Tensor  # [layers, panels, C, 16]
    down: Tensor  # [layers, F, C up to a multiple of 32]
    memory: Tensor  # [M, 2H, panels, C, 16]: keys of every head, then values


@dataclass(frozen=True)
class EncoderWeights:
    """Weights of the layers of an encoder, and of what reads its output; each [outputs, inputs].

    The weights of the norms are multiplied into the columns of what follows them. Made once for
    many calls: on a CPU float32 weights are also laid out for the C++ kernel, as they are now.

    Raises:
        ValueError: a wrong shape, dtype or device, or a size of 0.
    """

    qkv: Tensor
    """float [layers, 3, H, D, C]: queries, keys and values."""
    output: Tensor
    """[layers, C, H*D] of the attention."""
    up: Tensor
    """[layers, F, C] of the feed-forward."""
    down: Tensor
    """[layers, C, F]"""
    memory: Tensor
    """[M, 2, H, D, C]: keys and values of the encoder's output for M decoder layers."""
    packed: Packed | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        qkv = self.qkv
        check_tensor("qkv", qkv, ndim=5, dtypes=FLOATS)
        layers, _, heads, dim, width = qkv.shape
        check_tensor("up", self.up, shape=(layers, None, width))
        shapes = {
            "qkv": (layers, 3, heads, dim, width),
            "output": (layers, width, heads * dim),
            "up": (layers, self.up.shape[1], width),
            "down": (layers, width, self.up.shape[1]),
            "memory": (None, 2, heads, dim, width),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            check_tensor(name, value, shape=shape, dtypes=(qkv.dtype,), device=qkv.device)
            if value.numel() == 0:
                raise ValueError(f"{name} must have no size of 0, had shape {list(value.shape)}")
        wants = qkv.is_cpu and qkv.dtype == torch.float32
        object.__setattr__(self, "packed", self._pack() if wants else None)

    def _pack(self) -> Packed:
        layers, _, heads, dim, width = self.qkv.shape
        of_heads = self.qkv.transpose(1, 2).reshape(layers, heads, 3 * dim, width)
        down = F.pad(self.down.transpose(1, 2), (0, -width % WHOLE)).contiguous()
        memory = panels(self.memory.flatten(1, 2))
        return Packed(panels(of_heads), panels(self.output), panels(self.up), down, memory)
