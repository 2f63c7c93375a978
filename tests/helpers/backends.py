"""Runs a whole model on one backend: every op that has it, the others on their references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from glass_kernels.backend import BACKENDS, runs_on

Implementation = Callable[..., Any]

OPS = (
    "sid_tier", "hard_search", "hard_search_attention", "gated_fusion", "encoder_stack", "trie",
)  # fmt: skip
"""Folders of the ops that GLASS runs."""


def op_tables() -> dict[str, dict[str, Implementation]]:
    """Every table {backend: implementation} that these ops pick from."""
    return {
        f"{op}.{name}": value
        for op in OPS
        for name, value in vars(import_module(f"glass_kernels.{op}")).items()
        if isinstance(value, dict) and "reference" in value
    }


def other_backends(device: str = "cpu", *, named: bool = False) -> list[str]:
    """Backends beside the reference that some op has, for tensors of `device`; best first."""
    held = {backend for table in op_tables().values() for backend in table}
    return [
        name
        for name in BACKENDS
        if name in held - {"reference"} and runs_on(name, torch.device(device), named=named)
    ]


@contextmanager
def every_op_on(backend: str) -> Iterator[set[str]]:
    """Inside, every op that has `backend` runs on it, every other one on its reference.

    `use_backend` would raise at the first op that lacks it. Gives the names of the tables whose
    `backend` has been called so far.
    """
    called: set[str] = set()

    def noting(name: str, implementation: Implementation) -> Implementation:
        def run(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return implementation(*args, **kwargs)

        return run

    with ExitStack() as stack:
        for name, table in op_tables().items():
            chosen = table["reference"]
            if backend in table:
                chosen = noting(name, table[backend])
            # Under the reference's name, which is taken everywhere: a Triton kernel would not be
            # on a CPU, where it is interpreted.
            stack.enter_context(patch.dict(table, {"reference": chosen}, clear=True))
        yield called
