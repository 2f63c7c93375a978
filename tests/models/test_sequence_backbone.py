"""The backbones against loops over users, heads and positions, and against themselves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from sequence_cases import TINY
from torch import Tensor

from glass.config import SequenceConfig
from glass.models.sequence.backbone import Backbone, Branches, KeysValues, Times
from glass.models.sequence.hstu import hstu
from glass.models.sequence.jagged import Jagged
from glass.models.sequence.transformer import transformer

C, HEADS, D = TINY.d_model, TINY.num_heads, TINY.head_dim
MAX_TOKENS = 12
KINDS = ("transformer", "canonical", "released")
LENGTHS = (4, 0, 7, 1)


def stack(kind: str, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    config: SequenceConfig = dataclasses.replace(TINY, **settings)
    if kind == "transformer":
        made = transformer(config)
    else:
        made = hstu(dataclasses.replace(config, hstu=kind), MAX_TOKENS)  # type: ignore[arg-type]
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.5)
    return made.double().eval()


def tokens(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Jagged, Tensor]:
    """Vectors [T, C], their layout, and seconds int64 [T] that grow within a user."""
    torch.manual_seed(1)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    total = int(offsets[-1])
    layout = Jagged.of(offsets, max(lengths), total)
    seconds = torch.randint(0, 3000, (total,)).cumsum(0)
    return torch.randn(total, C).double(), layout, seconds


def both(layout: Jagged, seconds: Tensor) -> Times:
    padded = layout.pad(seconds)
    return Times(padded, padded)


def norm(module: Any, x: Tensor) -> Tensor:
    if isinstance(module, torch.nn.RMSNorm):
        return x / (x.square().mean() + 1e-6).sqrt() * module.weight
    deviation = (x.var(correction=0) + 1e-6).sqrt()
    return (x - x.mean()) / deviation * module.weight + module.bias


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def literal_attention(
    kind: str, layer: Any, bias: Any, xs: list[Tensor], seconds: list[int], i: int
) -> tuple[Tensor, Tensor]:
    """(sum over j <= i of weight(i, j) v_j [H*D], gate) of one user's tokens."""
    if kind == "transformer":
        normed = [norm(layer.attention_norm, x) for x in xs]
        q = layer.proj.query.weight @ normed[i]
        ks = [layer.proj.key.weight @ x for x in normed]
        vs = [layer.proj.value.weight @ x for x in normed]
        gate = q.new_zeros(0)
    else:
        act = silu if kind == "canonical" else lambda x: x
        parts = [(layer.inputs.weight @ norm(layer.norm, x)).chunk(4) for x in xs]
        gate, q = silu(parts[i][0]), act(parts[i][2])
        ks, vs = [act(p[3]) for p in parts], [act(p[1]) for p in parts]
    out = []
    for head in range(HEADS):
        mine = slice(head * D, (head + 1) * D)
        weights = []
        for j in range(i + 1):
            score = q[mine] @ ks[j][mine]
            if kind == "released":
                score = score / D**0.5
            score = score + bias.position.weight[i - j, head]
            if bias.time is not None:
                bucket = int(math.log(max(seconds[i] - seconds[j], 1)) / 0.301)
                score = score + bias.time[min(bucket, 127)]
            if kind == "canonical":
                weights.append(silu(score) / MAX_TOKENS)
            else:
                weights.append(score.exp() if kind == "transformer" else (1 + score.exp()).log())
        total = 1.0 if kind == "canonical" else sum(weights)
        out.append(sum(w / total * v[mine] for w, v in zip(weights, vs, strict=False)))
    return torch.cat(out), gate


def literal_layer(
    kind: str, layer: Any, bias: Any, xs: list[Tensor], seconds: list[int]
) -> list[Tensor]:
    found = []
    for i, x in enumerate(xs):
        attended, gate = literal_attention(kind, layer, bias, xs, seconds, i)
        if kind == "transformer":
            x = x + layer.proj.output.weight @ attended
            hidden = torch.relu(layer.ff.up.weight @ norm(layer.ff_norm, x))
            found.append(x + layer.ff.down.weight @ hidden)
            continue
        if kind == "canonical":
            deviation = (attended.var(correction=0) + 1e-6).sqrt()
            attended = (attended - attended.mean()) / deviation
        found.append(x + layer.output.weight @ (attended * gate))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("poisoned")
def test_states_are_the_equations(kind: str) -> None:
    model = stack(kind)
    x, layout, seconds = tokens()
    states, _ = model(x, layout, both(layout, seconds))
    expected = []
    for xs, times in zip(x.split(LENGTHS), seconds.split(LENGTHS), strict=True):
        rows = list(xs)
        for i, layer in enumerate(model.layers):
            bias = model.biases[i % len(model.biases)]
            rows = literal_layer(kind, layer, bias, rows, times.tolist())
        expected += [norm(model.norm, row) for row in rows]
    torch.testing.assert_close(states, torch.stack(expected))
    weight = torch.randn_like(states)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad((states * weight).sum(), parameters)
    wanted = torch.autograd.grad((torch.stack(expected) * weight).sum(), parameters)
    for name, grad, right in zip(names, found, wanted, strict=True):
        torch.testing.assert_close(grad, right, msg=lambda text, name=name: f"{name}: {text}")
        assert (grad != 0).any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_users_do_not_depend_on_each_other(kind: str) -> None:
    model = stack(kind)
    x, layout, seconds = tokens()
    together, _ = model(x, layout, both(layout, seconds))
    alone = []
    for xs, times in zip(x.split(LENGTHS), seconds.split(LENGTHS), strict=True):
        single = Jagged.of(torch.tensor([0, len(xs)]), len(xs), len(xs))
        alone.append(model(xs, single, both(single, times))[0])
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_token_changes_no_earlier_state(kind: str) -> None:
    model = stack(kind)
    x, layout, seconds = tokens((6, 3))
    times = both(layout, seconds)
    before, _ = model(x, layout, times)
    changed = x.clone()
    changed[4] = torch.randn(C)
    after, _ = model(changed, layout, times)
    same = [0, 1, 2, 3, 6, 7, 8]
    assert torch.equal(before[same], after[same])
    assert (before[4:6] != after[4:6]).any(dim=1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_at_all(kind: str) -> None:
    model = stack(kind)
    for users in (0, 3):
        layout = Jagged.of(torch.zeros(users + 1, dtype=torch.int64), 0, 0)
        states, _ = model(torch.zeros(0, C).double(), layout, both(layout, torch.zeros(0).long()))
        assert tuple(states.shape) == (0, C)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_branches_are_whole_passes(kind: str, step: int) -> None:
    """Branches of 3 tokens, one or all at once, from any point, also from before all tokens."""
    model = stack(kind)
    x, layout, seconds = tokens()
    _, context = model(x, layout, both(layout, seconds))
    owners, ends = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([4, 1, 0, 7, 3, 0])
    new = torch.randn(len(owners), 3, C).double()
    asked = torch.tensor([5000 * e + 17 for e in ends.tolist()])
    branches = Jagged.of_owners(owners, len(LENGTHS))
    past: list[KeysValues] | None = None
    found = []
    for part in new.split(step, dim=1):
        given = Branches(branches, branches.pad(ends), branches.pad(asked), past)
        out, past = model.extend(part, context, given)
        found.append(out)
    first = [0, 4, 4, 11]
    for row, (owner, end) in enumerate(zip(owners.tolist(), ends.tolist(), strict=True)):
        mine = slice(first[owner], first[owner] + end)
        whole = torch.cat((x[mine], new[row]))
        single = Jagged.of(torch.tensor([0, end + 3]), end + 3, end + 3)
        times = torch.cat((seconds[mine], asked[row].expand(3)))[None]
        states, _ = model(whole, single, Times(times, times))
        torch.testing.assert_close(torch.cat(found, dim=1)[row], states[end:])


def test_without_times_the_bias_is_by_distance_alone() -> None:
    model = stack("canonical", time_bias=False)
    assert not model.timed
    x, layout, seconds = tokens()
    timed = both(layout, seconds)
    assert torch.equal(model(x, layout)[0], model(x, layout, timed)[0])


def test_dropout_is_drawn_in_training_alone() -> None:
    model = stack("canonical", dropout=0.5)
    x, layout, seconds = tokens()
    times = both(layout, seconds)
    assert torch.equal(model(x, layout, times)[0], model(x, layout, times)[0])
    model.train()
    assert not torch.equal(model(x, layout, times)[0], model(x, layout, times)[0])


def test_padding_and_back() -> None:
    x, layout, _ = tokens()
    padded = layout.pad(x)
    assert tuple(padded.shape) == (4, 7, C)
    assert torch.equal(padded[2], x[4:11])
    assert not padded[1].any()
    assert not padded[0, 4:].any()
    assert torch.equal(layout.flat(padded), x)
    even = Jagged.of(torch.tensor([0, 2, 4]), 2, 4)
    assert even.slots is None
    assert torch.equal(even.pad(x[:4]), x[:4].view(2, 2, C))
    assert torch.equal(even.flat(even.pad(x[:4])), x[:4])
