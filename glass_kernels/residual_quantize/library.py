"""`glass::residual_quantize`: schema and kernel are in the library, the rest is here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.residual_quantize.fakes import codes_like

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::residual_quantize")(codes_like)

# what the kernel finds out: looking for it beforehand would read all vectors once more
_MISTAKES = ("x must be finite", "codebooks[")


@torch.no_grad()
def residual_quantize_cpp(
    x: Tensor, codebooks: Sequence[Tensor], normalize_residual: bool
) -> Tensor:
    """The C++ kernel; see `glass_kernels.residual_quantize`.

    Values that are not finite are a ValueError, in compiled code a RuntimeError.
    """
    quantize = torch.ops.glass.residual_quantize
    if torch.compiler.is_compiling():
        codes: Tensor = quantize(x, codebooks, normalize_residual)
        return codes
    try:
        codes = quantize(x, codebooks, normalize_residual)
    except RuntimeError as error:
        mistake = library.caller_mistake(error, _MISTAKES)
        if mistake is not None:
            raise mistake from None
        raise
    return codes
