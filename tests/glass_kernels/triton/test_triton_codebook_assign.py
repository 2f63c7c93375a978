"""Codebook assignment in Triton against the reference, values and every gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from glass_kernels import codebook_assign
from glass_kernels.codebook_assign import (
    triton_backward,
    triton_forward,
    triton_fused,
    triton_settings,
    triton_slabs,
)
from glass_kernels.modules import RecursiveAssignment

OP = torch.ops.glass.codebook_assign_triton
HALF = [torch.bfloat16, torch.float16]
BOTH = ("assigned", "loss")


# rows past the last, and cases that are not finite: NumPy, which interprets, says so
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}:RuntimeWarning")
    for what in ("invalid value", "divide by zero", "overflow", "All-NaN")
]


def problem(
    rows: int,
    num_codes: int,
    width: int,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    ignored: float = 0.3,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, width, generator=g).to(device, dtype)
    codebook = torch.randn(num_codes, width, generator=g).to(device, dtype)
    target = torch.randint(0, num_codes, (rows,), generator=g)
    target[torch.rand(rows, generator=g) < ignored] = -100
    return query, codebook, target.to(device)


def results(
    query: Tensor,
    codebook: Tensor,
    target: Tensor | None,
    backend: str,
    *,
    temperature: float = 1.0,
    used: tuple[str, ...] = BOTH,
    wanted: tuple[bool, bool] = (True, True),
) -> dict[str, Tensor]:
    """What comes out, and the gradients for fixed random cotangents of `used`."""
    leaves = [
        value.detach().requires_grad_(want)
        for value, want in zip((query, codebook), wanted, strict=True)
    ]
    assigned, index, loss = codebook_assign(
        *leaves, target, temperature=temperature, backend=backend
    )
    g = torch.Generator().manual_seed(1)
    of_assigned = torch.randn(query.shape, generator=g).to(query)
    of_loss = torch.randn(query.shape[0], generator=g).to(query.device)
    values, cotangents = [], []
    if "assigned" in used:
        values.append(assigned)
        cotangents.append(of_assigned)
    if "loss" in used and loss is not None:
        values.append(loss)
        cotangents.append(of_loss.to(loss))
    grads = torch.autograd.grad(
        values, [leaf for leaf, want in zip(leaves, wanted, strict=True) if want], cotangents
    )
    names = [name for name, want in zip(("query", "codebook"), wanted, strict=True) if want]
    found = {"assigned": assigned.detach(), "index": index, **dict(zip(names, grads, strict=True))}
    return found if loss is None else {**found, "loss": loss.detach()}


def assert_right(
    query: Tensor, codebook: Tensor, target: Tensor | None, *, scale: float = 1.0, **options
) -> None:
    """Against the reference in float64, within float32's own rounding."""
    got = results(query, codebook, target, "triton", **options)
    truth = results(query.double(), codebook.double(), target, "reference", **options)
    assert got.keys() == truth.keys()
    assert got["index"].dtype == torch.int64
    for name, value in truth.items():
        assert got[name].shape == value.shape
        most = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name].double(),
            value.double(),
            rtol=0,
            atol=1e-5 * scale * most,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of half precision for float32 too, where their error shows."""

    def backward(*arguments):
        tensors, (temperature, of_query, of_codebook) = arguments[:5], arguments[5:]
        logs = torch.logsumexp(tensors[2] @ tensors[3].T, 1)
        return triton_fused.fused_backward(*tensors, logs, temperature, of_query, of_codebook)

    monkeypatch.setattr(triton_backward, "slab_backward", backward)
    monkeypatch.setattr(triton_fused, "CHUNK_ROWS", 128)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("temperature", "integers"), [(1.0, torch.int32), (0.6, torch.int64)])
@pytest.mark.parametrize(
    ("rows", "num_codes", "width"), [(0, 6, 4), (1, 1, 1), (3, 5, 0), (17, 4, 20), (66, 70, 33)]
)
def test_equals_reference(rows, num_codes, width, integers, temperature, device) -> None:
    query, codebook, target = problem(rows, num_codes, width, device)
    assert_right(query, codebook, target.to(integers), temperature=temperature, scale=3)


@pytest.mark.usefixtures("poisoned", "fused")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("rows", "num_codes", "width"), [(1, 1, 1), (66, 70, 33), (300, 20, 17)])
def test_kernels_of_half_precision_in_float32(rows, num_codes, width, temperature, device) -> None:
    # 300 rows are three chunks
    query, codebook, target = problem(rows, num_codes, width, device)
    assert_right(query, codebook, target, temperature=temperature, scale=3)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("kernels", ["slabs", "fused"])
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.integers(0, 40),
    num_codes=st.integers(1, 40),
    width=st.integers(1, 40),
    ignored=st.sampled_from([0.0, 0.4, 1.0, None]),
    temperature=st.sampled_from([1.0, 0.5, 3.0]),
    used=st.sampled_from([BOTH, ("assigned",), ("loss",)]),
    wanted=st.sampled_from([(True, True), (True, False), (False, True)]),
    seed=st.integers(0, 999),
)
def test_any_shape(
    kernels, request, device, rows, num_codes, width, ignored, temperature, used, wanted, seed
) -> None:
    if kernels == "fused":
        request.getfixturevalue("fused")
    query, codebook, target = problem(
        rows, num_codes, width, device, ignored=ignored or 0.0, seed=seed
    )
    if ignored is None:
        used = ("assigned",)
    assert_right(
        query, codebook, None if ignored is None else target,
        temperature=temperature, used=used, wanted=wanted, scale=3,
    )  # fmt: skip


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("width", [24, 300])  # the second is more than one tile holds
def test_half_precision_error_at_most_twice_eager(dtype, width: int, device) -> None:
    assert_no_worse_than_eager(90, 40, width, device, dtype)


def assert_no_worse_than_eager(rows: int, num_codes: int, width: int, device, dtype) -> None:
    query, codebook, target = problem(rows, num_codes, width, device, dtype=dtype)
    query = query * (2 / width**0.5)  # logits of some units
    exact = query.double(), codebook.double()
    truth = results(*exact, target, "reference", temperature=0.7)
    plain = run_eager(query, codebook, target, 0.7)
    got = results(query, codebook, target, "triton", temperature=0.7)
    assert torch.equal(got["assigned"], codebook[got["index"]])
    logits = exact[0] @ exact[1].T
    best = logits.gather(1, got["index"][:, None])[:, 0]
    torch.testing.assert_close(best, logits.amax(1), rtol=1e-5, atol=1e-5)
    assert got["loss"].dtype == torch.float32
    for name in ("loss", "query", "codebook"):
        assert got[name].shape == truth[name].shape
        off = (got[name].double() - truth[name]).abs().max()
        assert off <= 2 * (plain[name].double() - truth[name]).abs().max(), name


def run_eager(
    query: Tensor, codebook: Tensor, target: Tensor, temperature: float
) -> dict[str, Tensor]:
    """Written plainly, in the dtype of the arguments."""
    leaves = query.detach().requires_grad_(), codebook.detach().requires_grad_()
    logits = leaves[0] @ leaves[1].T
    soft = (logits / temperature).softmax(1) @ leaves[1]
    loss = cross_entropy(logits, target, reduction="none")
    g = torch.Generator().manual_seed(1)
    of_assigned = torch.randn(query.shape, generator=g).to(query)
    of_loss = torch.randn(query.shape[0], generator=g).to(query)
    grads = torch.autograd.grad((soft, loss), leaves, (of_assigned, of_loss))
    return {"loss": loss.detach(), "query": grads[0], "codebook": grads[1]}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_ties_and_what_is_not_finite_choose_as_the_reference(dtype, device) -> None:
    # whole numbers: each product is exact, and many are equal, also across blocks of codes
    g = torch.Generator().manual_seed(3)
    query = torch.randint(-1, 2, (40, 3), generator=g).to(device, dtype)
    codebook = torch.randint(-1, 2, (150, 3), generator=g).to(device, dtype)
    query[1], query[2] = 0.0, -0.0
    query[3, 0], query[4, 1], query[5, 2] = math.nan, math.inf, -math.inf
    odd = codebook.clone()
    odd[140, 1], odd[70, 0], odd[145, 2] = math.nan, math.inf, -math.inf
    for books in (codebook, odd, -codebook[:1]):
        assigned, index, loss = codebook_assign(query, books, backend="triton")
        assert loss is None
        assert torch.equal(index, codebook_assign(query, books, backend="reference")[1])
        largest = (query.float() @ books.float().T).amax(1, keepdim=True)
        chosen = torch.where(largest.isfinite(), books[index], math.nan)
        torch.testing.assert_close(assigned, chosen, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_of_extreme_logits(dtype, device) -> None:
    query = torch.tensor([[1.0, 0.0], [math.inf, 0.0], [-math.inf, 1.0], [200.0, -200.0]])
    codebook = torch.tensor([[1.0, 0.0]] * 130 + [[2.0, 1.0], [0.5, -1.0]])
    query, codebook = query.to(device, dtype), codebook.to(device, dtype)
    lowest = codebook.clone()
    lowest[:130, 0] = -math.inf  # whole blocks of logits of -inf
    target = torch.tensor([131, 0, 3, 131], device=device)
    for books in (codebook, lowest):
        ours = codebook_assign(query, books, target, backend="triton")[2]
        theirs = codebook_assign(query, books, target, backend="reference")[2]
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("kernels", ["slabs", "fused"])
def test_gradients_where_blocks_of_logits_overflow(kernels, request, monkeypatch, device) -> None:
    if kernels == "fused":
        request.getfixturevalue("fused")
    monkeypatch.setattr(triton_slabs, "TILE", 64)
    query, codebook, target = problem(5, 140, 3, device)
    query[:, 0], codebook[:, 0], codebook[:130, 0] = -1e30, 0.0, 1e30
    target = torch.where(target < 130, -100, target)
    got = results(query, codebook, target, "triton")
    truth = results(query.double(), codebook.double(), target, "reference")
    for name in ("query", "codebook"):
        grads = got[name].double(), truth[name]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_code_is_no_target(dtype, device) -> None:
    # unchecked on a card: such a row counts as ignored, and leads nowhere
    query, codebook, _ = problem(5, 6, 4, device, dtype=dtype)
    target = torch.tensor([6, -1, 2**32, -(2**40), 2**40 + 3], device=device)
    leaves = query.requires_grad_(), codebook.requires_grad_()
    loss = OP(*leaves, target, 1.0)[2]
    assert loss.eq(0).all()
    for grad in torch.autograd.grad(loss.sum(), leaves):
        assert grad.eq(0).all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_setting_of_the_forward(few, dtype, device, monkeypatch) -> None:
    kernel = triton_forward._codebook_assign_fwd_kernel
    arguments = problem(140, 140, 70, device, dtype=dtype)
    truth = codebook_assign(*arguments, backend="reference")
    for config in triton_settings.forward_choices(few, dtype):
        monkeypatch.setattr(triton_forward, "forward_choices", lambda *_, c=config: [c])
        kernel.cache.clear()
        got = codebook_assign(*arguments, backend="triton")
        for ours, theirs in zip(got, truth, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    kernel.cache.clear()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("columns", sorted(triton_settings.QUERY_GRAD))
def test_every_setting_of_the_backward(columns: int, device, monkeypatch) -> None:
    kernels = triton_fused._query_grad_kernel, triton_fused._codebook_grad_kernel
    queries, codebooks = triton_settings.QUERY_GRAD, triton_settings.CODEBOOK_GRAD
    for number in range(max(len(queries[columns]), len(codebooks[columns]))):
        for name, sizes in (("QUERY_GRAD", queries), ("CODEBOOK_GRAD", codebooks)):
            chosen = {columns: [sizes[columns][min(number, len(sizes[columns]) - 1)]]}
            monkeypatch.setattr(triton_fused, name, chosen)
        for kernel in kernels:
            kernel.cache.clear()
        assert_no_worse_than_eager(70, 70, columns - 3, device, torch.float16)
    for kernel in kernels:
        kernel.cache.clear()


@pytest.mark.usefixtures("poisoned")
def test_many_slabs_and_many_blocks_of_codes(device, monkeypatch: pytest.MonkeyPatch) -> None:
    query, codebook, target = problem(23, 70, 6, device)
    monkeypatch.setattr(triton_slabs, "SLAB_BYTES", 4 * 70 * 5)
    monkeypatch.setattr(triton_slabs, "TILE", 32)
    assert_right(query, codebook, target, temperature=0.8, scale=3)
    monkeypatch.setattr(triton_slabs, "SLAB_BYTES", 1)
    assert_right(query[:3], codebook, target[:3], used=("loss",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_and_expanded_gradients(dtype, device) -> None:
    query, codebook, target = problem(12, 9, 10, device, dtype=dtype)
    strided = (
        query.T.contiguous().T,
        codebook.repeat(1, 2)[:, :10],
        target.repeat_interleave(2)[::2],
    )
    grads = []
    for arguments in ((query, codebook, target), strided):
        leaves = [value.detach().requires_grad_() for value in arguments[:2]]
        assigned, _, loss = codebook_assign(*leaves, arguments[2], backend="triton")
        grads.append(torch.autograd.grad(assigned.sum() + loss.sum(), leaves))
    for ours, plain in zip(*grads, strict=True):
        assert torch.equal(ours, plain)
    of_assigned, of_loss = torch.randn(10, 12, device=device).to(dtype).T, torch.ones(12)
    found = [
        torch.ops.glass.codebook_assign_triton_backward(
            grad, of_loss.to(device), *arguments, torch.zeros(12, device=device), 1.0, True, True
        )
        for grad, arguments in ((of_assigned.contiguous(), (query, codebook, target)),
                                (of_assigned, strided))
    ]  # fmt: skip
    for ours, plain in zip(*found, strict=True):
        assert torch.equal(ours, plain)
    got = results(*strided, "triton")
    for name, value in results(query, codebook, target, "triton").items():
        assert torch.equal(got[name], value), name


def test_float64_is_for_other_backends(device) -> None:
    arguments = problem(5, 6, 4, device, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="of float64: backend 'triton' is not available"):
        codebook_assign(*arguments, backend="triton")
    with pytest.raises(RuntimeError, match="query must not be float64"):
        OP(*arguments, 1.0)


def test_no_second_derivative(device) -> None:
    query, codebook, target = problem(3, 4, 5, device)
    assigned = codebook_assign(query.requires_grad_(), codebook, target, backend="triton")[0]
    (grad,) = torch.autograd.grad(assigned.sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; backend='reference'"):
        torch.autograd.grad(grad.sum(), query)


def test_opcheck(device) -> None:
    query, codebook, target = problem(4, 6, 5, device)
    leaves = query.requires_grad_(), codebook.requires_grad_()
    torch.library.opcheck(OP, (*leaves, target, 0.5))
    torch.library.opcheck(OP, (*leaves, None, 1.0))
    inputs, logs = (query.detach(), codebook.detach()), torch.zeros(4, device=device)
    grads = torch.ones_like(inputs[0]), torch.ones(4, device=device)
    backward = torch.ops.glass.codebook_assign_triton_backward
    cases = (
        (*grads, *inputs, target, logs, 0.5, True, True),
        (None, None, *inputs, target, logs, 1.0, True, False),
    )
    for arguments in cases:
        torch.library.opcheck(backward, arguments)
    half = [value.bfloat16() for value in (grads[0], *inputs)]
    arguments = (half[0], None, *half[1:], None, logs[:0], 1.0, False, True)
    torch.library.opcheck(backward, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_without_a_graph_break(dtype, device) -> None:
    query, codebook, target = problem(9, 7, 5, device, dtype=dtype)

    def loss(query: Tensor, codebook: Tensor) -> Tensor:
        assigned, index, losses = codebook_assign(
            query, codebook, target, temperature=0.5, backend="triton"
        )
        return (assigned.float() ** 2).sum() + losses.sum() + index.sum()

    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = query.detach().requires_grad_(), codebook.detach().requires_grad_()
        function(*leaves).backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_recursive_assignment(temperature, device) -> None:
    torch.manual_seed(2)
    module = RecursiveAssignment(6, (5, 7), temperature=temperature).to(device)
    guidance = torch.randn(20, 6, device=device)
    codes = torch.stack([torch.randint(k, (20,), device=device) for k in (5, 7)], dim=1)
    grads = {}
    for backend in ("triton", "reference"):
        token, _, loss = module(guidance, codes, backend=backend)
        losses = module.teacher_forced(guidance, codes, backend=backend).loss
        total = token.square().sum() + loss.sum() + losses.sum()
        grads[backend] = torch.autograd.grad(total, list(module.parameters()))
    torch.testing.assert_close(grads["triton"], grads["reference"], rtol=1e-4, atol=1e-5)
