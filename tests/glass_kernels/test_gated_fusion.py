"""Gated fusion: op and module, by hand, by gradcheck, and rows without retrieval."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from glass_kernels import use_backend
from glass_kernels.gated_fusion import _FUSION, gated_fusion
from glass_kernels.modules.gated_fusion import GatedFusion

FLOAT_ARGUMENTS = ("short", "retrieved", "weight", "bias", "gate_input")


@pytest.fixture(autouse=True, params=[name for name in _FUSION if name in ("reference", "cpp")])
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test on each backend for the CPU; Triton's interpreter has a process of its own."""
    with use_backend(request.param):
        yield


def make(
    dtype: torch.dtype = torch.float64, *, rows: tuple[int, ...] = (3, 4), width: int = 5
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "short": normal(*rows, width),
        "retrieved": normal(*rows, width),
        "weight": normal(width, 2 * width),
        "bias": normal(width),
        "has_retrieval": torch.rand(rows, generator=generator) < 0.6,
        "gate_input": normal(*rows, width),
    }


def run_with_gradients(arguments: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """Output under "out" and the gradients of the float arguments, for a fixed cotangent."""
    leaves = {
        name: value.detach().clone().requires_grad_(value.is_floating_point())
        for name, value in arguments.items()
    }
    out = gated_fusion(**leaves, **options)
    assert isinstance(out, Tensor)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    names = [name for name in FLOAT_ARGUMENTS if name in leaves]
    grads = torch.autograd.grad(out, [leaves[name] for name in names], cotangent)
    return {"out": out.detach(), **dict(zip(names, grads, strict=True))}


def test_hand_computed() -> None:
    # Logits: channel 0: 1*2 - 1*4 + 2 = 0; channel 1: 0.5*6 + log 3 - 3 = log 3.
    out, gate = gated_fusion(
        torch.tensor([[2.0, 4.0]]),
        torch.tensor([[6.0, 8.0]]),
        torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]]),
        torch.tensor([2.0, math.log(3) - 3]),
        return_gate=True,
    )
    torch.testing.assert_close(gate, torch.tensor([[0.5, 0.75]]))
    torch.testing.assert_close(out, torch.tensor([[4.0, 7.0]]))


def test_gate_input_replaces_the_first_half() -> None:
    arguments = make()
    out, gate = gated_fusion(**arguments, return_gate=True)
    joined = torch.cat([arguments["gate_input"], arguments["retrieved"]], -1)
    wanted = torch.sigmoid(joined @ arguments["weight"].T + arguments["bias"])
    wanted = wanted * arguments["has_retrieval"][..., None]
    torch.testing.assert_close(gate, wanted)
    mixed = arguments["short"] * (1 - wanted) + arguments["retrieved"] * wanted
    torch.testing.assert_close(out, mixed)


@pytest.mark.parametrize("with_gate_input", [False, True])
@pytest.mark.parametrize("filler", [0.0, math.nan, math.inf])
def test_rows_without_retrieval(filler: float, with_gate_input: bool) -> None:
    arguments = make()
    if not with_gate_input:
        del arguments["gate_input"]
    absent = ~arguments["has_retrieval"]
    assert absent.any()
    clean = run_with_gradients(arguments)
    arguments["retrieved"][absent] = filler
    out, gate = gated_fusion(**arguments, return_gate=True)
    assert torch.equal(out[absent], arguments["short"][absent])
    assert (gate[absent] == 0).all()
    results = run_with_gradients(arguments)
    assert (results["retrieved"][absent] == 0).all()
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(results["short"][absent], cotangent[absent])
    if with_gate_input:
        assert (results["gate_input"][absent] == 0).all()
    # Those rows leave no trace in the gradients of the weights either.
    for name, value in clean.items():
        torch.testing.assert_close(results[name], value)


def test_no_row_has_retrieval() -> None:
    arguments = make()
    arguments["has_retrieval"] = torch.zeros_like(arguments["has_retrieval"])
    results = run_with_gradients(arguments)
    assert torch.equal(results["out"], arguments["short"])
    assert all((results[name] == 0).all() for name in ("retrieved", "weight", "bias", "gate_input"))


def test_weights_learn_from_rows_with_retrieval_alone() -> None:
    arguments = make()
    kept = arguments["has_retrieval"]
    subset = {
        name: value[kept] if name not in ("weight", "bias") else value
        for name, value in arguments.items()
    }
    whole = gated_fusion(**{**arguments, "weight": arguments["weight"].requires_grad_()})
    part = gated_fusion(**{**subset, "weight": arguments["weight"]})
    assert isinstance(whole, Tensor)
    assert isinstance(part, Tensor)
    (of_whole,) = torch.autograd.grad(whole.sum(), arguments["weight"])
    (of_part,) = torch.autograd.grad(part.sum(), arguments["weight"])
    torch.testing.assert_close(of_whole, of_part)


@pytest.mark.parametrize("left_out", [(), ("gate_input",), ("has_retrieval", "gate_input")])
def test_gradcheck(left_out: tuple[str, ...]) -> None:
    arguments = {name: value for name, value in make().items() if name not in left_out}
    names = [name for name in FLOAT_ARGUMENTS if name in arguments]
    rest = {name: value for name, value in arguments.items() if name not in names}

    def fuse(*floats: Tensor) -> tuple[Tensor, Tensor]:
        fused = gated_fusion(**dict(zip(names, floats, strict=True)), **rest, return_gate=True)
        assert isinstance(fused, tuple)
        return fused

    assert torch.autograd.gradcheck(fuse, [arguments[name].requires_grad_() for name in names])


@pytest.mark.parametrize("rows", [(), (0,), (1,), (2, 3, 4)])
def test_any_leading_shape(rows: tuple[int, ...]) -> None:
    arguments = make(rows=rows)
    out, gate = gated_fusion(**arguments, return_gate=True)
    assert out.shape == gate.shape == (*rows, 5)


def test_non_contiguous_input() -> None:
    arguments = make()
    strided = {
        name: value.T.contiguous().T if value.ndim == 2 else value.expand(value.shape)
        for name, value in arguments.items()
    }
    strided["short"] = arguments["short"].transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(gated_fusion(**strided), gated_fusion(**arguments))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_error_at_most_twice_eager(dtype: torch.dtype) -> None:
    half = make(dtype, rows=(40, 7), width=48)
    exact = {n: v.double() if v.is_floating_point() else v for n, v in half.items()}
    cotangent = torch.randn(half["short"].shape, generator=torch.Generator().manual_seed(1))
    leaves = {n: v.requires_grad_(v.is_floating_point()) for n, v in exact.items()}
    out = gated_fusion(**leaves)
    assert isinstance(out, Tensor)
    grads = torch.autograd.grad(
        out, [leaves[name] for name in FLOAT_ARGUMENTS], cotangent.to(dtype).double()
    )
    truth = {"out": out.detach(), **dict(zip(FLOAT_ARGUMENTS, grads, strict=True))}

    plain = {n: v.detach().clone().requires_grad_(v.is_floating_point()) for n, v in half.items()}
    joined = torch.cat([plain["gate_input"], plain["retrieved"]], -1)
    gate = torch.sigmoid(joined @ plain["weight"].T + plain["bias"])
    gate = gate * plain["has_retrieval"][..., None]
    naive = plain["short"] + gate * (plain["retrieved"] - plain["short"])
    grads = torch.autograd.grad(
        naive, [plain[name] for name in FLOAT_ARGUMENTS], cotangent.to(dtype)
    )
    eager = {"out": naive.detach(), **dict(zip(FLOAT_ARGUMENTS, grads, strict=True))}

    for name, got in run_with_gradients(half).items():
        assert got.dtype == dtype
        ours_off = (got.double() - truth[name]).abs().max()
        assert ours_off <= 2 * (eager[name].double() - truth[name]).abs().max(), name


def test_captured_by_compile_without_graph_break() -> None:
    arguments = make(torch.float32)
    compiled = torch.compile(gated_fusion, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(
        compiled(**arguments, return_gate=True),
        gated_fusion(**arguments, return_gate=True),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("short", torch.zeros(3, 4, 5, dtype=torch.int32), "short must be float32"),
        ("short", torch.zeros(()), "short must be"),
        ("retrieved", torch.zeros(3, 5).double(), "retrieved must have shape"),
        ("retrieved", torch.zeros(3, 4, 5), "retrieved must be float64"),
        ("weight", torch.zeros(5, 5).double(), "weight must have shape"),
        ("bias", torch.zeros(4).double(), "bias must have shape"),
        ("has_retrieval", torch.zeros(3, 4), "has_retrieval must be bool"),
        ("has_retrieval", torch.zeros(3, 4, 1).bool(), "has_retrieval must have shape"),
        ("gate_input", torch.zeros(3, 4, 6).double(), "gate_input must have shape"),
    ],
)
def test_bad_input(name: str, value: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        gated_fusion(**{**make(), name: value})


class TestModule:
    @pytest.mark.parametrize("gate_input", ["short", "state"])
    def test_learned_gate(self, gate_input: str) -> None:
        arguments = make(torch.float32)
        module = GatedFusion(5, gate_input=gate_input)
        assert {name for name, _ in module.named_parameters()} == {"weight", "bias"}
        assert set(module.state_dict()) == {"weight", "bias"}
        state = arguments["gate_input"]
        out, gate = module(
            arguments["short"],
            arguments["retrieved"],
            arguments["has_retrieval"],
            state=state,
            return_gate=True,
        )
        wanted, wanted_gate = gated_fusion(
            arguments["short"],
            arguments["retrieved"],
            module.weight,
            module.bias,
            arguments["has_retrieval"],
            gate_input=state if gate_input == "state" else None,
            return_gate=True,
        )
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(gate, wanted_gate)
        assert not module.mean_gate.requires_grad
        torch.testing.assert_close(
            module.mean_gate, wanted_gate[arguments["has_retrieval"]].mean().detach()
        )

    def test_fixed_gate(self) -> None:
        arguments = make(torch.float32)
        arguments["retrieved"][~arguments["has_retrieval"]] = math.nan
        module = GatedFusion(5, gate="fixed", fixed_gate=0.25)
        assert not list(module.parameters())
        short = arguments["short"].requires_grad_()
        retrieved = arguments["retrieved"].requires_grad_()
        kept = arguments["has_retrieval"]
        out, gate = module(short, retrieved, kept, return_gate=True)
        torch.testing.assert_close(out[kept], 0.75 * short[kept] + 0.25 * retrieved[kept])
        assert torch.equal(out[~kept], short[~kept])
        assert torch.equal(gate, torch.where(kept, 0.25, 0.0)[..., None].expand_as(out))
        torch.testing.assert_close(module.mean_gate, torch.tensor(0.25))
        of_short, of_retrieved = torch.autograd.grad(out.sum(), (short, retrieved))
        weights = torch.where(kept, 0.25, 0.0)[..., None].expand_as(out)
        torch.testing.assert_close(of_retrieved, weights)
        torch.testing.assert_close(of_short, 1 - weights)

    def test_mean_gate_without_any_retrieval_is_zero(self) -> None:
        module = GatedFusion(5)
        assert module.mean_gate == 0
        short = torch.randn(3, 5)
        module(short, short, torch.zeros(3, dtype=torch.bool))
        assert module.mean_gate == 0
        module(short, short)
        assert 0 < module.mean_gate < 1

    def test_half_precision_contexts_with_float32_weights(self) -> None:
        module = GatedFusion(5)
        short, retrieved = torch.randn(2, 3, 5, dtype=torch.bfloat16)
        out = module(short, retrieved)
        assert out.dtype == torch.bfloat16
        out.sum().backward()
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == torch.float32

    def test_captured_by_compile_without_graph_break(self) -> None:
        module = GatedFusion(5)
        short, retrieved = torch.randn(2, 3, 5)
        kept = torch.tensor([True, False, True])
        wanted = module(short, retrieved, kept)
        mean = module.mean_gate
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        compiled(retrieved, short, kept)
        assert not torch.isclose(module.mean_gate, mean)
        torch.testing.assert_close(compiled(short, retrieved, kept), wanted)
        torch.testing.assert_close(module.mean_gate, mean)

    @pytest.mark.parametrize("gate", ["learned", "fixed"])
    def test_gate_is_tracked_on_request_and_without_its_graph(self, gate: str) -> None:
        module = GatedFusion(5, gate=gate, fixed_gate=0.25, track_gate=False)
        short, retrieved = torch.randn(2, 3, 5, requires_grad=True)
        plain = module(short, retrieved)
        assert module.mean_gate == 0
        module.track_gate = True
        torch.testing.assert_close(module(short, retrieved), plain)
        assert 0 < module.mean_gate < 1
        assert all(kept is None or kept.grad_fn is None for kept in module._tracked)

    def test_exported_as_one_operation_that_keeps_nothing(self) -> None:
        module = GatedFusion(5).eval()
        short, retrieved = torch.randn(2, 3, 5)
        exported = torch.export.export(module, (short, retrieved)).module()
        torch.testing.assert_close(exported(short, retrieved), module(short, retrieved))

    def test_reads_no_value(self) -> None:
        """Nothing waits for a GPU: on fake tensors, looking at a value would raise."""
        with torch._subclasses.FakeTensorMode():
            for gate in ("learned", "fixed"):
                module = GatedFusion(5, gate=gate)
                short, retrieved = torch.randn(2, 3, 5, requires_grad=True)
                module(short, retrieved, torch.ones(3, dtype=torch.bool)).sum().backward()
                assert module.mean_gate.shape == ()

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"d_model": 0}, "d_model"),
            ({"d_model": 4, "gate": "soft"}, "gate must be"),
            ({"d_model": 4, "gate_input": "both"}, "gate_input must be"),
            ({"d_model": 4, "fixed_gate": 1.5}, "fixed_gate must be"),
        ],
    )
    def test_bad_settings(self, settings: dict, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            GatedFusion(**settings)

    def test_bad_input(self) -> None:
        short = torch.zeros(3, 5)
        with pytest.raises(ValueError, match="state must be given"):
            GatedFusion(5, gate_input="state")(short, short)
        with pytest.raises(ValueError, match="retrieved must have shape"):
            GatedFusion(5, gate="fixed")(short, short[:1])
        with pytest.raises(ValueError, match="has_retrieval must have shape"):
            GatedFusion(5, gate="fixed")(short, short, torch.ones(1, dtype=torch.bool))
