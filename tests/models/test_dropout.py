"""The trunk's dropout: rate, scale and gradient of torch's, from masks of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glass.models import dropout
from glass.models.dropout import Dropout, dropped

RATE = 0.1


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_mask_has_its_rate_in_every_lane(rate: float) -> None:
    """Four elements come from one number of the generator."""
    count = 4 * 100_000
    mask = dropped(count, rate).view(-1, 4).float()
    error = (rate * (1 - rate) / 100_000) ** 0.5
    assert (mask.mean(0) - rate).abs().max() < 5 * error
    together = torch.corrcoef(mask.T) - torch.eye(4)  # the lanes know nothing of each other
    assert together.abs().max() < 5 / 100_000**0.5
    assert not torch.equal(dropped(count, rate), dropped(count, rate))


@pytest.mark.parametrize("count", [0, 1, 3, 5, 4099])
def test_mask_of_any_size_follows_the_seed(count: int) -> None:
    torch.manual_seed(3)
    first = dropped(count, 0.5)
    torch.manual_seed(3)
    assert first.shape == (count,)
    assert torch.equal(first, dropped(count, 0.5))


def kept(out: Tensor, x: Tensor) -> Tensor:
    """Where `out` is x scaled up; elsewhere it must be 0."""
    share = 1 - round(RATE * 2**16) / 2**16
    scaled = torch.isclose(out, x / share)
    assert (scaled | (out == 0)).all()
    return scaled & (x != 0)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pieces", [dropout._PIECE, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(
    relu: bool, pieces: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropout, "_PIECE", pieces)
    module = Dropout(RATE)
    leaf = torch.randn(7, 30, 20, dtype=dtype, requires_grad=True)
    hidden = leaf * 1.0  # what is overwritten is not the leaf
    positive = torch.where(leaf > 0, leaf, 0).detach() if relu else leaf.detach()
    out = module.of_relu_(hidden) if relu else module(hidden)
    through = kept(out, positive)
    share = through.sum() / (positive != 0).sum()
    assert abs(share - (1 - RATE)) < 5 * (0.09 / 2100) ** 0.5
    cotangent = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, leaf, cotangent)
    scale = 2**16 / (2**16 - round(RATE * 2**16))
    torch.testing.assert_close(grad, torch.where(through, cotangent * scale, 0))
    if not relu:
        assert torch.equal(hidden, leaf)  # a residual stream goes on being read


@pytest.mark.parametrize("rate", [0.0, 0.0005, 0.9995, 1.0])
def test_rates_too_near_the_ends_are_torchs(rate: float) -> None:
    x = torch.randn(40, 50)
    module, torchs = Dropout(rate), torch.nn.Dropout(rate)
    for ours, theirs in ((module, torchs), (module.of_relu_, lambda x: torchs(x.relu()))):
        torch.manual_seed(1)
        out = ours(x.clone())
        torch.manual_seed(1)
        assert torch.equal(out, theirs(x))


def test_evaluation_drops_nothing_and_compiled_code_is_torchs() -> None:
    x = torch.randn(40, 50)
    module = Dropout(RATE).eval()
    assert torch.equal(module(x), x)
    assert torch.equal(module.of_relu_(x.clone()), x.relu())
    module.train()
    compiled = torch.compile(module.of_relu_, fullgraph=True, backend="aot_eager")
    assert (compiled(x.clone()) == 0).float().mean() > 0.45
