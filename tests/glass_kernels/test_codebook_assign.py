"""Assignment to a codebook: values, ties, ignored targets and the straight-through gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from glass_kernels import use_backend
from glass_kernels.codebook_assign import _ASSIGN, codebook_assign


@pytest.fixture(autouse=True, params=[name for name in _ASSIGN if name in ("reference", "cpp")])
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test on each backend for the CPU; Triton's interpreter has a process of its own."""
    with use_backend(request.param):
        yield


def make(
    dtype: torch.dtype = torch.float64, *, rows: int = 7, num_codes: int = 6, width: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
    codebook = torch.randn(num_codes, width, generator=generator, dtype=torch.float64).to(dtype)
    target = torch.randint(0, num_codes, (rows,), generator=generator)
    target[::3] = -100
    return query, codebook, target


def cotangents(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    of_assigned = torch.randn(rows, width, generator=generator).to(dtype)
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    return of_assigned, torch.randn(rows, generator=generator).to(accumulated)


def test_hand_computed() -> None:
    # Logits (2, 0) and (0, 3).
    query = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    codebook = torch.eye(2, requires_grad=True)
    target = torch.tensor([0, 0], dtype=torch.int32)
    assigned, index, loss = codebook_assign(query, codebook, target, temperature=2.0)
    assert assigned.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert index.tolist() == [0, 1]
    assert index.dtype == torch.int64
    assert loss is not None
    assert loss.dtype == torch.float32
    wanted = torch.tensor([math.log(1 + math.exp(-2)), 3 + math.log(1 + math.exp(-3))])
    torch.testing.assert_close(loss, wanted)

    # d p_0 / d logit_0 = p (1 - p) / temperature, at logits (2, 0) / 2.
    (grad,) = torch.autograd.grad(assigned[0, 0], query)
    p = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(grad, torch.tensor([[p * (1 - p) / 2, -p * (1 - p) / 2], [0, 0]]))


def test_assigned_is_the_code_to_the_last_bit() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        query, codebook, _ = make(dtype, rows=200, num_codes=30)
        assigned, index, loss = codebook_assign(query, codebook)
        assert loss is None
        assert torch.equal(assigned, codebook[index])
        logits = query.double() @ codebook.double().T
        best = logits.gather(1, index[:, None])[:, 0]
        torch.testing.assert_close(best, logits.amax(1), rtol=1e-6, atol=1e-6)


def test_lowest_index_on_ties() -> None:
    codebook = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    _, index, _ = codebook_assign(query, codebook)
    assert index.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_row_without_a_finite_largest_logit(value: float) -> None:
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    query = torch.tensor([[3.0, 4.0], [value, value], [0.0, 5.0]])
    if value == -math.inf:
        codebook[codebook == 0] = 1  # else 0 * inf is NaN
    assigned, index, loss = codebook_assign(query, codebook, torch.tensor([0, 1, 2]))
    assert loss is not None
    assert index[1] == (query @ codebook.T)[1].argmax()
    for result in (assigned, loss):
        assert result.isnan().view(3, -1).any(1).tolist() == [False, True, False]
    assert assigned[1].isnan().all()


def test_ignored_target_gives_no_loss_and_no_gradient() -> None:
    query, codebook, target = make()
    query.requires_grad_()
    _, _, loss = codebook_assign(query, codebook, target)
    assert loss is not None
    ignored = target == -100
    assert (loss[ignored] == 0).all()
    assert (loss[~ignored] > 0).all()
    (grad,) = torch.autograd.grad(loss.sum(), query)
    assert (grad[ignored] == 0).all()
    assert (grad[~ignored] != 0).any(dim=1).all()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gradient_is_that_of_the_soft_code(temperature: float) -> None:
    query, codebook, target = make()
    leaves = (query.requires_grad_(), codebook.requires_grad_())
    seeds = cotangents(*query.shape, query.dtype)
    assigned, _, loss = codebook_assign(query, codebook, target, temperature=temperature)
    assert loss is not None
    grads = torch.autograd.grad((assigned, loss), leaves, seeds)

    # By hand: G = cotangent of the soft code, p its weights, s = softmax of the plain logits.
    logits = (query @ codebook.T).detach()
    p = (logits / temperature).softmax(1)
    from_weights = seeds[0] @ codebook.detach().T
    of_logits = p * (from_weights - (p * from_weights).sum(1, keepdim=True)) / temperature
    hot = torch.nn.functional.one_hot(target.clamp(min=0), 6).double()
    of_loss = (logits.softmax(1) - hot) * (target != -100)[:, None]
    of_logits = of_logits + of_loss * seeds[1][:, None]
    torch.testing.assert_close(grads[0], of_logits @ codebook.detach())
    torch.testing.assert_close(grads[1], of_logits.T @ query.detach() + p.T @ seeds[0])


def test_gradcheck_of_the_loss() -> None:
    query, codebook, target = make()

    def loss_of(query: Tensor, codebook: Tensor) -> Tensor:
        loss = codebook_assign(query, codebook, target)[2]
        assert loss is not None
        assert loss.dtype == torch.float64
        return loss

    assert torch.autograd.gradcheck(loss_of, (query.requires_grad_(), codebook.requires_grad_()))


@pytest.mark.parametrize(("rows", "num_codes"), [(0, 6), (1, 1), (5, 1)])
def test_edge_sizes(rows: int, num_codes: int) -> None:
    query, codebook, target = make(rows=rows, num_codes=num_codes)
    assigned, index, loss = codebook_assign(query, codebook.requires_grad_(), target)
    assert assigned.shape == (rows, 4)
    assert index.shape == (rows,)
    assert loss is not None
    torch.testing.assert_close(loss, torch.zeros(rows, dtype=torch.float64))


def test_non_contiguous_input() -> None:
    query, codebook, target = make()
    wanted = codebook_assign(query, codebook, target)
    got = codebook_assign(
        query.T.contiguous().T, codebook.T.contiguous().T, target.repeat_interleave(2)[::2]
    )
    for ours, plain in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_error_at_most_twice_eager(dtype: torch.dtype) -> None:
    query, codebook, target = make(dtype, rows=60, num_codes=24, width=32)
    seeds = cotangents(*query.shape, dtype)

    def plain_results(query: Tensor, codebook: Tensor) -> list[Tensor]:
        leaves = (query.detach().clone().requires_grad_(), codebook.clone().requires_grad_())
        logits = leaves[0] @ leaves[1].T
        soft = logits.softmax(1) @ leaves[1]
        loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        own = [seed.to(query.dtype) for seed in seeds]
        return [loss.detach(), *torch.autograd.grad((soft, loss), leaves, own)]

    truth = plain_results(query.double(), codebook.double())
    eager = plain_results(query, codebook)
    leaves = (query.requires_grad_(), codebook.requires_grad_())
    assigned, _, loss = codebook_assign(query, codebook, target)
    assert loss is not None
    assert loss.dtype == torch.float32
    ours = [loss.detach(), *torch.autograd.grad((assigned, loss), leaves, seeds)]
    for got, plain, wanted in zip(ours, eager, truth, strict=True):
        ours_off = (got.double() - wanted).abs().max()
        assert ours_off <= 2 * (plain.double() - wanted).abs().max()


def test_captured_by_compile_without_graph_break() -> None:
    query, codebook, target = make(torch.float32)
    compiled = torch.compile(codebook_assign, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(
        compiled(query, codebook, target), codebook_assign(query, codebook, target), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"query": torch.zeros(7, 4, 1)}, "query must have 2 dimensions"),
        ({"query": torch.zeros(7, 4).int()}, "query must be float32"),
        ({"codebook": torch.zeros(6, 3).double()}, "codebook must have shape"),
        ({"codebook": torch.zeros(6, 4)}, "codebook must be float64"),
        ({"codebook": torch.zeros(0, 4).double()}, "codebook must have at least one code"),
        ({"target": torch.zeros(6, dtype=torch.int64)}, "target must have shape"),
        ({"target": torch.zeros(7)}, "target must be int32"),
        ({"target": torch.full((7,), 6)}, r"target must be in \[0, 6\), held 6"),
        ({"target": torch.full((7,), -1)}, r"target must be in \[0, 6\), held -1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
    ],
)
def test_bad_input(change: dict, match: str) -> None:
    query, codebook, target = make()
    with pytest.raises(ValueError, match=match):
        codebook_assign(**{"query": query, "codebook": codebook, "target": target, **change})
