"""The C++ kernel of a whole encoder against the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from encoder_cases import make_weights, paddings
from torch import Tensor

from glass_kernels import EncoderWeights, encoder_stack
from glass_kernels.encoder_stack.library import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ library is not built")

RELEASED = (96, 6, 32, 1024)
SIZES = [RELEASED, (20, 3, 12, 50), (33, 2, 17, 130), (130, 1, 64, 65), (1, 1, 1, 1)]
"""Width, heads, width of a head, of the feed-forward."""


@pytest.fixture(params=["base", "avx2", "avx512"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vector width; one that the processor lacks is its widest."""
    monkeypatch.setenv("GLASS_CPU_SIMD", request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def double(weights: EncoderWeights) -> EncoderWeights:
    names = ("qkv", "output", "up", "down", "memory")
    return EncoderWeights(*(getattr(weights, name).double() for name in names))


def inputs(users: int, length: int, weights: EncoderWeights) -> tuple[Tensor, Tensor]:
    heads, width = weights.qkv.shape[2], weights.qkv.shape[4]
    x = torch.randn(users, length, width)
    if width == 1:
        x += 10 * x.sign()  # a norm of one number near 0 would multiply every error
    return x, torch.randn(heads, 2 * length - 1)


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("size", SIZES)
def test_error_is_at_most_twice_that_of_torch(size: tuple[int, int, int, int]) -> None:
    weights = make_weights(*size, layers=2, memories=3)
    wide = double(weights)
    worst = {"cpp": 0.0, "reference": 0.0}
    for users, length in ((1, 1), (3, 2), (2, 33), (1, 151)):
        x, bias = inputs(users, length, weights)
        for padding, valid in paddings(users, length).items():
            if length == 151 and padding not in ("none", "before the last"):
                continue
            truth = encoder_stack(x.double(), bias.double(), wide, valid)
            for backend in worst:
                found = encoder_stack(x, bias, weights, valid, backend=backend)
                assert found.shape == truth.shape
                worst[backend] = max(worst[backend], float((found - truth).abs().max()))
                if valid is not None:
                    assert not found[:, ~valid].any()
    assert worst["cpp"] <= 2 * worst["reference"] < 1e-4


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("users", [0, 1, 2, 40])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(users: int, count: int, threads: None) -> None:
    weights = make_weights(20, 3, 12, 50, layers=3, memories=2)
    x, bias = inputs(users, 33, weights)
    valid = paddings(users, 33)["left"]
    torch.set_num_threads(1)
    wanted = encoder_stack(x, bias, weights, valid)
    torch.set_num_threads(count)
    assert torch.equal(encoder_stack(x, bias, weights, valid), wanted)
    assert wanted.isfinite().all()


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("left", [True, False])
def test_a_users_bits_depend_on_no_other_user_and_no_padding(left: bool) -> None:
    weights = make_weights(33, 2, 17, 130, layers=2)
    most = 60
    bias = torch.randn(2, 2 * most - 1)
    rows = [torch.randn(length, 33) for length in (1, 7, 33, 50, 0)]
    x = torch.full((len(rows), most, 33), torch.nan)  # padding is not looked at
    valid = torch.zeros(len(rows), most, dtype=torch.bool)
    for user, row in enumerate(rows):
        at = slice(most - len(row), most) if left else slice(0, len(row))
        x[user, at], valid[user, at] = row, True
    together = encoder_stack(x, bias, weights, valid)
    for user, row in enumerate(rows):
        middle = bias[:, most - len(row) : most + max(len(row), 1) - 1]
        alone = encoder_stack(row[None], middle, weights)
        assert torch.equal(together[:, user, valid[user]], alone[:, 0])
        assert not together[:, user, ~valid[user]].any()


def test_views_and_no_positions() -> None:
    weights = make_weights(4, 2, 3, 5)
    x, bias = inputs(3, 9, weights)
    valid = paddings(3, 9)["holes"]
    assert valid is not None
    wanted = encoder_stack(x, bias, weights, valid)
    views = (x.mT.contiguous().mT, bias.t().contiguous().t())
    mask = torch.stack([valid, ~valid], -1)[..., 0]
    assert not any(view.is_contiguous() for view in (*views, mask))
    assert torch.equal(encoder_stack(*views, weights, mask), wanted)
    nothing = encoder_stack(x[:, :0], bias[:, :0], weights)
    assert nothing.shape == (1, 3, 0, 2, 2, 3)


def test_what_is_not_a_number_is_not_hidden() -> None:
    """Not by the feed-forward, which leaves out what a ReLU makes zero, nor by a softmax."""
    weights = make_weights(8, 2, 4, 70)
    for value in (torch.nan, -torch.nan, torch.inf):
        x, bias = inputs(2, 5, weights)
        x[1, 3, 2] = value
        found = encoder_stack(x, bias, weights)
        assert found[:, 0].isfinite().all()
        assert found[:, 1].isnan().all()
    up = weights.up.clone()
    up[0, 69, 0] = -torch.nan
    x, bias = inputs(1, 5, weights)
    broken = EncoderWeights(weights.qkv, weights.output, up, weights.down, weights.memory)
    assert encoder_stack(x, bias, broken).isnan().all()


def test_large_scores_are_safe() -> None:
    weights = make_weights(8, 2, 4, 16)
    x, bias = inputs(1, 20, weights)
    for size in (1e4, 3e38):
        found = encoder_stack(x, bias.sign() * size, weights)
        wanted = encoder_stack(x, bias.sign() * size, weights, backend="reference")
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def arguments() -> tuple[Tensor | None, ...]:
    weights = make_weights(20, 3, 12, 50, layers=2)
    x, bias = inputs(2, 7, weights)
    assert weights.packed is not None
    return x, paddings(2, 7)["holes"], bias, *weights.packed


def test_opcheck() -> None:
    x, valid, *rest = arguments()
    for mask in (valid, None):
        torch.library.opcheck(torch.ops.glass.encoder_stack.default, (x, mask, *rest))


def test_compiles_whole() -> None:
    weights = make_weights(4, 2, 3, 5)
    x, bias = inputs(2, 3, weights)
    valid = paddings(2, 3)["holes"]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(x: Tensor, bias: Tensor, valid: Tensor) -> Tensor:
        return encoder_stack(x, bias, weights, valid)

    assert valid is not None
    assert torch.equal(run(x, bias, valid), encoder_stack(x, bias, weights, valid))


def test_has_no_gradient() -> None:
    weights = make_weights(4, 2, 3, 5)
    x, bias = inputs(2, 3, weights)
    found = encoder_stack(x.requires_grad_(), bias, weights)
    with pytest.raises(RuntimeError, match="backend='reference' has"):
        found.sum().backward()


def test_no_user_depends_on_one_that_is_not_finite() -> None:
    """Not even on what it leaves past the columns of a row."""
    weights = make_weights(20, 2, 12, 50)
    x, bias = torch.randn(3, 7, 20), torch.randn(2, 13)
    whole = encoder_stack(x, bias, weights, backend="cpp")
    x[0] = float("inf")
    broken = encoder_stack(x, bias, weights, backend="cpp")
    assert bool(broken[:, 0].isnan().all())
    assert torch.equal(broken[:, 1:], whole[:, 1:])
