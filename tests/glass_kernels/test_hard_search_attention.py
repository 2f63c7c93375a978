"""Attention over retrieved items: by hand, by gradcheck, and every backend against the gather."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from glass_kernels.hard_search_attention import hard_search_attention
from glass_kernels.hard_search_attention.bag import hard_search_attention_bag, token_counts
from glass_kernels.hard_search_attention.library import AVAILABLE

needs_cpp = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")
FAST = ["eager", pytest.param("cpp", marks=needs_cpp)]
BACKENDS = ["reference", *FAST]
HALVES = [torch.bfloat16, torch.float16]


def make(
    dtype: torch.dtype = torch.float64,
    *,
    shape: tuple[int, int, int] = (3, 4, 2),
    most: int = 5,
    num_events: int = 17,
    num_tokens: int = 9,
    ids: torch.dtype = torch.int32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random sets whose lengths run from 0 to M; tokens repeat within a set."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    num_users, num_sets, _ = shape
    lengths = torch.arange(num_users * num_sets).view(num_users, num_sets) % (most + 1)
    positions = torch.randint(0, num_events, (num_users, num_sets, most), generator=generator)
    positions = positions.where(torch.arange(most) < lengths[..., None], torch.tensor(-1))
    tokens = torch.randint(0, num_tokens, (num_events, 3), generator=generator)
    return {
        "query": normal(*shape, 2, 4),
        "key_table": normal(num_tokens, 2, 4),
        "value_table": normal(num_tokens, 2, 4),
        "tokens": tokens.to(ids),
        "positions": positions.to(ids),
        "lengths": lengths.to(ids),
    }


FLOAT_ARGUMENTS = ("query", "key_table", "value_table")


def run_with_gradients(arguments: dict[str, Tensor], **options: object) -> list[Tensor]:
    """Output and the gradients of query and tables for a fixed random cotangent."""
    leaves = {
        name: value.detach().clone().requires_grad_(name in FLOAT_ARGUMENTS)
        for name, value in arguments.items()
    }
    out = hard_search_attention(**leaves, **options)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(out, [leaves[n] for n in FLOAT_ARGUMENTS], cotangent.to(out.dtype))
    return [out.detach(), *grads]


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_computed(backend: str) -> None:
    # Items 0 and 2: tokens {0, 1} and {0, 2}; token 0 twice. Scores 2 * q.k = log 2, 0, log 3.
    arguments = {
        "query": torch.tensor([0.5]).view(1, 1, 1, 1, 1),
        "key_table": torch.tensor([math.log(2), 0.0, math.log(3), 50.0]).view(4, 1, 1),
        "value_table": torch.tensor([1.0, 10.0, 100.0, 1e6]).view(4, 1, 1),
        "tokens": torch.tensor([[0, 1], [3, 3], [0, 2]]),
        "positions": torch.tensor([[[2, 0, -1]]]),
        "lengths": torch.tensor([[2]]),
    }
    out = hard_search_attention(**arguments, scale=2.0, backend=backend)
    # Weights 2, 2 (token 0 twice), 1, 3: (2*1 + 2*1 + 1*10 + 3*100) / 8.
    torch.testing.assert_close(out, torch.full((1, 1, 1, 1, 1), 314 / 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_set_gives_zeros_and_zero_gradients(backend: str) -> None:
    arguments = make()
    empty = arguments["lengths"] == 0
    assert empty.any()
    out, query_grad, *_ = run_with_gradients(arguments, backend=backend)
    assert (out[empty] == 0).all()
    assert (query_grad[empty] == 0).all()
    assert (out[~empty] != 0).any()

    arguments["lengths"] = torch.zeros_like(arguments["lengths"])
    for result in run_with_gradients(arguments, backend=backend):
        assert (result == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_beyond_the_length_are_not_looked_at(backend: str) -> None:
    arguments = make()
    wanted = hard_search_attention(**arguments, backend=backend)
    unused = arguments["positions"] < 0
    assert unused.any()
    arguments["positions"] = arguments["positions"].masked_fill(unused, 3)
    torch.testing.assert_close(hard_search_attention(**arguments, backend=backend), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend: str) -> None:
    arguments = make(shape=(2, 3, 2), most=4)
    ids = {name: value for name, value in arguments.items() if name not in FLOAT_ARGUMENTS}

    def attend(query: Tensor, key_table: Tensor, value_table: Tensor) -> Tensor:
        return hard_search_attention(
            query, key_table, value_table, **ids, scale=0.7, backend=backend
        )

    leaves = [arguments[name].requires_grad_() for name in FLOAT_ARGUMENTS]
    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("shape", "most", "num_tokens"), [((3, 4, 2), 5, 9), ((1, 1, 1), 1, 1), ((2, 7, 3), 33, 200)]
)
def test_bag_equals_gather(
    backend: str, shape: tuple[int, int, int], most: int, num_tokens: int, ids: torch.dtype
) -> None:
    arguments = make(shape=shape, most=most, num_tokens=num_tokens, ids=ids)
    bag = run_with_gradients(arguments, scale=0.5, backend=backend)
    gather = run_with_gradients(arguments, scale=0.5, backend="reference")
    for got, wanted in zip(bag, gather, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_token_counts() -> None:
    tokens = torch.tensor([[0, 1], [0, 2], [3, 3]])
    positions = torch.tensor([[[1, 0, -1], [2, 0, 0]]])
    counts = token_counts(tokens, positions, torch.tensor([[2, 1]]), 4)
    assert counts.tolist() == [[[2, 1, 1, 0], [0, 0, 0, 2]]]


def test_default_without_a_compiled_backend_is_the_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASS_BACKEND", raising=False)
    folder = importlib.import_module("glass_kernels.hard_search_attention")
    implementations = folder._ATTENTION
    ran = []

    def bag(*args: object, **options: object) -> Tensor:
        ran.append("eager")
        return hard_search_attention_bag(*args, **options)

    plain = {"reference": implementations["reference"], "eager": bag}
    monkeypatch.setattr(folder, "_ATTENTION", plain)
    hard_search_attention(**make())
    assert ran == ["eager"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0)])
def test_no_sets(backend: str, shape: tuple[int, int, int]) -> None:
    arguments = make(shape=shape)
    results = run_with_gradients(arguments, backend=backend)
    assert results[0].shape == (*shape, 2, 4)
    assert all((grad == 0).all() for grad in results[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_events(backend: str) -> None:
    arguments = make()
    arguments["tokens"] = torch.zeros(0, 3, dtype=torch.int32)
    arguments["positions"] = torch.full_like(arguments["positions"], -1)
    arguments["lengths"] = torch.zeros_like(arguments["lengths"])
    for result in run_with_gradients(arguments, backend=backend):
        assert (result == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_input(backend: str) -> None:
    arguments = make()
    wanted = hard_search_attention(**arguments, backend=backend)
    strided = {
        name: value.transpose(0, -1).contiguous().transpose(0, -1)
        for name, value in arguments.items()
    }
    assert not strided["query"].is_contiguous()
    torch.testing.assert_close(hard_search_attention(**strided, backend=backend), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_stay_finite(backend: str) -> None:
    arguments = make(torch.float32)
    arguments["query"] = arguments["query"] * 1e4
    for result in run_with_gradients(arguments, backend=backend):
        assert result.isfinite().all()


def all_in_half(arguments: dict[str, Tensor]) -> list[Tensor]:
    """Plain PyTorch with every step in the tensors' own dtype, as one would write it."""
    query, key_table, value_table = (
        arguments[name].detach().clone().requires_grad_() for name in FLOAT_ARGUMENTS
    )
    most, per_item = arguments["positions"].shape[2], arguments["tokens"].shape[1]
    filled = torch.arange(most) < arguments["lengths"][..., None]
    hidden = ~filled.repeat_interleave(per_item, 2)[:, :, None, None]
    tokens = arguments["tokens"][arguments["positions"].clamp(min=0)].long().flatten(2)
    scores = torch.einsum("bsphd,bsthd->bspht", query, key_table[tokens])
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
    weights = weights.masked_fill(hidden, 0)
    out = torch.einsum("bspht,bsthd->bsphd", weights, value_table[tokens])
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    leaves = (query, key_table, value_table)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_error_at_most_twice_eager(backend: str, dtype: torch.dtype) -> None:
    half = make(dtype, shape=(8, 6, 3), most=20, num_events=60, num_tokens=40)
    exact = {n: half[n].double() if n in FLOAT_ARGUMENTS else half[n] for n in half}
    # The cotangent is rounded to half in both runs that are compared; so must be the exact one.
    cotangent = torch.randn(half["query"].shape, generator=torch.Generator().manual_seed(1))
    leaves = {n: exact[n].requires_grad_() if n in FLOAT_ARGUMENTS else exact[n] for n in exact}
    out = hard_search_attention(**leaves, backend="reference")
    inputs = [leaves[name] for name in FLOAT_ARGUMENTS]
    truth = [out.detach(), *torch.autograd.grad(out, inputs, cotangent.to(dtype).double())]

    ours, eager = run_with_gradients(half, backend=backend), all_in_half(half)
    for got, plain, wanted in zip(ours, eager, truth, strict=True):
        assert got.dtype == dtype
        ours_off = (got.double() - wanted).abs().max()
        assert ours_off <= 2 * (plain.double() - wanted).abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_lower_the_accumulation(backend: str) -> None:
    arguments = make(torch.float32)
    wanted = hard_search_attention(**arguments, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = hard_search_attention(**arguments, backend=backend)
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_captured_by_compile_without_graph_break(backend: str | None) -> None:
    arguments = make(torch.float32)
    compiled = torch.compile(hard_search_attention, fullgraph=True, backend="aot_eager")
    leaves = {
        n: v.clone().requires_grad_() if n in FLOAT_ARGUMENTS else v for n, v in arguments.items()
    }
    got = compiled(**leaves, backend=backend)
    wanted = run_with_gradients(arguments, backend=backend)
    cotangent = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(got, [leaves[n] for n in FLOAT_ARGUMENTS], cotangent)
    for ours, plain in zip([got, *grads], wanted, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("query", lambda t: t[0], "query must have 5 dimensions"),
        ("query", lambda t: t.int(), "query must be float32"),
        ("key_table", lambda t: t[:, :1], "key_table must have shape"),
        ("key_table", lambda t: t.float(), "key_table must be float64"),
        ("key_table", lambda t: t[:0], "key_table must have at least one row"),
        ("value_table", lambda t: t[:-1], "value_table must have shape"),
        ("tokens", lambda t: t[:, 0], "tokens must have 2 dimensions"),
        ("tokens", lambda t: t + 5, r"tokens must be in \[0, 9\)"),
        ("tokens", lambda t: t - 5, r"tokens must be in \[0, 9\)"),
        ("positions", lambda t: t[:, :1], "positions must have shape"),
        ("positions", lambda t: t + 17, r"positions must be in \[-1, 17\)"),
        ("positions", lambda t: t - 1, r"positions must be in \[-1, 17\), held -2"),
        ("lengths", lambda t: t[..., None], "lengths must have shape"),
        ("lengths", lambda t: t + 1, r"lengths must be in \[0, 6\), held 6"),
        ("lengths", lambda t: t.float(), "lengths must be int32"),
    ],
)
def test_bad_input(name: str, change: object, match: str, backend: str | None) -> None:
    arguments = make()
    arguments[name] = change(arguments[name])
    with pytest.raises(ValueError, match=match):
        hard_search_attention(**arguments, backend=backend)


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="fast"):
        hard_search_attention(**make(), backend="fast")
