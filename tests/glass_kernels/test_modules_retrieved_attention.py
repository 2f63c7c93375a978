"""Retrieved cross-attention as a module: its equation, what is frozen, and a layer of one's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from glass_kernels.modules import RetrievedAttention

TOKENS = torch.tensor([[0, 3], [1, 4], [1, 3], [2, 3]])
POSITIONS = torch.tensor([[[3, 0], [-1, -1]], [[2, 1], [1, -1]]], dtype=torch.int32)
LENGTHS = torch.tensor([[2, 0], [2, 1]], dtype=torch.int32)


def make(dtype: torch.dtype = torch.float64, **settings: object) -> RetrievedAttention:
    return RetrievedAttention(6, 2, 4, **settings).to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """x [2, 2, 3, 6] and token embeddings [5, 6]."""
    x = torch.randn(2, 2, 3, 6, dtype=dtype, requires_grad=True)
    return x, torch.randn(5, 6, dtype=dtype, requires_grad=True)


def gathered(module: RetrievedAttention, x: Tensor, embeddings: Tensor, scale: float) -> Tensor:
    """The same by gathering and projecting the tokens of every set, one query at a time."""
    out = []
    for user, a_set, place in itertools.product(range(2), range(2), range(3)):
        found = POSITIONS[user, a_set, : LENGTHS[user, a_set]].long()
        rows = embeddings[TOKENS[found].flatten()]
        query = (module.query.weight @ x[user, a_set, place]).view(2, 4)
        keys = (rows @ module.key.weight.T).view(-1, 2, 4)
        values = (rows @ module.value.weight.T).view(-1, 2, 4)
        weights = (scale * torch.einsum("hd,thd->ht", query, keys)).softmax(1)
        head = torch.einsum("ht,thd->hd", weights, values).flatten()
        out.append(module.output.weight @ head)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_equals_gathering_and_projecting_every_token(scale: float) -> None:
    module = make(scale=scale, train_table=True)
    x, embeddings = inputs()
    out = module(x, module.tables(embeddings), TOKENS, POSITIONS, LENGTHS)
    wanted = gathered(module, x, embeddings, scale)
    torch.testing.assert_close(out, wanted)
    assert (out[0, 1] == 0).all()  # nothing was retrieved
    leaves = [x, embeddings, *module.parameters()]
    cotangent = torch.randn_like(out)
    for one, two in zip(
        torch.autograd.grad(out, leaves, cotangent),
        torch.autograd.grad(wanted, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


def test_token_embeddings_are_frozen_unless_asked_for() -> None:
    module, (x, embeddings) = make(), inputs()
    keys, values = module.tables(embeddings)
    assert keys.shape == values.shape == (5, 2, 4)
    module(x, (keys, values), TOKENS, POSITIONS, LENGTHS).sum().backward()
    assert embeddings.grad is None
    for name, parameter in module.named_parameters():
        assert (parameter.grad != 0).any(), name
    assert set(module.state_dict()) == {f"{p}.weight" for p in ("query", "key", "value", "output")}


def test_tables_serve_every_step() -> None:
    """Position by position, as in generation, is all positions at once."""
    module, (x, embeddings) = make(), inputs()
    tables = module.tables(embeddings)
    whole = module(x, tables, TOKENS, POSITIONS, LENGTHS)
    parts = [module(x[:, :, [p]], tables, TOKENS, POSITIONS, LENGTHS) for p in range(3)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_autocast() -> None:
    module, (x, embeddings) = make(torch.float32), inputs(torch.float32)
    exact = module(x, module.tables(embeddings), TOKENS, POSITIONS, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x, module.tables(embeddings), TOKENS, POSITIONS, LENGTHS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.02)


def test_captured_by_compile_without_graph_break() -> None:
    module, (x, embeddings) = make(torch.float32), inputs(torch.float32)

    def layer(x: Tensor) -> Tensor:
        out: Tensor = module(x, module.tables(embeddings), TOKENS, POSITIONS, LENGTHS)
        return out

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", ["d_model", "num_heads", "head_dim"])
def test_bad_settings(name: str) -> None:
    sizes = {"d_model": 4, "num_heads": 2, "head_dim": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, was 0"):
        RetrievedAttention(**sizes)


def test_bad_input() -> None:
    module, (x, embeddings) = make(), inputs()
    tables = module.tables(embeddings)
    with pytest.raises(ValueError, match=r"token_embeddings must have shape \[any, 6\]"):
        module.tables(embeddings[:, :5])
    with pytest.raises(ValueError, match=r"x must have shape \[any, any, any, 6\]"):
        module(x[:, 0], tables, TOKENS, POSITIONS, LENGTHS)
    with pytest.raises(ValueError, match="tokens must be in"):
        module(x, tables, TOKENS + 1, POSITIONS, LENGTHS)
