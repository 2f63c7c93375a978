"""The module against a reading of IntRR's equations item by item, value by value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import glass_kernels
from glass_kernels.modules import RecursiveAssignment

D, SIZES, HIDDEN = 6, (5, 4, 7), 9
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0, "learn_temperature": True},
    {"assignment": "soft", "temperature": 0.7},
    {"assignment": "soft", "temperature": 0.7, "learn_temperature": True},
    {"context": "sum"},
    {"context": "sum", "assignment": "soft", "temperature": 0.7},
]


def network(seed: int = 0, **settings: Any) -> RecursiveAssignment:
    torch.manual_seed(seed)
    settings = {"hidden_dim": HIDDEN, "codebook_std": 1.0, **settings}
    return RecursiveAssignment(D, SIZES, **settings).double()


def rows(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    guidance = torch.randn(count, D, dtype=torch.float64, requires_grad=True)
    return guidance, torch.stack([torch.randint(size, (count,)) for size in SIZES], dim=1)


def f(net: RecursiveAssignment, level: int, context: Tensor, guidance: Tensor) -> Tensor:
    """f_l([context ; guidance]) with the two put together."""
    query = net.query(level)
    return query.outer(torch.relu(query.inner(torch.cat((context, guidance)))))


def cross_entropy(logits: Tensor, target: int) -> Tensor:
    return logits.exp().sum().log() - logits[target]


def literal_item(
    net: RecursiveAssignment, guidance: Tensor, codes: list[int]
) -> tuple[Tensor, list[int], Tensor]:
    """Token, codes and loss of one item, free running."""
    context, token, found, loss = guidance, torch.zeros(D).double(), [], torch.zeros(()).double()
    for level, codebook in enumerate(net.codebooks):
        before = token if net.context == "sum" else context
        query = guidance if level == 0 else f(net, level, before, guidance)
        logits = torch.stack([(query * row).sum() for row in codebook])
        weights = (logits / net.temperature).exp()
        soft = sum(w * row for w, row in zip(weights / weights.sum(), codebook, strict=True))
        best = int(logits.argmax())
        if net.assignment == "straight_through":
            context = soft + (codebook[best] - soft).detach()
        else:
            context = soft
        token = token + context
        found.append(best)
        loss = loss + cross_entropy(logits, codes[level])
    return token, found, loss


def gradients(net: RecursiveAssignment, value: Tensor, guidance: Tensor) -> list[Tensor]:
    inputs = [guidance, *net.parameters()]
    grads = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return list(grads)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("count", [1, 13])
@pytest.mark.usefixtures("poisoned")
def test_item_side_is_the_equations(settings: dict[str, Any], count: int) -> None:
    net = network(**settings)
    guidance, codes = rows(count)
    out = net(guidance, codes)
    expected = [literal_item(net, g, c) for g, c in zip(guidance, codes.tolist(), strict=True)]
    token = torch.stack([item[0] for item in expected])
    loss = torch.stack([item[2] for item in expected])
    torch.testing.assert_close(out.token, token)
    assert out.codes.tolist() == [item[1] for item in expected]
    torch.testing.assert_close(out.loss, loss)
    weight, share = torch.randn_like(token), torch.rand_like(loss)
    found = gradients(net, (out.token * weight).sum() + (out.loss * share).sum(), guidance)
    wanted = gradients(net, (token * weight).sum() + (loss * share).sum(), guidance)
    torch.testing.assert_close(found, wanted)
    assert all((grad != 0).any() for grad in found)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_loss_and_token_need_no_each_other(settings: dict[str, Any]) -> None:
    net = network(**settings)
    guidance, codes = rows(5)
    alone, both = net(guidance), net(guidance, codes)
    assert alone.loss is None
    assert torch.equal(alone.token, both.token)
    assert torch.equal(alone.codes, both.codes)


def context_of(net: RecursiveAssignment, codes: list[int]) -> Tensor:
    """What f_l is told of the codes of the levels before."""
    vectors = [book[code] for book, code in zip(net.codebooks, codes, strict=False)]
    return vectors[-1] if net.context == "previous" else sum(vectors, torch.zeros(D).double())


@pytest.mark.parametrize("context", ["previous", "sum"])
@pytest.mark.parametrize("count", [1, 3, 13])
@pytest.mark.usefixtures("poisoned")
def test_user_side_is_teacher_forced(count: int, context: str) -> None:
    net = network(learn_temperature=True, context=context)
    guidance, codes = rows(count)
    out = net.teacher_forced(guidance, codes)
    losses, best = [], []
    for g, row in zip(guidance, codes.tolist(), strict=True):
        for level, codebook in enumerate(net.codebooks):
            query = g if level == 0 else f(net, level, context_of(net, row[:level]), g)
            logits = codebook @ query
            losses.append(cross_entropy(logits, row[level]))
            best.append(int(logits.argmax()))
    expected = torch.stack(losses).view(count, -1)
    torch.testing.assert_close(out.loss, expected)
    assert out.codes.flatten().tolist() == best
    weight = torch.rand_like(expected)
    found = gradients(net, (out.loss * weight).sum(), guidance)
    torch.testing.assert_close(found, gradients(net, (expected * weight).sum(), guidance))


def test_a_third_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context must be 'previous' or 'sum', was 'last'"):
        network(context="last")


@pytest.mark.parametrize("context", ["previous", "sum"])
@pytest.mark.parametrize("beams", [1, 3, 20])
def test_level_logits_are_those_of_training(beams: int, context: str) -> None:
    net = network(context=context)
    guidance, _ = rows(2)
    first = net.level_logits(0, guidance[:, None])
    torch.testing.assert_close(first[:, 0], guidance @ net.codebooks[0].T)
    for level in (1, 2):
        before = [torch.randint(size, (2, beams)) for size in SIZES[:level]]
        chosen = torch.stack(before, dim=-1)
        seen = before[-1] if context == "previous" else chosen
        logits = net.level_logits(level, guidance[:, None], seen)
        given = net.codes_before(level, torch.nn.functional.pad(chosen, (0, 3 - level)))
        assert given is not None
        assert torch.equal(given, seen)
        for user in range(2):
            for beam in range(beams):
                code = context_of(net, chosen[user, beam].tolist())
                query = f(net, level, code, guidance[user])
                torch.testing.assert_close(logits[user, beam], net.codebooks[level] @ query)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_distributions_are_what_the_item_side_chooses_by(settings: dict[str, Any]) -> None:
    net = network(**settings)
    guidance, _ = rows(9)
    found = net.distributions(guidance)
    assert [tuple(p.shape) for p in found] == [(9, size) for size in SIZES]
    best = torch.stack([p.argmax(1) for p in found], dim=1)
    out = net(guidance)
    assert torch.equal(best, out.codes)
    for row, g in enumerate(guidance):
        context = g
        for level, book in enumerate(net.codebooks):
            query = g if level == 0 else f(net, level, context, g)
            shares = (book @ query / net.temperature).softmax(0)
            torch.testing.assert_close(found[level][row], shares)
            vector = shares @ book if net.assignment == "soft" else book[shares.argmax()]
            context = vector + context if net.context == "sum" and level else vector
    if net.assignment == "soft":
        token = sum(p @ book for p, book in zip(found, net.codebooks, strict=True))
    else:
        token = sum(book[i] for i, book in zip(best.T, net.codebooks, strict=True))
    torch.testing.assert_close(out.token, token)


def test_smooth_parts_pass_gradcheck() -> None:
    net = network(assignment="soft", temperature=0.7, learn_temperature=True)
    guidance, codes = rows(3)
    out = torch.autograd.gradcheck(lambda g: net(g, codes)[::2], (guidance,))
    assert out
    assert torch.autograd.gradcheck(lambda g: net.teacher_forced(g, codes).loss, (guidance,))


def test_ignored_levels_have_no_loss() -> None:
    net = network()
    guidance, codes = rows(4)
    part = codes.clone()
    part[1, 2] = part[3, 0] = -100
    whole, left_out = net(guidance, codes), net(guidance, part)
    assert torch.equal(whole.token, left_out.token)
    assert torch.equal(whole.loss[[0, 2]], left_out.loss[[0, 2]])
    assert (left_out.loss[[1, 3]] < whole.loss[[1, 3]]).all()


def test_no_rows_and_one_level() -> None:
    net = network()
    guidance, codes = torch.zeros(0, D).double(), torch.zeros(0, 3, dtype=torch.int64)
    out = net(guidance, codes)
    assert tuple(out.token.shape) == (0, D)
    assert tuple(out.codes.shape) == (0, 3)
    assert tuple(net.teacher_forced(guidance, codes).loss.shape) == (0, 3)
    single = RecursiveAssignment(D, (5,))
    assert tuple(single(torch.randn(2, D), torch.tensor([[1], [4]])).codes.shape) == (2, 1)
    assert tuple(single.level_logits(0, torch.randn(2, 1, D)).shape) == (2, 1, 5)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype, kind: torch.dtype) -> None:
    net = network().to(dtype)
    guidance, codes = rows(8)
    out = net(guidance.to(dtype).T.contiguous().T, codes.to(kind))
    user = net.teacher_forced(guidance.to(dtype), codes.to(kind))
    assert out.token.dtype == dtype
    assert out.loss is not None
    assert out.loss.dtype == user.loss.dtype == torch.float32
    (out.token.float().sum() + out.loss.sum() + user.loss.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_autocast_keeps_parameters_float32() -> None:
    net = network().float()
    guidance, codes = rows(8)
    with torch.autocast("cpu", torch.bfloat16):
        out, user = net(guidance.float(), codes), net.teacher_forced(guidance.float(), codes)
    exact = network().teacher_forced(guidance, codes).loss
    torch.testing.assert_close(user.loss.double(), exact, atol=0.1, rtol=0.05)
    (out.token.sum() + user.loss.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_compiles_without_a_graph_break(settings: dict[str, Any]) -> None:
    """The second temperature of the same code is a symbol to the compiler."""
    net = network(**settings).float()
    guidance, codes = (t.detach() for t in rows(8))
    guidance = guidance.float()

    def both(g: Tensor) -> Tensor:
        item = net(g, codes)
        return item.token.sum(1) + item.loss + net.teacher_forced(g, codes).loss.sum(1)

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(guidance), both(guidance))


def test_backends_agree() -> None:
    net = network().float()
    guidance, codes = rows(40)
    results = []
    for name in (None, "reference"):
        g = guidance.detach().float().requires_grad_()
        out = net(g, codes, backend=name)
        user = net.teacher_forced(g, codes, backend=name)
        value = out.token.square().sum() + out.loss.sum() + user.loss.sum()
        results.append([out.token, out.codes, user.codes, *gradients(net, value, g)])
    torch.testing.assert_close(*results)
    with glass_kernels.use_backend("reference"):
        assert torch.equal(net(guidance.float()).codes, results[0][1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1, was 0"),
        ({"codebook_sizes": ()}, "codebook_sizes must be"),
        ({"codebook_sizes": (3, 0)}, "codebook_sizes must be"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, was 0"),
        ({"assignment": "hard"}, "assignment must be .* was 'hard'"),
        ({"temperature": 0.0}, "temperature must be positive and finite, was 0.0"),
        ({"codebook_std": float("nan")}, "codebook_std must be positive and finite, was nan"),
    ],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecursiveAssignment(**{"d_model": 4, "codebook_sizes": (3, 3), **settings})


def test_arguments_are_checked() -> None:
    net = RecursiveAssignment(D, SIZES)
    guidance, codes = torch.randn(2, D), torch.tensor([[0, 1, 2], [4, 3, 6]])
    with pytest.raises(ValueError, match=r"guidance must have shape \[any, 6\], had \[2, 5\]"):
        net(guidance[:, :5])
    with pytest.raises(ValueError, match=r"codes must have shape \[2, 3\], had \[2, 2\]"):
        net(guidance, codes[:, :2])
    with pytest.raises(ValueError, match="codes must be int32 or int64, was float32"):
        net(guidance, codes.float())
    with pytest.raises(ValueError, match=r"codes must be below \[5, 4, 7\] .* row 1 was \[4, 4, 6"):
        net.teacher_forced(guidance, torch.tensor([[0, 1, 2], [4, 4, 6]]))
    with pytest.raises(ValueError, match="row 0 was"):
        net.teacher_forced(guidance, torch.tensor([[0, -100, 2], [4, 3, 6]]))
