"""The fix of conftest for bfloat16 in Triton's interpreter; on a card, that these are its rules."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _calculate(x, y, out, NAME: tl.constexpr):
    i = tl.arange(0, 16)
    a, b = tl.load(x + i), tl.load(y + i)
    if NAME == "add":
        c = a + b
    elif NAME == "multiply":
        c = a * b
    elif NAME == "negate":
        c = -a
    elif NAME == "less":
        c = tl.where(a < b, a, b)
    elif NAME == "round":
        c = (a.to(tl.float32) * 1.01).to(tl.bfloat16)
    else:
        c = a.to(tl.int32).to(tl.bfloat16)
    tl.store(out + i, c)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("add", lambda a, b: a + b),
        ("multiply", lambda a, b: a * b),
        ("negate", lambda a, b: -a),
        ("less", torch.minimum),
        ("round", lambda a, b: (a.float() * 1.01).bfloat16()),
        ("integer", lambda a, b: a.trunc()),
    ],
)
def test_bfloat16(name, expected, device) -> None:
    a, b = (10 * torch.randn(16, device=device)).bfloat16(), torch.randn(16, device=device)
    b = b.bfloat16()
    out = torch.full_like(a, float("nan"))
    _calculate[(1,)](a, b, out, NAME=name)
    torch.testing.assert_close(out, expected(a, b), rtol=0, atol=0)


@triton.jit
def _multiply_matrices(x, y, out):
    i = tl.arange(0, 16)
    place = i[:, None] * 16 + i[None, :]
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place)))


def test_bfloat16_matrices(device) -> None:
    a, b = torch.randn(2, 16, 16, device=device).bfloat16()
    out = torch.full((16, 16), float("nan"), device=device)
    _multiply_matrices[(1,)](a, b, out)
    torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-5, atol=1e-5)
