"""Weights laid out once for the C++ kernels that run a whole stack of layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 16
"""Outputs of a panel: `kPanel` of csrc/cpu/panel_products.h."""
WHOLE = 32
"""Outputs are padded to a multiple of it: `kWholePanels`."""


def panels(weight: Tensor) -> Tensor:
    """Weight [..., outputs, inputs] of a linear map -> [..., panels, inputs, 16].

    Panel p holds outputs 16 p and on, zeros past the last.
    """
    padded = F.pad(weight, (0, 0, 0, -weight.shape[-2] % WHOLE))
    return torch.unflatten(padded, -2, (-1, WIDTH)).transpose(-1, -2).contiguous()
