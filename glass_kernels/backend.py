"""Which backend runs an op: its argument, `use_backend`, `GLASS_BACKEND`, or the best there is.

Dispatch is ordinary Python outside the registered ops, so that `torch.compile` and `torch.export`
capture one op and no graph break.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

BACKENDS = ("cuda", "triton", "cpp", "eager", "reference")
"""Every backend name, best first. `eager` is a faster plain-PyTorch form that some ops have."""

ENVIRONMENT = "GLASS_BACKEND"

F = TypeVar("F", bound=Callable[..., Any])

_REMEDIES = {
    "cuda": "where an op has a CUDA kernel, `GLASS_BUILD_CUDA=1 pip install .` with nvcc builds "
    "it, and it takes CUDA tensors",
    "triton": "where an op has a Triton kernel, it needs triton (Linux) and CUDA tensors, or "
    "TRITON_INTERPRET=1 set before the first import of triton",
    "cpp": "where an op has a C++ kernel, `GLASS_BUILD_CPP=1 pip install .` with a C++20 compiler "
    "builds it, and it takes CPU tensors",
    "eager": "where an op has no faster plain form, use backend='reference'",
    "reference": "this op has no reference",
}

_chosen: ContextVar[str | None] = ContextVar("glass_backend", default=None)


class _Traced:
    """Copy of the last `use_backend` that `torch.compile` can read and guard on.

    Dynamo cannot read a ContextVar. The copy is one for all threads: compiled code in one thread
    sees a `use_backend` of another. Eager code does not.
    """

    name: str | None = None


_traced = _Traced()


def _check_name(source: str, name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; it must be one of {', '.join(BACKENDS)}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every op inside on backend `name`; an op that lacks it raises RuntimeError.

    Raises ValueError if `name` is not in `BACKENDS`. Contexts nest, and are local to the thread and
    task (inside `torch.compile`d code: to the process). An op's own `backend=` wins.
    """
    _check_name("use_backend(name)", name)
    token = _chosen.set(name)
    previous, _traced.name = _traced.name, name
    try:
        yield
    finally:
        _chosen.reset(token)
        _traced.name = previous


def active_backend() -> str | None:
    """Backend chosen by `use_backend` or `GLASS_BACKEND`, or None: the best available."""
    chosen = _traced.name if torch.compiler.is_compiling() else _chosen.get()
    if chosen is not None:
        return chosen
    name = os.environ.get(ENVIRONMENT)
    return _check_name(f"environment variable {ENVIRONMENT}", name) if name else None


def cpp_at_once(tensor: object) -> bool:
    """Whether an op's C++ kernel runs for `tensor` whatever the rest of its arguments are.

    True for a tensor on the CPU while no backend is named and nothing is traced. The kernel checks
    all that Python would, and much faster; where it refuses, go the long way, whose checks name the
    mistake.
    """
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.is_cpu
        and not torch.compiler.is_compiling()
        and _chosen.get() is None
        and not os.environ.get(ENVIRONMENT)
    )


def triton_interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def runs_on(backend: str, device: torch.device, *, named: bool = True) -> bool:
    """Whether `backend` takes tensors of `device`; `named=False` leaves out the interpreter."""
    if backend == "cuda":
        return device.type == "cuda"
    if backend == "triton":
        return device.type == "cuda" or (named and device.type == "cpu" and triton_interpreted())
    if backend == "cpp":
        return device.type == "cpu"
    return True


def resolve(op: str, device: torch.device, requested: str | None, available: Mapping[str, F]) -> F:
    """Picks the implementation of `op` for tensors on `device`.

    Args:
        op: name of the op, for messages.
        device: device of the op's tensors.
        requested: the caller's `backend=`, or None.
        available: backend name -> implementation; holds what is built and importable.

    Raises:
        ValueError: `requested` or `GLASS_BACKEND` is no backend's name.
        RuntimeError: the backend that was asked for is not available here.
    """
    if requested is not None:
        name: str | None = _check_name("backend", requested)
    else:
        name = active_backend()
    if name is None:
        for best in BACKENDS:
            if best in available and runs_on(best, device, named=False):
                return available[best]
        raise RuntimeError(f"{op}: no backend for device {device}; built: {sorted(available)}")
    if name not in available:
        raise RuntimeError(
            f"{op}: backend {name!r} is not available (there are: {', '.join(available)}); "
            f"{_REMEDIES[name]}; `python -m glass_kernels.info` lists everything"
        )
    if not runs_on(name, device):
        raise RuntimeError(
            f"{op}: backend {name!r} does not take tensors on {device}; {_REMEDIES[name]}"
        )
    return available[name]
