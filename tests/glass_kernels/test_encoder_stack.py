"""The encoder's reference against loops, and what its callers are told."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from encoder_cases import make_weights, paddings
from torch import Tensor

from glass_kernels import EncoderWeights, encoder_stack, use_backend
from glass_kernels.panels import panels

DOUBLE = torch.float64


def normed(row: Tensor) -> Tensor:
    return row / math.sqrt(float(row.square().mean()) + 1e-6)


def by_loops(x: Tensor, bias: Tensor, weights: EncoderWeights, valid: Tensor) -> Tensor:
    """Keys and values, one number of a softmax after another; padding is left out."""
    (users, length, _), (layers, _, heads, dim, _) = x.shape, weights.qkv.shape
    out = x.new_zeros(weights.memory.shape[0], users, length, 2, heads, dim)
    for user in range(users):
        rows = {at: x[user, at] for at in range(length) if valid[user, at]}
        for layer in range(layers):
            qkv = {at: weights.qkv[layer] @ normed(row) for at, row in rows.items()}
            added = {}
            for at in rows:
                mixed = x.new_zeros(heads, dim)
                for head in range(heads):
                    scores = {
                        key: math.exp(
                            float(qkv[at][0, head] @ qkv[key][1, head])
                            + float(bias[head, key - at + length - 1])
                        )
                        for key in rows
                    }
                    for key, score in scores.items():
                        mixed[head] += score / sum(scores.values()) * qkv[key][2, head]
                added[at] = weights.output[layer] @ mixed.flatten()
            rows = {at: row + added[at] for at, row in rows.items()}
            for at, row in rows.items():
                hidden = (weights.up[layer] @ normed(row)).clamp(min=0)
                rows[at] = row + weights.down[layer] @ hidden
        for at, row in rows.items():
            out[:, user, at] = weights.memory @ normed(row)
    return out


@pytest.mark.parametrize("padding", ["none", "left", "right", "holes", "all"])
def test_reference_is_the_equations(padding: str) -> None:
    weights = make_weights(5, 2, 3, 4, layers=2, memories=3, dtype=DOUBLE)
    x, bias = torch.randn(3, 4, 5, dtype=DOUBLE), torch.randn(2, 7, dtype=DOUBLE)
    valid = paddings(3, 4)[padding]
    wanted = by_loops(x, bias, weights, torch.ones(3, 4).bool() if valid is None else valid)
    found = encoder_stack(x, bias, weights, valid, backend="reference")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_reference_has_a_gradient() -> None:
    weights = make_weights(4, 2, 2, 3, dtype=DOUBLE)
    bias, valid = torch.randn(2, 5, dtype=DOUBLE), torch.tensor([[True, False, True]])
    x = torch.randn(1, 3, 4, dtype=DOUBLE, requires_grad=True)

    def run(x: Tensor, bias: Tensor) -> Tensor:
        return encoder_stack(x, bias, weights, valid)

    assert torch.autograd.gradcheck(run, (x, bias.requires_grad_()))


def test_panels_hold_every_weight() -> None:
    weight = torch.randn(2, 35, 3)
    packed = panels(weight)
    assert packed.shape == (2, 4, 3, 16)
    unpacked = packed.transpose(2, 3).flatten(1, 2)
    assert torch.equal(unpacked[:, :35], weight)
    assert torch.equal(unpacked[:, 35:], torch.zeros(2, 29, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 5)}, r"x must have shape \[any, any, 4\], had \[2, 3, 5\]"),
        ({"x": torch.zeros(2, 3, 4).double()}, "x must be float32, was float64"),
        ({"bias": torch.zeros(2, 6)}, r"bias must have shape \[2, 5\], had \[2, 6\]"),
        ({"bias": torch.zeros(3, 5)}, r"bias must have shape \[2, 5\], had \[3, 5\]"),
        ({"bias": torch.zeros(2, 5).half()}, "bias must be float32, was float16"),
        ({"valid": torch.ones(2, 3)}, "valid must be bool, was float32"),
        ({"valid": torch.ones(3, 2).bool()}, r"valid must have shape \[2, 3\], had \[3, 2\]"),
        ({"x": torch.zeros(2, 3, 4, device="meta")}, "x must be on cpu like the other tensors"),
    ],
)
def test_mistakes_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = {"x": torch.zeros(2, 3, 4), "bias": torch.zeros(2, 5), "valid": None} | change
    with pytest.raises(ValueError, match=message):
        encoder_stack(weights=make_weights(4, 2, 2, 3), **arguments)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("qkv", (1, 2, 2, 2, 4), r"qkv must have shape \[1, 3, 2, 2, 4\], had \[1, 2, 2, 2, 4\]"),
        ("output", (1, 4, 5), r"output must have shape \[1, 4, 4\], had \[1, 4, 5\]"),
        ("up", (1, 3, 5), r"up must have shape \[1, any, 4\], had \[1, 3, 5\]"),
        ("down", (2, 4, 3), r"down must have shape \[1, 4, 3\], had \[2, 4, 3\]"),
        ("memory", (0, 2, 2, 2, 4), r"memory must have no size of 0, had shape \[0, 2, 2, 2, 4\]"),
    ],
)
def test_wrong_weights_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_weights(4, 2, 2, 3), **{name: torch.zeros(shape)})


def test_weights_of_two_dtypes_are_named() -> None:
    weights = make_weights(4, 2, 2, 3)
    with pytest.raises(ValueError, match="down must be float32, was float64"):
        dataclasses.replace(weights, down=weights.down.double())


def test_backends_that_there_are_not() -> None:
    weights = make_weights(4, 2, 2, 3)
    x, bias = torch.zeros(1, 2, 4), torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="encoder_stack: backend 'triton' is not available"):
        encoder_stack(x, bias, weights, backend="triton")
    wide = make_weights(4, 2, 2, 3, dtype=DOUBLE)
    with (
        use_backend("cpp"),
        pytest.raises(RuntimeError, match="of another dtype than float32: backend 'cpp'"),
    ):
        encoder_stack(x.double(), bias.double(), wide)
