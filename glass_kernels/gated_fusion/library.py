"""`glass::gated_fusion`: schemas and kernels are in the library, the rest is here."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.gated_fusion import autograd
from glass_kernels.gated_fusion.fakes import fused_and_gate, gradients

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::gated_fusion")(fused_and_gate)
    torch.library.register_fake("glass::gated_fusion_backward")(gradients)
    autograd.register(
        "glass::gated_fusion",
        "glass::gated_fusion_backward",
        torch.ops.glass.gated_fusion_backward,
    )


def gated_fusion_cpp(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None,
    *,
    gate_input: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The C++ kernel; see `glass_kernels.gated_fusion`."""
    result: tuple[Tensor, Tensor] = torch.ops.glass.gated_fusion(
        short, retrieved, weight, bias, has_retrieval, gate_input
    )
    return result
