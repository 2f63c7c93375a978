"""`glass::decoder_step`: schema and kernel are in the library, the rest is here.

`glass::pack_token_rows`, which lays weights out, is never part of compiled code and has no fake.
"""

from __future__ import annotations

import torch

from glass_kernels import library
from glass_kernels.decoder_step.fakes import no_gradient, step_like

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::decoder_step")(step_like)
    torch.library.register_autograd("glass::decoder_step", no_gradient)
