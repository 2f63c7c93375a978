"""`glass::encoder_stack`: schema and kernel are in the library, the rest is here."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.encoder_stack.fakes import keys_values, no_gradient
from glass_kernels.encoder_stack.weights import EncoderWeights

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::encoder_stack")(keys_values)
    torch.library.register_autograd("glass::encoder_stack", no_gradient)


def encoder_stack_cpp(
    x: Tensor, bias: Tensor, weights: EncoderWeights, valid: Tensor | None
) -> Tensor:
    """The C++ kernel; see `glass_kernels.encoder_stack`."""
    assert weights.packed is not None
    result: Tensor = torch.ops.glass.encoder_stack(x, valid, bias, *weights.packed)
    return result.permute(0, 1, 4, 2, 3, 5)  # a head's lie together
