"""The C++ attention against the gather: odd shapes, vector widths, threads, shared sets, faults."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels.hard_search_attention import hard_search_attention
from glass_kernels.hard_search_attention.library import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ operators are not built")

FLOAT_ARGUMENTS = ("query", "key_table", "value_table")
SIMD = ["base", "avx2", "avx512"]

Problem = dict[str, Tensor]


def problem(
    shape: tuple[int, int, int] = (3, 4, 2),
    heads: tuple[int, int] = (2, 4),
    *,
    most: int = 5,
    per_event: int = 3,
    num_events: int = 17,
    num_tokens: int = 9,
    distinct: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    """Random sets of every length, with absent positions among them; `distinct` per user."""
    generator = torch.Generator().manual_seed(seed)

    def below(high: int, *size: int) -> Tensor:
        return torch.randint(0, high, size, generator=generator, dtype=torch.int32)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    users, sets, _ = shape
    positions = below(num_events + 1, users, sets, most) - 1
    lengths = below(most + 1, users, sets)
    if distinct is not None:
        copied = below(distinct, users, sets).clamp(max=max(sets - 1, 0)).long()
        positions = positions.gather(1, copied[..., None].expand_as(positions))
        lengths = lengths.gather(1, copied)
    return {
        "query": normal(*shape, *heads),
        "key_table": normal(num_tokens, *heads),
        "value_table": normal(num_tokens, *heads),
        "tokens": below(num_tokens, num_events, per_event),
        "positions": positions.contiguous(),
        "lengths": lengths.contiguous(),
    }


def results(arguments: Problem, **options: object) -> list[Tensor]:
    """Output and every gradient for a fixed random cotangent."""
    leaves = {
        name: value.detach().clone().requires_grad_(name in FLOAT_ARGUMENTS)
        for name, value in arguments.items()
    }
    out = hard_search_attention(**leaves, **options)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(out, [leaves[n] for n in FLOAT_ARGUMENTS], cotangent.to(out.dtype))
    return [out.detach(), *grads]


def assert_equals_gather(arguments: Problem, scale: float = 0.7, tolerance: float = 1e-12) -> None:
    ours = results(arguments, scale=scale, backend="cpp")
    exact = {
        name: value.double() if name in FLOAT_ARGUMENTS else value
        for name, value in arguments.items()
    }
    for got, wanted in zip(ours, results(exact, scale=scale, backend="reference"), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    size = st.integers(0, 5)
    return problem(
        (draw(size), draw(size), draw(st.integers(0, 9))),
        (draw(st.integers(1, 19)), draw(st.integers(1, 37))),
        most=draw(st.integers(0, 40)),
        per_event=draw(st.integers(0, 4)),
        num_events=draw(st.integers(0, 50)),
        num_tokens=draw(st.integers(1, 60)),
        distinct=draw(st.sampled_from([None, 1, 2])),
        seed=draw(st.integers(0, 999)),
    )


@settings(max_examples=150, deadline=None)
@given(problems())
def test_equals_gather(arguments: Problem) -> None:
    assert_equals_gather(arguments)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("simd", SIMD)
def test_every_vector_width(monkeypatch: pytest.MonkeyPatch, simd: str, dtype: torch.dtype) -> None:
    """A width the processor lacks is its widest. Heads fill vectors, spill over them, or split."""
    monkeypatch.setenv("GLASS_CPU_SIMD", simd)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for heads in [(1, 1), (1, 7), (2, 64), (3, 5), (6, 16), (8, 3), (12, 8), (17, 2)]:
        for width in (1, 2, 3, 4, 5, 9):
            arguments = problem((2, 3, width), heads, most=20, num_tokens=33, dtype=dtype)
            assert_equals_gather(arguments, tolerance=tolerance)


@pytest.mark.usefixtures("poisoned")
def test_sets_of_every_size() -> None:
    """Bags of 0, 1, 2, ... tokens: every remainder of a tile."""
    arguments = problem((1, 30, 3), (3, 4), most=30, per_event=1, num_events=40, num_tokens=40)
    arguments["tokens"] = torch.arange(40, dtype=torch.int32)[:, None]
    arguments["positions"] = torch.arange(30, dtype=torch.int32).expand(1, 30, 30).clone()
    arguments["lengths"] = torch.arange(30, dtype=torch.int32)[None]
    assert_equals_gather(arguments)


def test_absent_positions_before_the_length_do_not_count() -> None:
    arguments = problem((3, 9, 2), most=12)
    inside = torch.arange(12) < arguments["lengths"][..., None]
    assert ((arguments["positions"] < 0) & inside).any()
    assert_equals_gather(arguments)
    arguments["positions"] = torch.full_like(arguments["positions"], -1)
    for result in results(arguments, backend="cpp"):
        assert (result == 0).all()


def test_equal_sets_share_a_bag_and_change_nothing() -> None:
    """Beams of few codes; each set by itself gives the same bits."""
    shared = problem((2, 20, 1), (6, 16), most=30, num_tokens=50, distinct=3, dtype=torch.float32)
    together = results(shared, backend="cpp")
    alone = {n: v.flatten(0, 1)[:, None] if n not in ("tokens", *FLOAT_ARGUMENTS[1:]) else v
             for n, v in shared.items()}  # fmt: skip
    apart = results(alone, backend="cpp")
    for i in (0, 1):
        assert torch.equal(together[i].flatten(), apart[i].flatten())
    for i in (2, 3):
        torch.testing.assert_close(together[i], apart[i])
    assert_equals_gather(shared, tolerance=1e-5)


def test_sets_that_differ_in_one_position_do_not_share() -> None:
    """All have one hash: it looks at a few positions only."""
    arguments = problem((1, 8, 2), most=9, num_events=30, num_tokens=60, per_event=2)
    positions = torch.arange(9, dtype=torch.int32).expand(1, 8, 9).clone()
    positions[0, :, 2] = torch.arange(10, 18)
    arguments["positions"] = positions
    arguments["lengths"] = torch.full((1, 8), 9, dtype=torch.int32)
    assert_equals_gather(arguments)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_give_the_same_numbers_twice(threads: int) -> None:
    """Enough work for three parts; one user has most of it."""
    arguments = problem(
        (5, 16, 6), (6, 16), most=60, num_events=300, num_tokens=200, dtype=torch.float32
    )
    arguments["lengths"][1:] //= 4
    one = results(arguments, backend="cpp")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, second = (results(arguments, backend="cpp") for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    for i in (0, 1):  # a query's own numbers do not depend on the threads
        assert torch.equal(first[i], one[i])
    for i in (2, 3):
        torch.testing.assert_close(first[i], one[i])
    assert_equals_gather(arguments, tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_expanded_cotangent(dtype: torch.dtype) -> None:
    arguments = problem(dtype=dtype)
    query = arguments.pop("query").requires_grad_()
    hard_search_attention(query, **arguments, backend="cpp").sum().backward()
    wanted = query.grad
    query.grad = None
    out = hard_search_attention(query, **arguments, backend="cpp")
    out.backward(torch.ones(out.shape, dtype=dtype))
    assert torch.equal(query.grad, wanted)


@pytest.mark.parametrize("needed", FLOAT_ARGUMENTS)
def test_one_gradient_alone(needed: str) -> None:
    arguments = problem()
    wanted = dict(zip(("out", *FLOAT_ARGUMENTS), results(arguments, backend="cpp"), strict=True))
    leaf = arguments[needed].requires_grad_()
    out = hard_search_attention(**arguments, backend="cpp")
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad(out, leaf, cotangent.to(out.dtype))
    assert torch.equal(grad, wanted[needed])


def test_a_second_derivative_is_refused() -> None:
    arguments = problem()
    leaf = arguments["query"].requires_grad_()
    out = hard_search_attention(**arguments, backend="cpp")
    (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative; 'reference' has"):
        grad.sum().backward()


def test_scores_far_apart() -> None:
    """Weights that vanish, and scores of which only the difference can be exponentiated."""
    arguments = problem((2, 3, 2), (2, 4), most=12, dtype=torch.float32)
    for offset in (-3e4, 0.0, 3e4):
        shifted = {**arguments, "key_table": arguments["key_table"] * 30 + offset / 4}
        shifted["query"] = torch.ones_like(arguments["query"])
        assert_equals_gather(shifted, scale=1.0, tolerance=1e-2 if offset else 1e-4)


def test_a_nan_reaches_its_own_results_only() -> None:
    arguments = problem((1, 2, 1), (2, 3), most=2, num_tokens=9, num_events=2, dtype=torch.float32)
    arguments["tokens"] = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    arguments["positions"] = torch.tensor([[[0, -1], [1, -1]]], dtype=torch.int32)
    arguments["lengths"] = torch.ones(1, 2, dtype=torch.int32)
    arguments["key_table"][1, 0] = torch.nan
    out = hard_search_attention(**arguments, backend="cpp")
    assert out[0, 0, 0, 0].isnan().all()
    assert out[0, 0, 0, 1].isfinite().all()
    assert out[0, 1].isfinite().all()


def test_tokens_of_events_that_no_set_holds_are_not_read() -> None:
    arguments = problem()
    arguments["positions"].clamp_(max=5)
    wanted = hard_search_attention(**arguments, backend="cpp")
    arguments["tokens"][6:] = 2**31 - 1
    assert torch.equal(hard_search_attention(**arguments, backend="cpp"), wanted)
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 9\), held 2147483647"):
        hard_search_attention(**arguments, backend="eager")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_raw_op_stays_in_bounds(dtype: torch.dtype) -> None:
    arguments = problem(most=6)
    arguments["lengths"][:] = 6
    for name in ("tokens", "positions", "lengths"):
        arguments[name] = arguments[name].to(dtype)
    forward = torch.ops.glass.hard_search_attention
    backward = torch.ops.glass.hard_search_attention_backward
    grad = torch.zeros_like(arguments["query"])
    far = torch.iinfo(dtype).max
    mistakes = {"tokens": (9, -1, far), "positions": (17, -2, far), "lengths": (7, -1)}
    for name, value in [(name, value) for name, values in mistakes.items() for value in values]:
        wrong = {n: v.clone() for n, v in arguments.items()}
        if name == "tokens":
            wrong[name][:] = value
        else:
            wrong[name].view(-1)[-1] = value
        for op, first in ((forward, ()), (backward, (grad,))):
            with pytest.raises(RuntimeError, match=f"{name} must be in .*, held {value}"):
                op(*first, *wrong.values(), 1.0)


def test_raw_op_checks_shapes() -> None:
    arguments = problem()
    op = torch.ops.glass.hard_search_attention
    for name, change in [
        ("query", lambda t: t[0]),
        ("key_table", lambda t: t[:, :1]),
        ("key_table", lambda t: t[:-1]),
        ("value_table", lambda t: t.float()),
        ("tokens", lambda t: t.float()),
        ("positions", lambda t: t[:1]),
        ("lengths", lambda t: t[:, :1]),
    ]:
        with pytest.raises(RuntimeError):
            op(*{**arguments, name: change(arguments[name])}.values(), 1.0)
    with pytest.raises(RuntimeError, match="grad must have"):
        torch.ops.glass.hard_search_attention_backward(
            arguments["query"][:1], *arguments.values(), 1.0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    arguments = problem(dtype=dtype)
    strided = arguments["query"].transpose(0, -1).contiguous().transpose(0, -1)
    for query in (arguments["query"], strided):
        leaves = [query.requires_grad_(), *list(arguments.values())[1:]]
        leaves[1:3] = [leaf.requires_grad_() for leaf in leaves[1:3]]
        torch.library.opcheck(torch.ops.glass.hard_search_attention, (*leaves, 0.5))
    detached = [value.detach() for value in arguments.values()]
    torch.library.opcheck(
        torch.ops.glass.hard_search_attention_backward, (detached[0], *detached, 0.5)
    )
