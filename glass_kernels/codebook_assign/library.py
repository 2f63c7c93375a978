"""`glass::codebook_assign`: schemas and kernels are in the library, the rest is here."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.codebook_assign import autograd
from glass_kernels.codebook_assign.fakes import assigned_index_and_loss, gradients

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::codebook_assign")(assigned_index_and_loss)
    torch.library.register_fake("glass::codebook_assign_backward")(gradients)
    autograd.register(
        "glass::codebook_assign",
        "glass::codebook_assign_backward",
        torch.ops.glass.codebook_assign_backward,
    )


def codebook_assign_cpp(
    query: Tensor, codebook: Tensor, target: Tensor | None, *, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The C++ kernel; see `glass_kernels.codebook_assign`."""
    assigned, index, loss, _ = torch.ops.glass.codebook_assign(query, codebook, target, temperature)
    return assigned, index, None if target is None else loss
