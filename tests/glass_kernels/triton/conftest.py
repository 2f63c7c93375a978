"""Triton kernels: in its interpreter on the CPU; compiled, with the same tests, where a card is.

One process either interprets or compiles. Which of them is decided when triton is first imported,
so it is set here, when tests are collected: before any of them runs.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ON_CARD = torch.cuda.is_available()
if not ON_CARD:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported too early to interpret; run this folder by itself")
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ON_CARD and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if ON_CARD else "cpu")


@pytest.fixture(scope="session", autouse=True)
def _bfloat16_is_right() -> Iterator[None]:
    """Stock, the interpreter computes on the bits of bfloat16 and truncates conversions to it."""
    if ON_CARD:
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    stock = {name: getattr(Builder, name) for name in _FIXES}
    for name, fix in _FIXES.items():
        setattr(Builder, name, functools.wraps(stock[name])(fix(stock[name])))
    yield
    for name, method in stock.items():
        setattr(Builder, name, method)


def _is_bf16(value: Any) -> bool:
    return str(getattr(getattr(value, "dtype", None), "scalar", None)) == "bf16"


def _wide(value: Any) -> Any:
    """float32 handle of a bfloat16 one; anything else as it is."""
    if not _is_bf16(value):
        return value
    import numpy as np
    import triton.language as tl

    data = (np.atleast_1d(value.data).astype(np.uint32) << 16).view(np.float32)
    return type(value)(data.reshape(np.shape(value.data)), tl.float32)


def _narrow(value: Any) -> Any:
    """bfloat16 handle of a float32 one, rounded by torch."""
    import numpy as np
    import triton.language as tl

    wide = torch.from_numpy(np.array(value.data, dtype=np.float32, ndmin=1))
    data = wide.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return type(value)(data.reshape(np.shape(value.data)), tl.bfloat16)


def _arithmetic(stock: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *operands: Any) -> Any:
        if not any(map(_is_bf16, operands)):
            return stock(self, *operands)
        result = stock(self, *map(_wide, operands))
        return _narrow(result) if result.data.dtype.kind == "f" else result

    return run


def _dot(stock: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, a: Any, b: Any, accumulator: Any, *options: Any) -> Any:
        result = stock(self, _wide(a), _wide(b), _wide(accumulator), *options)
        return _narrow(result) if _is_bf16(accumulator) else result

    return run


def _cast(stock: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, source: Any, target: Any, *options: Any) -> Any:
        import triton.language as tl

        source, to_bf16 = _wide(source), target.scalar == tl.bfloat16
        wanted = tl.float32 if to_bf16 else target
        if source.dtype.scalar != wanted.scalar:
            source = stock(self, source, wanted, *options)
        return _narrow(source) if to_bf16 else source

    return run


_FIXES = {
    "binary_op": _arithmetic,
    "unary_op": _arithmetic,
    "create_fma": _arithmetic,
    "create_rsqrt": _arithmetic,
    "create_dot": _dot,
    "cast_impl": _cast,
    "create_fp_to_fp": _cast,
}
