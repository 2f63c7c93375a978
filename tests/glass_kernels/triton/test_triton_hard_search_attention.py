"""Attention over retrieved items in Triton against the reference, values and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels import hard_search_attention
from glass_kernels.hard_search_attention import triton_backward, triton_common, triton_forward
from glass_kernels.hard_search_attention.bag import token_counts
from glass_kernels.hard_search_attention.triton_settings import FORWARD, TABLE_GRADS, Settings

OP = torch.ops.glass.hard_search_attention_triton
LEAVES = ("query", "key_table", "value_table")
KERNELS = (
    triton_forward._attention_fwd_kernel,
    triton_backward._query_grad_kernel,
    triton_backward._table_grads_kernel,
)
Problem = dict[str, Any]


def problem(
    shape: tuple[int, int, int, int, int] = (3, 4, 2, 2, 16),
    *,
    most: int = 5,
    per_item: int = 3,
    num_tokens: int = 9,
    num_events: int = 17,
    dtype: torch.dtype = torch.float32,
    ids: torch.dtype = torch.int32,
    device: torch.device,
    seed: int = 0,
) -> Problem:
    """Sets whose lengths run from 0 to M; tokens repeat; some events before the length are -1."""
    generator = torch.Generator().manual_seed(seed)
    num_users, num_sets, *_ = shape
    lengths = torch.arange(num_users * num_sets).view(num_users, num_sets) % (most + 1)
    low = -1 if most > 2 else 0
    positions = torch.randint(low, num_events, (num_users, num_sets, most), generator=generator)
    positions[torch.arange(most) >= lengths[..., None]] = num_events - 1  # is not looked at
    tokens = torch.randint(0, num_tokens, (num_events, per_item), generator=generator)
    table = (num_tokens, *shape[3:])
    floats = (torch.randn(size, generator=generator).to(dtype) for size in (shape, table, table))
    found = [*floats, tokens.to(ids), positions.to(ids), lengths.to(ids)]
    names = (*LEAVES, "tokens", "positions", "lengths")
    return {name: t.to(device) for name, t in zip(names, found, strict=True)} | {"scale": 0.4}


def wide(given: Problem) -> Problem:
    return given | {name: given[name].double() for name in LEAVES}


def results(given: Problem, backend: str) -> list[Tensor]:
    """Output, and the gradients of LEAVES for a fixed random cotangent."""
    leaves = {name: given[name].detach().requires_grad_() for name in LEAVES}
    out = hard_search_attention(**(given | leaves), backend=backend)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    if given["lengths"].dtype == torch.int64:  # rounded alike for every dtype that is compared
        cotangent = cotangent.bfloat16().float()
    cotangent = cotangent.to(out)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), cotangent)]


def assert_right(given: Problem) -> None:
    exact = results(wide(given), "reference")
    for ours, wanted in zip(results(given, "triton"), exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((3, 4, 2, 2, 16), {}),
        ((2, 7, 3, 1, 24), {"most": 33, "num_tokens": 130}),  # a set lies in two tiles
        ((1, 1, 1, 1, 1), {"most": 1, "num_tokens": 1, "num_events": 1, "per_item": 1}),
        ((1, 3, 70, 1, 8), {"num_tokens": 65, "per_item": 2}),
        ((4, 20, 1, 3, 16), {"num_tokens": 64, "most": 2}),
        ((2, 2, 1, 1, 128), {"num_tokens": 40}),
        ((1, 2, 2, 2, 100), {"num_tokens": 20, "per_item": 5}),
    ],
)
def test_equals_reference(shape, sizes: dict[str, int], device) -> None:
    assert_right(problem(shape, **sizes, device=device))


@pytest.mark.parametrize(("num_tokens", "bins"), [(9, 64), (130, 256), (130, 32)])
def test_bag(num_tokens: int, bins: int, device, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(num_tokens=num_tokens, most=33, device=device)
    sets = triton_common.flat_sets(given["tokens"], given["positions"], given["lengths"])
    stride = triton_common.padded(num_tokens)
    bias = torch.full((13, stride), float("nan"), device=device)  # a row too many
    monkeypatch.setattr(torch, "empty", lambda *_, **__: bias)
    monkeypatch.setattr(triton_common, "MAX_BINS", bins)
    triton_common.make_bias(*sets, num_tokens)
    expected = token_counts(given["tokens"], given["positions"], given["lengths"], num_tokens)
    torch.testing.assert_close(bias[:12, :num_tokens], expected.flatten(0, 1).float().log2())
    assert (bias[:12, num_tokens:] == -float("inf")).all()
    assert bias[12].isnan().all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_error_at_most_twice_eager(dtype: torch.dtype, device) -> None:
    given = problem((4, 6, 3, 2, 24), most=20, num_events=60, num_tokens=70, dtype=dtype,
                    ids=torch.int64, device=device)  # fmt: skip
    exact, plain = results(wide(given), "reference"), all_in_half(given)
    for ours, eager, wanted in zip(results(given, "triton"), plain, exact, strict=True):
        assert ours.dtype == dtype
        error = (ours.double() - wanted).abs()
        other = (eager.double() - wanted).abs()
        assert error.max() <= 2 * other.max()
        assert error.mean() <= 2 * other.mean()


def all_in_half(given: Problem) -> list[Tensor]:
    """Plain PyTorch with every step in the tensors' own dtype, as one would write it."""
    query, keys, values = (given[name].detach().requires_grad_() for name in LEAVES)
    positions, tokens = given["positions"], given["tokens"]
    slots = torch.arange(positions.shape[2], device=positions.device)
    filled = (slots < given["lengths"][..., None]) & (positions >= 0)
    hidden = ~filled.repeat_interleave(tokens.shape[1], 2)[:, :, None, None]
    gathered = tokens[positions.clamp(min=0)].flatten(2)
    scores = torch.einsum("bsphd,bsthd->bspht", query, keys[gathered]) * given["scale"]
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
    out = torch.einsum("bspht,bsthd->bsphd", weights.masked_fill(hidden, 0), values[gathered])
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    cotangent = cotangent.bfloat16().to(out)
    return [out.detach(), *torch.autograd.grad(out, (query, keys, values), cotangent)]


def choices() -> list[Any]:
    every = {str(config): config for config in (*FORWARD.all(), *TABLE_GRADS.all())}
    return [pytest.param(config, id=name) for name, config in every.items()]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("config", choices())
def test_every_setting(config, device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "choices", lambda self, head, wide: [config])
    for kernel in KERNELS:
        kernel.cache.clear()
    assert_right(problem((2, 5, 9, 1, 16), num_tokens=70, device=device))
    for kernel in KERNELS:
        kernel.cache.clear()


@pytest.mark.usefixtures("poisoned")
def test_large_tables_and_many_sets_are_cut(device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_common, "MAX_BINS", 32)
    monkeypatch.setattr(triton_common, "BAG_SLOTS", 16)
    monkeypatch.setattr(triton_common, "BIAS_BYTES", 4 * 128 * 3)  # of three sets
    monkeypatch.setattr(triton_backward, "CHUNK_ROWS", 16)
    monkeypatch.setattr(triton_backward, "CHUNK_STEP", 16)
    assert triton_backward.chunk_rows(27, 100, 1) == 16
    assert_right(problem((1, 5, 9, 1, 8), most=7, num_tokens=100, device=device))


def test_same_bits_at_every_call(device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backward, "CHUNK_ROWS", 16)
    monkeypatch.setattr(triton_backward, "CHUNK_STEP", 16)
    given = problem((2, 5, 9, 1, 8), device=device)
    first = results(given, "triton")
    for _ in range(2 if device.type == "cpu" else 20):
        assert all(map(torch.equal, results(given, "triton"), first))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(0, 4, 2, 1, 16), (3, 0, 2, 1, 16), (3, 4, 0, 1, 16)])
def test_no_rows(shape, device) -> None:
    out, *grads = results(problem(shape, device=device), "triton")
    assert out.shape == shape
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("kind", ["lengths", "absent", "events", "slots", "levels"])
def test_empty_sets_give_zeros_and_zero_gradients(kind: str, device) -> None:
    given = problem((2, 3, 2, 1, 16), device=device)
    if kind == "lengths":
        given["lengths"].zero_()
    elif kind == "absent":
        given["positions"].fill_(-1)
    elif kind == "events":
        given["tokens"] = given["tokens"][:0]
        given["positions"].fill_(-1)
    elif kind == "slots":
        given["positions"], given["lengths"] = given["positions"][..., :0], given["lengths"] * 0
    else:
        given["tokens"] = given["tokens"][:, :0]
    for result in results(given, "triton"):
        assert (result == 0).all()


def test_nan_stays_in_its_set(device) -> None:
    given = problem((2, 3, 2, 1, 16), device=device)
    clean = results(given, "triton")
    given["query"][0, 0] = given["query"][1, 1] = float("nan")
    assert given["lengths"][0, 0] == 0
    assert given["lengths"][1, 1] > 0
    out, query_grad, *_ = results(given, "triton")
    for result, before in ((out, clean[0]), (query_grad, clean[1])):
        assert result[1, 1].isnan().all()
        others = torch.ones(2, 3, dtype=torch.bool, device=device)
        others[1, 1] = False
        assert torch.equal(result[others], before[others])


def test_large_scores(device) -> None:
    given = problem((2, 3, 2, 1, 16), device=device)
    given["query"] *= 1e4
    ours, exact = results(given, "triton"), results(wide(given), "reference")
    assert all(result.isfinite().all() for result in ours)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=2e-3, atol=2e-3)


def test_views_are_read_as_they_are(device) -> None:
    given = problem(device=device)
    wanted = results(given, "triton")
    views = {
        name: value.transpose(0, -1).contiguous().transpose(0, -1)
        for name, value in given.items()
        if name != "scale"
    }
    assert not any(view.is_contiguous() for view in views.values())
    for ours, other in zip(results(views | {"scale": 0.4}, "triton"), wanted, strict=True):
        assert torch.equal(ours, other)


def test_expanded_gradient(device) -> None:
    given = problem(device=device)
    grads = []
    for backend in ("triton", "reference"):
        query = given["query"].clone().requires_grad_()
        hard_search_attention(**(given | {"query": query}), backend=backend).sum().backward()
        grads.append(query.grad)
    torch.testing.assert_close(*grads)


def raw(given: Problem) -> tuple[Any, ...]:
    return tuple(given.values())


@pytest.mark.parametrize("wrong", [-(2**45), -2, 20, 2**31, 2**45])  # 20 is in the padding
def test_raw_op_stays_in_bounds(wrong: int, device) -> None:
    given = problem(ids=torch.int64, device=device)
    assert given["lengths"][0, 3] == 3
    wanted = {}
    for name, place, absent in (
        ("positions", (0, 3, 1), -1),
        ("lengths", (0, 3), 0 if wrong < 0 else 5),
    ):
        changed = given | {name: given[name].clone()}
        changed[name][place] = absent
        wanted[name] = OP(*raw(changed))[0]
        changed[name][place] = wrong
        assert torch.equal(OP(*raw(changed))[0], wanted[name])
    changed = given | {"tokens": given["tokens"].clone()}
    changed["tokens"][:, 1] = wrong
    fewer = given | {"tokens": given["tokens"][:, [0, 2]]}
    torch.testing.assert_close(OP(*raw(changed))[0], OP(*raw(fewer))[0])


def test_float64_and_wider_heads_are_for_other_backends(device) -> None:
    for case in (wide(problem(device=device)), problem((1, 2, 1, 1, 129), device=device)):
        with pytest.raises(RuntimeError, match="a head: backend 'triton' is not available"):
            hard_search_attention(**case, backend="triton")
        with pytest.raises(RuntimeError, match="must not be float64 and must have at most 128"):
            OP(*raw(case))
        assert hard_search_attention(**case).shape == case["query"].shape


def test_autocast_changes_nothing(device) -> None:
    given = problem(device=device)
    wanted = results(given, "triton")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for ours, other in zip(results(given, "triton"), wanted, strict=True):
            assert torch.equal(ours, other)


def test_opcheck(device) -> None:
    given = problem((2, 2, 1, 1, 16), device=device)
    for name in LEAVES:
        given[name].requires_grad_()
    torch.library.opcheck(OP, raw(given))
    out, log_sum = OP(*raw(given))
    assert not log_sum.requires_grad
    *inputs, scale = (t.detach() if isinstance(t, Tensor) else t for t in raw(given))
    backward = torch.ops.glass.hard_search_attention_triton_backward
    torch.library.opcheck(backward, (out.detach(), *inputs, out.detach(), log_sum, scale))


def test_second_derivative_is_refused(device) -> None:
    given = problem((1, 2, 1, 1, 16), device=device)
    query = given["query"].requires_grad_()
    out = hard_search_attention(**given, backend="triton")
    (grad,) = torch.autograd.grad(out.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_compiles_without_a_graph_break(device) -> None:
    given = problem((2, 2, 2, 1, 16), device=device)
    compiled = torch.compile(hard_search_attention, fullgraph=True, backend="aot_eager")
    leaves = [given[name].requires_grad_() for name in LEAVES]
    answers = []
    for run in (compiled, hard_search_attention):
        out = run(**given, backend="triton")
        answers.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for ours, plain in zip(*answers, strict=True):
        assert torch.equal(ours, plain)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_shape(device: torch.device, data: st.DataObject) -> None:
    def size(*some: int) -> int:
        return data.draw(st.sampled_from(some))

    shape = (size(1, 3), size(1, 2, 5), size(1, 2, 7), size(1, 3), size(1, 5, 17, 33))
    assert_right(
        problem(
            shape,
            most=size(0, 1, 2, 7, 40),
            per_item=size(1, 2, 3, 4),
            num_tokens=size(1, 2, 31, 64, 65, 100),
            num_events=size(1, 6, 50),
            ids=data.draw(st.sampled_from([torch.int32, torch.int64])),
            device=device,
            seed=data.draw(st.integers(0, 99)),
        )
    )
