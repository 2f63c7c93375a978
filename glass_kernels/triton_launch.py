"""What every launch of a Triton kernel needs. Imports no Triton until it is used."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from glass_kernels.backend import triton_interpreted


def check_device(op: str, device: torch.device) -> None:
    """Raises RuntimeError for tensors that Triton cannot read."""
    if device.type == "cuda" or (device.type == "cpu" and triton_interpreted()):
        return
    raise RuntimeError(
        f"{op} takes CUDA tensors, or CPU tensors under TRITON_INTERPRET=1; was on {device}"
    )


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Launches go to the tensor's own device, whichever is current."""
    if tensor.device.type == "cuda":
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()


def product_precision() -> str:
    """`input_precision` of `tl.dot` for float32: TF32 where torch's own products may use it."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
