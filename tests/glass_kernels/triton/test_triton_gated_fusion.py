"""Gated fusion in Triton against the reference, values and every gradient."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels import gated_fusion
from glass_kernels.gated_fusion import triton_kernel
from glass_kernels.gated_fusion.triton_ops import gated_fusion_triton, gated_fusion_triton_alone

# the package is also the name of its function
gated_fusion_module = sys.modules["glass_kernels.gated_fusion"]
OP = torch.ops.glass.gated_fusion_triton
FLOATS = ("short", "retrieved", "weight", "bias", "gate_input")
CONFIGS = triton_kernel.HALF_CONFIGS + triton_kernel.FLOAT_CONFIGS + triton_kernel.FEW_CONFIGS
# rows without retrieval are computed from NaN and dropped; NumPy, which interprets, says so
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
ORDER = ("short", "retrieved", "weight", "bias", "has_retrieval", "gate_input")


def problem(
    rows: tuple[int, ...],
    width: int,
    device: torch.device,
    *,
    present: float = 0.6,
    with_gate_input: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Rows without retrieval hold NaN wherever nothing may look."""
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "short": (*rows, width),
        "retrieved": (*rows, width),
        "weight": (width, 2 * width),
        "bias": (width,),
    }
    if with_gate_input:
        shapes["gate_input"] = (*rows, width)
    values = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    values["weight"] /= width**0.5
    kept = torch.rand(rows, generator=g) < present
    for name in ("retrieved", "gate_input"):
        if name in values:
            values[name][~kept] = math.nan
    values = {name: value.to(device, dtype) for name, value in values.items()}
    return {**values, "has_retrieval": kept.to(device)}


def results(
    arguments: dict[str, Tensor],
    backend: str,
    *,
    use_out: bool = True,
    use_gate: bool = True,
    wanted: tuple[str, ...] = FLOATS,
) -> dict[str, Tensor]:
    """Output, gate, and the gradients of `wanted` for fixed random cotangents."""
    wanted = tuple(name for name in wanted if name in arguments)
    leaves = {n: value.detach().requires_grad_(n in wanted) for n, value in arguments.items()}
    out, gate = gated_fusion(**leaves, return_gate=True, backend=backend)
    g = torch.Generator().manual_seed(1)
    cotangents = torch.randn(2, *out.shape, generator=g).to(out.device, out.dtype)
    used = [use_out, use_gate]
    grads = torch.autograd.grad(
        [value for value, use in zip((out, gate), used, strict=True) if use],
        [leaves[name] for name in wanted],
        [value for value, use in zip(cotangents, used, strict=True) if use],
        materialize_grads=True,
    )
    return {"out": out.detach(), "gate": gate.detach(), **dict(zip(wanted, grads, strict=True))}


def assert_right(arguments: dict[str, Tensor], **options: object) -> None:
    """Against the reference in float64, within float32's own rounding."""
    got = results(arguments, "triton", **options)
    exact = {n: v.double() if v.is_floating_point() else v for n, v in arguments.items()}
    truth = results(exact, "reference", **options)
    assert got.keys() == truth.keys()
    for name, value in truth.items():
        assert got[name].dtype == torch.float32
        assert got[name].shape == value.shape
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name].double(), value, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("with_gate_input", [False, True])
@pytest.mark.parametrize(
    ("rows", "width"),
    [((), 3), ((0,), 4), ((1,), 1), ((17,), 20), ((3, 2, 5), 33), ((66,), 65), ((600,), 5)],
)
def test_equals_reference(rows, width: int, with_gate_input: bool, device) -> None:
    assert_right(problem(rows, width, device, with_gate_input=with_gate_input))


@pytest.mark.usefixtures("poisoned")
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.integers(0, 40),
    width=st.integers(1, 40),
    present=st.sampled_from([0.0, 0.4, 1.0, None]),
    with_gate_input=st.booleans(),
    used=st.sampled_from([(True, True), (True, False), (False, True)]),
    wanted=st.sampled_from([FLOATS, ("retrieved",), ("weight",), ("short", "retrieved")]),
    seed=st.integers(0, 999),
)
def test_any_shape(device, rows, width, present, with_gate_input, used, wanted, seed) -> None:
    arguments = problem(
        (rows,),
        width,
        device,
        present=1.0 if present is None else present,
        with_gate_input=with_gate_input,
        seed=seed,
    )
    if present is None:
        del arguments["has_retrieval"]
    assert_right(arguments, use_out=used[0], use_gate=used[1], wanted=wanted)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_setting(config, device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernel, "configs_for", lambda few, dtype: [config])
    kernel = triton_kernel._gated_fusion_fwd_kernel
    kernel.cache.clear()
    assert_right(problem((70,), 70, device))
    kernel.cache.clear()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_gate_input", [False, True])
def test_half_precision_error_at_most_twice_eager(dtype, with_gate_input: bool, device) -> None:
    half = problem((150,), 48, device, with_gate_input=with_gate_input, dtype=dtype)
    exact = {n: v.double() if v.is_floating_point() else v for n, v in half.items()}
    truth = results(exact, "reference")
    plain = run_eager(half)
    for name, got in results(half, "triton").items():
        assert got.dtype == dtype
        off = (got.double() - truth[name]).abs().max()
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
    g = torch.Generator().manual_seed(1)
    cotangents = torch.randn(2, *out.shape, generator=g).to(out.device, out.dtype)
    grads = torch.autograd.grad([out, gate], list(leaves.values()), list(cotangents))
    return {"out": out.detach(), "gate": gate.detach(), **dict(zip(names, grads, strict=True))}


def test_rows_without_retrieval_are_copied(device) -> None:
    arguments = problem((40,), 9, device)
    arguments["short"][~arguments["has_retrieval"]] = math.inf
    absent = ~arguments["has_retrieval"]
    found = results(arguments, "triton")
    assert torch.equal(found["out"][absent], arguments["short"][absent])
    for name in ("gate", "retrieved", "gate_input"):
        assert found[name][absent].eq(0).all(), name
    for name in ("weight", "bias"):
        assert found[name].isfinite().all(), name


def test_views_and_expanded_gradients(device) -> None:
    arguments = problem((6, 4), 10, device)
    strided = {
        "short": arguments["short"].transpose(0, 1).contiguous().transpose(0, 1),
        "retrieved": arguments["retrieved"].repeat(1, 1, 2)[..., :10],
        "weight": arguments["weight"].T.contiguous().T,
        "bias": arguments["bias"].repeat_interleave(2)[::2],
        "gate_input": arguments["gate_input"].transpose(0, 1).contiguous().transpose(0, 1),
        "has_retrieval": arguments["has_retrieval"].T.contiguous().T,
    }
    assert_right(strided)
    grads = {}
    for backend in ("triton", "reference"):
        leaf = arguments["short"].detach().requires_grad_()
        gated_fusion(**{**strided, "short": leaf}, backend=backend).sum().backward()
        grads[backend] = leaf.grad
    torch.testing.assert_close(grads["triton"], grads["reference"])


def test_float64_is_for_other_backends(device) -> None:
    arguments = problem((5,), 6, device, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="of float64: backend 'triton' is not available"):
        gated_fusion(**arguments, backend="triton")
    with pytest.raises(RuntimeError, match="short must not be float64"):
        OP(*(arguments[name] for name in ORDER))


def test_no_second_derivative(device) -> None:
    arguments = problem((3,), 4, device, present=1.0)
    short = arguments.pop("short").requires_grad_()
    out = gated_fusion(short, **arguments, backend="triton")
    (grad,) = torch.autograd.grad(out.sum(), short, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; backend='reference'"):
        torch.autograd.grad(grad.sum(), short)


@pytest.mark.parametrize("with_gate_input", [False, True])
def test_opcheck(with_gate_input: bool, device) -> None:
    arguments = problem((4,), 6, device, with_gate_input=with_gate_input, present=1.0)
    leaves = [arguments.get(name) for name in ORDER]
    for leaf in leaves:
        if leaf is not None and leaf.is_floating_point():
            leaf.requires_grad_()
    torch.library.opcheck(OP, leaves)
    short, retrieved, weight, _, has_retrieval, gate_input = (
        None if leaf is None else leaf.detach() for leaf in leaves
    )
    inputs = short, retrieved, weight, torch.rand_like(short), has_retrieval, gate_input
    for case in (
        (short, short, True, True),
        (short, None, True, False),
        (None, short, False, True),
    ):
        arguments = (*case[:2], *inputs, *case[2:])
        torch.library.opcheck(torch.ops.glass.gated_fusion_triton_backward, arguments)


def test_compiles_without_a_graph_break(device) -> None:
    arguments = problem((6, 3), 10, device)

    def loss(short: Tensor, **rest: Tensor) -> Tensor:
        out, gate = gated_fusion(short, **rest, return_gate=True, backend="triton")
        return (out * out).sum() + gate.sum()

    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = {n: v.detach().requires_grad_(n in FLOATS) for n, v in arguments.items()}
        function(**leaves).backward()
        grads.append([leaves[name].grad for name in FLOATS])
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("with_gate_input", [False, True])
@pytest.mark.parametrize(("rows", "width"), [((0,), 4), ((17,), 20), ((2, 5), 33), ((600,), 5)])
def test_without_a_gradient_no_gate_is_kept(
    rows: tuple[int, ...], width: int, with_gate_input: bool, device, monkeypatch
) -> None:
    arguments = problem(rows, width, device, with_gate_input=with_gate_input)
    out, _ = gated_fusion(**arguments, return_gate=True, backend="triton")
    with monkeypatch.context() as patch:
        patch.setattr(gated_fusion_module, "_FUSION", {"triton": gated_fusion_triton})
        calls = []

        def noted(*inputs: Tensor) -> Tensor:
            calls.append(1)
            return gated_fusion_triton_alone(*inputs)

        patch.setattr(gated_fusion_module, "_ALONE", {gated_fusion_triton: noted})
        alone = gated_fusion(**arguments, backend="triton")
        leaves = {**arguments, "weight": arguments["weight"].clone().requires_grad_()}
        assert gated_fusion(**leaves, backend="triton").requires_grad
        with torch.no_grad():
            gated_fusion(**leaves, backend="triton")
    assert len(calls) == 2
    assert torch.equal(alone, out)


def test_the_op_without_a_gate_is_registered_well(device) -> None:
    arguments = problem((5,), 6, device)
    inputs = [arguments[name] for name in ORDER]
    torch.library.opcheck(torch.ops.glass.gated_fusion_triton_alone, tuple(inputs))
    compiled = torch.compile(gated_fusion, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = compiled(**arguments, backend="triton")
    torch.testing.assert_close(found, gated_fusion(**arguments, backend="triton"))
    leaves = {**arguments, "weight": arguments["weight"].clone().requires_grad_()}
    assert compiled(**leaves, backend="triton").requires_grad
