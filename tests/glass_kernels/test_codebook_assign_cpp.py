"""The C++ kernel of codebook assignment against the reference: values and every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from glass_kernels import codebook_assign
from glass_kernels.codebook_assign.library import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ library is not built")
FLOATS = ("query", "codebook")
EXACT = {torch.float64: 1e-12, torch.float32: 2e-5}
USED = [("assigned",), ("loss",), ("assigned", "loss")]


@pytest.fixture(params=["base", "avx2", "avx512"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vector width; one that the processor lacks is its widest."""
    monkeypatch.setenv("GLASS_CPU_SIMD", request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def problem(
    rows: int = 7,
    width: int = 5,
    codes: int = 6,
    *,
    dtype: torch.dtype = torch.float64,
    ids: torch.dtype = torch.int64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Logits of a deviation near 1; every third target is ignored."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, width, generator=g, dtype=torch.float64) / max(1, width) ** 0.5
    codebook = torch.randn(codes, width, generator=g, dtype=torch.float64)
    target = torch.randint(codes, (rows,), generator=g, dtype=ids)
    target[::3] = -100
    return {"query": query.to(dtype), "codebook": codebook.to(dtype), "target": target}


def cotangents(query: Tensor) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    of_assigned, of_loss = (
        torch.randn(*size, generator=g, dtype=torch.float64)
        for size in (query.shape, query.shape[:1])
    )
    sums = torch.float64 if query.dtype == torch.float64 else torch.float32
    return {"assigned": of_assigned.to(query.dtype), "loss": of_loss.to(sums)}


def run(
    arguments: dict[str, Tensor],
    backend: str = "cpp",
    *,
    temperature: float = 1.0,
    used: tuple[str, ...] = ("assigned", "loss"),
    wanted: tuple[str, ...] = FLOATS,
) -> dict[str, Tensor]:
    """Results, and the gradients of the `wanted` arguments from the `used` results."""
    leaves = {n: value.detach().requires_grad_(n in wanted) for n, value in arguments.items()}
    assigned, index, loss = codebook_assign(**leaves, temperature=temperature, backend=backend)
    results = {"assigned": assigned, "index": index}
    if loss is not None:
        results["loss"] = loss
    of_results = cotangents(leaves["query"])
    used = tuple(name for name in used if name in results)
    grads = torch.autograd.grad(
        [results[name] for name in used],
        [leaves[name] for name in wanted],
        [of_results[name] for name in used],
    )
    found = {name: value.detach() for name, value in results.items()}
    return {**found, **dict(zip(wanted, grads, strict=True))}


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        within = EXACT.get(value.dtype, 0)
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=within * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_equals_reference(arguments: dict[str, Tensor], **options: Any) -> None:
    assert_equal(run(arguments, **options), run(arguments, "reference", **options))


def test_default_on_cpu() -> None:
    arguments = problem(300, 40, 30)
    found = codebook_assign(**arguments)
    for got, wanted in zip(found, codebook_assign(**arguments, backend="cpp"), strict=True):
        assert torch.equal(got, wanted)
    assert codebook_assign(arguments["query"], arguments["codebook"])[2] is None


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    ("rows", "width", "codes"),
    [
        (1, 1, 1), (1, 4, 9), (13, 1, 7), (5, 33, 2), (97, 16, 16), (61, 64, 17), (130, 130, 100),
        (250, 7, 255), (31, 40, 257), (20, 300, 600), (6, 0, 5),
    ],
)  # fmt: skip
def test_equals_reference(
    rows: int, width: int, codes: int, temperature: float, dtype: torch.dtype
) -> None:
    assert_equals_reference(problem(rows, width, codes, dtype=dtype), temperature=temperature)


@pytest.mark.usefixtures("simd", "poisoned")
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 80),
    width=st.integers(1, 40),
    codes=st.integers(1, 70),
    ids=st.sampled_from([torch.int32, torch.int64]),
    with_target=st.booleans(),
    temperature=st.sampled_from([1.0, 0.5, 3.0]),
    used=st.sampled_from(USED),
    wanted=st.sampled_from([FLOATS, ("query",), ("codebook",)]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_any_shape(
    rows, width, codes, ids, with_target, temperature, used, wanted, threads, seed
) -> None:
    arguments = problem(rows, width, codes, ids=ids, seed=seed)
    if not with_target:
        del arguments["target"]
        used = ("assigned",)
    torch.set_num_threads(threads)
    try:
        assert_equals_reference(arguments, temperature=temperature, used=used, wanted=wanted)
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("simd")
def test_large_codebook() -> None:
    assert_equals_reference(problem(60, 20, 5000, dtype=torch.float32), temperature=0.9)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codes", [3, 16, 100, 300])
def test_lowest_index_of_exact_ties(codes: int, dtype: torch.dtype) -> None:
    """Small integers, whose logits are exact: most rows have several largest."""
    g = torch.Generator().manual_seed(0)
    query = torch.randint(-1, 2, (400, 6), generator=g).to(dtype)
    codebook = torch.randint(-1, 2, (codes, 6), generator=g).to(dtype)
    _, index, _ = codebook_assign(query, codebook, backend="cpp")
    logits = query.double() @ codebook.double().T
    assert torch.equal(index, logits.argmax(1))
    assert (logits == logits.amax(1, keepdim=True)).sum(1).gt(1).any()


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("position", [0, 5, 37, 259, 299])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_codes_that_are_not_finite(value: float, position: int) -> None:
    query, codebook = torch.ones(3, 1), torch.linspace(-1, 1, 300)[:, None]
    codebook[position] = value
    query[1] = 0  # 0 * inf is NaN
    target = torch.tensor([1, 1, -100])
    got, wanted = (
        codebook_assign(query, codebook, target, backend=name) for name in ("cpp", "reference")
    )
    assert torch.equal(got[1], wanted[1])
    torch.testing.assert_close(got[2], wanted[2], equal_nan=True)


@pytest.mark.usefixtures("poisoned")
def test_all_targets_ignored() -> None:
    arguments = problem(40, 6, 9)
    arguments["target"].fill_(-100)
    found = run(arguments, used=("loss",))
    assert all((found[name] == 0).all() for name in ("loss", *FLOATS))
    assert_equals_reference(arguments)


@pytest.mark.usefixtures("poisoned")
def test_gradcheck_of_the_loss() -> None:
    query, codebook, target = problem().values()
    leaves = query.requires_grad_(), codebook.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *both: codebook_assign(*both, target, backend="cpp")[2], leaves
    )


class SoftCode(torch.autograd.Function):
    """The soft code itself, with the kernel's gradient: what straight-through passes on."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, codebook: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(query, codebook)
        ctx.temperature = temperature
        return torch.softmax(query @ codebook.T / temperature, 1) @ codebook

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        none, saved = torch.empty(0, dtype=grad.dtype), ctx.saved_tensors
        return *torch.ops.glass.codebook_assign_backward(
            grad.contiguous(), None, *saved, None, none, ctx.temperature, True, True
        ), None  # fmt: skip


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradcheck_of_the_soft_code(temperature: float) -> None:
    query, codebook, _ = problem().values()
    leaves = query.requires_grad_(), codebook.requires_grad_(), temperature
    assert torch.autograd.gradcheck(SoftCode.apply, leaves)


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width", "codes"), [(280, 48, 40), (31, 7, 100), (500, 128, 64)])
def test_half_precision_error_at_most_twice_eager(
    rows: int, width: int, codes: int, dtype: torch.dtype
) -> None:
    half = problem(rows, width, codes, dtype=dtype)
    exact = {n: v.double() if v.is_floating_point() else v for n, v in half.items()}
    truth, got, plain = run(exact, "reference"), run(half), run_eager(half)
    assert torch.equal(got["assigned"], half["codebook"][got["index"]])
    for name in ("loss", *FLOATS):
        off = (got[name].double() - truth[name]).abs().max()
        assert off <= 2 * (plain[name].double() - truth[name]).abs().max(), name


def run_eager(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Written plainly, in the dtype of the arguments."""
    query, codebook = (arguments[name].detach().requires_grad_() for name in FLOATS)
    logits = query @ codebook.T
    soft = logits.softmax(1) @ codebook
    loss = cross_entropy(logits, arguments["target"], reduction="none")
    of_results = [value.to(query.dtype) for value in cotangents(query).values()]
    grads = torch.autograd.grad([soft, loss], [query, codebook], of_results)
    return {"loss": loss.detach(), **dict(zip(FLOATS, grads, strict=True))}


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("size", [50.0, 3e4])
def test_weights_that_vanish(size: float) -> None:
    """Logits so far apart that all but one weight underflow."""
    arguments = problem(50, 8, 30, dtype=torch.float32)
    arguments["query"] *= size
    for temperature in (1.0, 0.5):
        found = run(arguments, temperature=temperature)
        assert all(value.isfinite().all() for value in found.values())
        assert_equal(found, run(arguments, "reference", temperature=temperature))


def test_one_broken_row_stays_alone() -> None:
    arguments = problem(40, 9, 20, dtype=torch.float32)
    clean = run(arguments, wanted=("query",))
    arguments["query"][13] = float("nan")
    broken = run(arguments, wanted=("query",))
    others = torch.arange(40) != 13
    for name, value in clean.items():
        assert torch.equal(broken[name][others], value[others]), name
    assert broken["query"][13].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_and_expanded_gradients(dtype: torch.dtype) -> None:
    arguments = problem(20, 10, 12, dtype=dtype)
    strided = {
        "query": arguments["query"].T.contiguous().T,
        "codebook": arguments["codebook"].repeat(1, 2)[:, :10],
        "target": arguments["target"].repeat_interleave(2)[::2],
    }
    assert_equal(run(strided), run(arguments, "reference"))
    grads = []
    for backend in ("cpp", "reference"):
        leaf = arguments["query"].detach().requires_grad_()
        assigned, _, loss = codebook_assign(leaf, *list(arguments.values())[1:], backend=backend)
        (assigned.sum() + loss.sum()).backward()  # gradients of stride 0
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_same_bits_again(count: int) -> None:
    arguments = problem(700, 40, 50, dtype=torch.float32)
    torch.set_num_threads(count)
    first = run(arguments)
    for _ in range(3):
        again = run(arguments)
        assert all(torch.equal(again[name], value) for name, value in first.items())
    assert_equal(first, run(arguments, "reference"))


def test_no_second_derivative() -> None:
    query, codebook, _ = problem().values()
    assigned, _, _ = codebook_assign(query.requires_grad_(), codebook, backend="cpp")
    (grad,) = torch.autograd.grad(assigned.sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; backend='reference'"):
        torch.autograd.grad(grad.sum(), query)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    query, codebook, target = problem(dtype=dtype).values()
    op, backward = torch.ops.glass.codebook_assign, torch.ops.glass.codebook_assign_backward
    leaves = query.clone().requires_grad_(), codebook.clone().requires_grad_()
    for targets in (target, None):
        torch.library.opcheck(op, (*leaves, targets, 0.7))
    log_sum_exp = op(query, codebook, target, 0.7)[3]
    of_assigned, of_loss = cotangents(query).values()
    for grads, of_query, of_codebook in (
        ((of_assigned, of_loss), True, True),
        ((of_assigned, None), True, False),
        ((None, of_loss), False, True),
    ):
        torch.library.opcheck(
            backward, (*grads, query, codebook, target, log_sum_exp, 0.7, of_query, of_codebook)
        )


def test_compiles_without_a_graph_break_forward_and_backward() -> None:
    arguments = problem(30, 8, 9, dtype=torch.float32)

    def total(query: Tensor, codebook: Tensor, target: Tensor) -> Tensor:
        assigned, index, loss = codebook_assign(query, codebook, target, temperature=0.5)
        assert loss is not None
        return (assigned * assigned).sum() + (loss * index).sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    results = []
    for function in (total, compiled):
        leaves = {n: v.detach().requires_grad_(n in FLOATS) for n, v in arguments.items()}
        function(**leaves).backward()
        results.append({name: leaves[name].grad for name in FLOATS})
    assert_equal(results[1], results[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(7, 5, dtype=torch.int64)}, "dtype of query"),
        ({"query": torch.zeros(7)}, "query must have 2"),
        ({"codebook": torch.zeros(6, 4)}, "codebook must have 5 columns"),
        ({"codebook": torch.zeros(6, 5).half()}, "codebook must have the dtype"),
        ({"codebook": torch.zeros(0, 5)}, "codebook must have at least one code"),
        ({"target": torch.zeros(6, dtype=torch.int64)}, "target must have one entry"),
        ({"target": torch.zeros(7)}, "target must be int32"),
        ({"target": torch.full((7,), 6)}, "target must be a code"),
        ({"target": torch.full((7,), -1)}, "target must be a code"),
        ({"target": torch.full((7,), 2**40)}, "target must be a code"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"grad_assigned": torch.zeros(7, 4)}, "grad_assigned must have"),
        ({"grad_assigned": torch.zeros(7, 5).double()}, "grad_assigned must have"),
        ({"grad_loss": torch.zeros(6)}, "grad_loss must have"),
        ({"grad_loss": torch.zeros(7).double()}, "grad_loss must have"),
        ({"log_sum_exp": torch.zeros(0)}, "log_sum_exp must have"),
        ({"target": None}, "grad_loss must come with a target"),
    ],
)
def test_raw_ops_keep_memory_safe(changes: dict[str, Any], message: str) -> None:
    given = {
        "grad_assigned": torch.zeros(7, 5), "grad_loss": torch.zeros(7),
        **problem(dtype=torch.float32), "log_sum_exp": torch.zeros(7), "temperature": 1.0,
        **changes,
    }  # fmt: skip
    forward = ("query", "codebook", "target", "temperature")
    if changes.keys() & set(forward) and given["target"] is not None:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.glass.codebook_assign(*(given[name] for name in forward))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.glass.codebook_assign_backward(*given.values(), True, True)
