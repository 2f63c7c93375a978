"""The C++ kernel of gated fusion against the reference: values and every gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels import gated_fusion
from glass_kernels.gated_fusion.library import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the C++ library is not built")
FLOATS = ("short", "retrieved", "weight", "bias", "gate_input")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WANTED = [
    FLOATS,
    ("retrieved",),
    ("weight",),
    ("bias",),
    ("short", "retrieved"),
    ("weight", "bias"),
]
EXACT = {torch.float64: 1e-12, torch.float32: 2e-5}


@pytest.fixture(params=["base", "avx2", "avx512"])
def simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vector width; one that the processor lacks is its widest."""
    monkeypatch.setenv("GLASS_CPU_SIMD", request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def problem(
    rows: tuple[int, ...] = (7,),
    width: int = 5,
    *,
    present: float = 0.6,
    with_gate_input: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Rows without retrieval hold NaN wherever nothing may look."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    values = {
        "short": normal(*rows, width),
        "retrieved": normal(*rows, width),
        "weight": normal(width, 2 * width) / width**0.5,
        "bias": normal(width),
    }
    if with_gate_input:
        values["gate_input"] = normal(*rows, width)
    kept = torch.rand(rows, generator=g) < present
    for name in ("retrieved", "gate_input"):
        if name in values:
            values[name][~kept] = math.nan
    values = {name: value.to(dtype) for name, value in values.items()}
    return {**values, "has_retrieval": kept}


def cotangents(like: Tensor) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    of_out, of_gate = torch.randn(2, *like.shape, generator=g, dtype=torch.float64).to(like.dtype)
    return of_out, of_gate


def run(
    arguments: dict[str, Tensor],
    backend: str = "cpp",
    *,
    use_out: bool = True,
    use_gate: bool = True,
    wanted: tuple[str, ...] = FLOATS,
) -> dict[str, Tensor]:
    """Results and the gradients of the `wanted` arguments that there are."""
    wanted = tuple(name for name in wanted if name in arguments)
    leaves = {
        name: value.detach().requires_grad_(name in wanted) for name, value in arguments.items()
    }
    out, gate = gated_fusion(**leaves, return_gate=True, backend=backend)
    of_out, of_gate = cotangents(out)
    results = [out] * use_out + [gate] * use_gate
    grads = torch.autograd.grad(
        results,
        [leaves[name] for name in wanted],
        [of_out] * use_out + [of_gate] * use_gate,
        materialize_grads=True,
    )
    return {"out": out.detach(), "gate": gate.detach(), **dict(zip(wanted, grads, strict=True))}


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        within = EXACT[value.dtype]
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=within * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_equals_reference(arguments: dict[str, Tensor], **options: object) -> None:
    assert_equal(run(arguments, **options), run(arguments, "reference", **options))


def test_default_on_cpu() -> None:
    arguments = problem()
    assert torch.equal(gated_fusion(**arguments), gated_fusion(**arguments, backend="cpp"))


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_gate_input", [False, True])
@pytest.mark.parametrize("width", [1, 2, 7, 16, 33, 96, 130])
@pytest.mark.parametrize("rows", [1, 13, 400])
def test_equals_reference(rows: int, width: int, with_gate_input: bool, dtype: torch.dtype) -> None:
    assert_equals_reference(problem((rows,), width, with_gate_input=with_gate_input, dtype=dtype))


@pytest.mark.usefixtures("simd", "poisoned")
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(0, 9), max_size=3),
    width=st.integers(1, 40),
    present=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    with_gate_input=st.booleans(),
    with_mask=st.booleans(),
    used=st.sampled_from([(True, True), (True, False), (False, True)]),
    wanted=st.sampled_from(WANTED),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_any_shape(
    rows, width, present, with_gate_input, with_mask, used, wanted, threads, seed
) -> None:
    arguments = problem(
        tuple(rows),
        width,
        present=present if with_mask else 1.0,
        with_gate_input=with_gate_input,
        seed=seed,
    )
    if not with_mask:
        del arguments["has_retrieval"]
    torch.set_num_threads(threads)
    try:
        assert_equals_reference(arguments, use_out=used[0], use_gate=used[1], wanted=wanted)
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("width", [700, 1500])
def test_sums_longer_than_the_cache(width: int) -> None:
    assert_equals_reference(problem((30,), width))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("with_gate_input", [False, True])
def test_gradcheck(with_gate_input: bool) -> None:
    arguments = problem((2, 4), 5, with_gate_input=with_gate_input)
    for name in ("retrieved", "gate_input"):
        if name in arguments:
            arguments[name] = arguments[name].nan_to_num()
    names = [name for name in FLOATS if name in arguments]

    def fuse(*floats: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, floats, strict=True))
        return gated_fusion(
            **given,
            has_retrieval=arguments["has_retrieval"],
            return_gate=True,
            backend="cpp",
        )

    leaves = [arguments[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(fuse, leaves)


@pytest.mark.usefixtures("simd", "poisoned")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_gate_input", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(280, 48), (31, 7), (1000, 128)])
def test_half_precision_error_at_most_twice_eager(
    rows: int, width: int, with_gate_input: bool, dtype: torch.dtype
) -> None:
    half = problem((rows,), width, with_gate_input=with_gate_input, dtype=dtype)
    exact = {n: v.double() if v.is_floating_point() else v for n, v in half.items()}
    truth, got, plain = run(exact, "reference"), run(half), run_eager(half)
    for name, value in got.items():
        assert value.dtype == dtype
        off = (value.double() - truth[name]).abs().max()
        assert off <= 2 * (plain[name].double() - truth[name]).abs().max(), name


def run_eager(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Written plainly, in the dtype of the arguments."""
    kept = arguments["has_retrieval"][..., None]
    names = [name for name in FLOATS if name in arguments]
    leaves = {name: arguments[name].detach().requires_grad_() for name in names}
    far = torch.where(kept, leaves["retrieved"], 0)
    first = torch.where(kept, leaves.get("gate_input", leaves["short"]), 0)
    logits = torch.cat([first, far], -1) @ leaves["weight"].T + leaves["bias"]
    gate = torch.sigmoid(logits) * kept
    out = leaves["short"] + gate * (far - leaves["short"])
    grads = torch.autograd.grad([out, gate], list(leaves.values()), cotangents(out))
    return {"out": out.detach(), "gate": gate.detach(), **dict(zip(names, grads, strict=True))}


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_of_any_logit(dtype: torch.dtype) -> None:
    logits = torch.tensor(
        [-math.inf, -1e30, -200, -104, -88.5, -87.5, -87, -20, -1, -1e-9, 0, 1e-9, 1, 20, 87, 89,
         200, 1e30, math.inf, math.nan]
    ).to(dtype)  # fmt: skip
    short = torch.zeros(len(logits), 1, dtype=dtype)
    weight = torch.tensor([[1.0, 0.0]], dtype=dtype)
    _, gate = gated_fusion(
        short, short, weight, short[0], gate_input=logits[:, None], return_gate=True, backend="cpp"
    )
    wanted = torch.sigmoid(logits.double()).to(dtype)[:, None]
    torch.testing.assert_close(gate, wanted, rtol=3 * torch.finfo(dtype).eps, atol=1e-38,
                               equal_nan=True)  # fmt: skip
    assert gate[0] == gate[1] == 0
    assert gate[16] == gate[17] == gate[18] == 1


def test_one_broken_row_stays_alone() -> None:
    arguments = problem((40,), 9, present=1.0, dtype=torch.float32)
    clean, _ = gated_fusion(**arguments, return_gate=True, backend="cpp")
    arguments["retrieved"][13] = math.nan
    broken, gate = gated_fusion(**arguments, return_gate=True, backend="cpp")
    others = torch.arange(40) != 13
    assert broken[13].isnan().all()
    assert gate[13].isnan().all()
    assert torch.equal(broken[others], clean[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_and_expanded_gradients(dtype: torch.dtype) -> None:
    arguments = problem((6, 8), 10, dtype=dtype)
    strided = {
        "short": arguments["short"].transpose(0, 1).contiguous().transpose(0, 1),
        "retrieved": arguments["retrieved"].repeat(1, 1, 2)[..., :10],
        "weight": arguments["weight"].T.contiguous().T,
        "bias": arguments["bias"].repeat(2)[::1][:10],
        "gate_input": arguments["gate_input"].flip(0).contiguous().flip(0),
        "has_retrieval": arguments["has_retrieval"].T.contiguous().T,
    }
    assert_equal(run(strided), run(arguments, "reference"))
    leaf = arguments["short"].requires_grad_()
    rest = {name: value for name, value in arguments.items() if name != "short"}
    for backend in ("cpp", "reference"):
        gated_fusion(short=leaf, **rest, backend=backend).sum().backward()  # a gradient of stride 0
    assert leaf.grad is not None
    twice = leaf.grad
    leaf.grad = None
    gated_fusion(short=leaf, **rest, backend="cpp").sum().backward()
    torch.testing.assert_close(2 * leaf.grad, twice)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_same_bits_again(count: int) -> None:
    arguments = problem((700,), 40, dtype=torch.float32)
    torch.set_num_threads(count)
    first = run(arguments)
    for _ in range(3):
        again = run(arguments)
        for name, value in first.items():
            assert torch.equal(
                again[name],
                value,
            ), name
    assert_equal(first, run(arguments, "reference"))


def test_no_second_derivative() -> None:
    arguments = problem((3,), 4, present=1.0)
    short = arguments.pop("short").requires_grad_()
    out = gated_fusion(short, **arguments, backend="cpp")
    (grad,) = torch.autograd.grad(out.sum(), short, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; backend='reference'"):
        torch.autograd.grad(grad.sum(), short)


@pytest.mark.parametrize("with_gate_input", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(with_gate_input: bool, dtype: torch.dtype) -> None:
    arguments = problem((4,), 6, with_gate_input=with_gate_input, dtype=dtype, present=1.0)
    order = ("short", "retrieved", "weight", "bias", "has_retrieval", "gate_input")
    leaves = [
        value.requires_grad_(value.is_floating_point()) if value is not None else None
        for value in (arguments.get(name) for name in order)
    ]
    torch.library.opcheck(torch.ops.glass.gated_fusion, leaves)
    short, retrieved, weight, _, has_retrieval, gate_input = [
        None if leaf is None else leaf.detach() for leaf in leaves
    ]
    of_out, of_gate = cotangents(short)
    for grads, of_inputs, of_weights in (
        ((of_out, of_gate), True, True),
        ((of_out, None), True, False),
        ((None, of_gate), False, True),
    ):
        torch.library.opcheck(
            torch.ops.glass.gated_fusion_backward,
            (*grads, short, retrieved, weight, short, has_retrieval, gate_input, of_inputs,
             of_weights),
        )  # fmt: skip


def test_compiles_without_a_graph_break_forward_and_backward() -> None:
    arguments = problem((6, 3), 10, dtype=torch.float32)

    def loss(short: Tensor, **rest: Tensor) -> Tensor:
        out, gate = gated_fusion(short, **rest, return_gate=True, backend="cpp")
        return (out * out).sum() + gate.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        leaves = {n: v.detach().requires_grad_(n in FLOATS) for n, v in arguments.items()}
        function(**leaves).backward()
        results.append({name: leaves[name].grad for name in FLOATS})
    assert_equal(results[1], results[0])


OP = torch.ops.glass.gated_fusion if AVAILABLE else None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short": torch.zeros(7, 5, dtype=torch.int64)}, "dtype of short"),
        ({"short": torch.zeros(())}, "at least one dimension"),
        ({"retrieved": torch.zeros(6, 5)}, "retrieved must have the shape"),
        ({"retrieved": torch.zeros(7, 5).double()}, "retrieved must have the dtype"),
        ({"weight": torch.zeros(5, 9)}, "weight must have shape"),
        ({"weight": torch.zeros(5, 10).half()}, "weight must have the dtype"),
        ({"bias": torch.zeros(4)}, "bias must have shape"),
        ({"has_retrieval": torch.zeros(6, dtype=torch.bool)}, "has_retrieval must be bool"),
        ({"has_retrieval": torch.zeros(7)}, "has_retrieval must be bool"),
        ({"gate_input": torch.zeros(7)}, "gate_input must have"),
    ],
)
def test_raw_op_keeps_memory_safe(changes: dict[str, Tensor], message: str) -> None:
    arguments = {**problem(dtype=torch.float32), **changes}
    order = ("short", "retrieved", "weight", "bias", "has_retrieval", "gate_input")
    with pytest.raises(RuntimeError, match=message):
        OP(*(arguments[name] for name in order))
