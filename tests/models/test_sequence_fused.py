"""Generation's shortcuts against the modules they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from sequence_cases import TINY, histories_batch, sequence_model
from torch import Tensor

from glass.generation import generate
from glass.models.sequence import IntRR
from glass.models.sequence.backbone import Backbone, Times
from glass.models.sequence.fused import Stack
from glass.models.sequence.hstu import hstu
from glass.models.sequence.jagged import Jagged
from glass.models.sequence.levels import Levels, LevelTables
from glass.models.sequence.transformer import transformer
from glass_kernels import SidTrie, lengths_to_offsets, use_backend
from glass_kernels.decoder_step import runs
from glass_kernels.modules import RecursiveAssignment

needs_cpp = pytest.mark.skipif(not runs(torch.zeros(1)), reason="the C++ library is not built")


LENGTHS = [[1], [7], [3, 3], [2, 0, 5, 1], [40, 3]]


def moved(backbone: Backbone) -> Backbone:
    """In eval mode, with nothing at its neutral start: norms of 1 would hide a norm left out."""
    for parameter in backbone.parameters():
        parameter.mul_(1 + 0.3 * torch.rand_like(parameter)).add_(0.1 * torch.rand_like(parameter))
    return backbone.eval()


def jagged(lengths: list[int]) -> Jagged:
    return Jagged.of(lengths_to_offsets(torch.tensor(lengths)), max(lengths), sum(lengths))


def check_causal(states: Callable[[Tensor], Tensor | None], x: Tensor) -> None:
    """Later rows of a user change nothing before them."""
    before = states(x)
    x[-1] += 1
    after = states(x)
    assert before is not None
    assert after is not None
    assert torch.equal(after[:-1], before[:-1])
    assert not torch.equal(after[-1], before[-1])


@needs_cpp
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("width", "heads", "head_dim"), [(16, 2, 8), (24, 3, 8), (40, 2, 4)])
@torch.no_grad()
def test_a_causal_stack_is_the_backbone(
    lengths: list[int], width: int, heads: int, head_dim: int
) -> None:
    torch.manual_seed(1)
    config = replace(TINY, d_model=width, num_heads=heads, head_dim=head_dim)
    backbone = moved(transformer(config))
    layout, x = jagged(lengths), torch.randn(sum(lengths), width)
    stack = Stack.of(backbone)
    found = stack.states(x, layout, None)
    torch.testing.assert_close(found, backbone(x, layout)[0], rtol=1e-4, atol=1e-5)
    check_causal(lambda rows: stack.states(rows, layout, None), x)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("timed", [False, True])
@torch.no_grad()
def test_an_hstu_stack_is_the_backbone(lengths: list[int], timed: bool) -> None:
    torch.manual_seed(1)
    config = replace(TINY, d_model=12, num_heads=3, head_dim=4, time_bias=timed)
    backbone = moved(hstu(config, 9)).double()
    layout, x = jagged(lengths), torch.randn(sum(lengths), 12).double()
    times = None
    if timed:
        seconds = layout.pad(torch.randint(10**6, (sum(lengths),)).sort().values)
        times = Times(seconds, seconds)
    stack = Stack.of(backbone)
    for _ in range(2):  # the second time with biases that are there
        found = stack.states(x, layout, times)
        torch.testing.assert_close(found, backbone(x, layout, times)[0])
    check_causal(lambda rows: stack.states(rows, layout, times), x)


@needs_cpp
@torch.no_grad()
def test_where_there_is_no_shortcut() -> None:
    layout, x = Jagged.of(torch.tensor([0, 2]), 2, 2), torch.randn(2, TINY.d_model)
    plain = Stack.of(transformer(TINY).eval())
    assert plain.states(x, layout, None) is not None
    with use_backend("reference"):
        assert plain.states(x, layout, None) is None
    double = Stack.of(transformer(TINY).double().eval())
    assert double.states(x.double(), layout, None) is None
    released = Stack.of(hstu(replace(TINY, hstu="released"), 5).eval())
    assert released.states(x, layout, None) is None
    nobody = Jagged.of(torch.tensor([0, 0]), 0, 0)
    assert plain.states(x[:0], nobody, None) is None


@pytest.mark.parametrize("context", ["previous", "sum"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@torch.no_grad()
def test_level_tables_are_the_network(levels: int, context: str) -> None:
    torch.manual_seed(0)
    sizes = [5, 4, 7, 3][:levels]
    network = RecursiveAssignment(6, sizes, hidden_dim=9, context=context)  # type: ignore[arg-type]
    guidance = torch.randn(3, 6)
    steps = Levels(network, LevelTables.of(network), guidance)
    torch.testing.assert_close(steps.first(), network.level_logits(0, guidance[:, None]))
    prefix = torch.zeros(3, 1, 0, dtype=torch.int64)
    for level in range(1, levels):
        # Beams change places and number, and each takes its history along.
        parents = torch.randint(prefix.shape[1], (3, level + 3))
        codes = torch.randint(sizes[level - 1], parents.shape)
        before = prefix.gather(1, parents[..., None].expand(-1, -1, level - 1))
        prefix = torch.cat((before, codes[..., None]), -1)
        seen = network.codes_before(level, prefix)
        wanted = network.level_logits(level, guidance[:, None], seen)
        torch.testing.assert_close(steps.next(parents, codes), wanted)


@needs_cpp
@pytest.mark.parametrize("context", ["previous", "sum"])
def test_with_and_without_shortcuts_the_beams_are_the_same(context: str) -> None:
    model = sequence_model("intrr_transformer", context=context).float()
    assert isinstance(model, IntRR)
    batch = histories_batch([[3, 5, 3], [], [1]])
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    found = generate(model, batch, trie, beam_width=4)
    with use_backend("reference"):
        truth = generate(model, batch, trie, beam_width=4)
    assert torch.equal(found.codes, truth.codes)
    torch.testing.assert_close(found.scores, truth.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", ["intrr_transformer", "intrr_hstu"])
def test_training_on_leaves_nothing_stale(system: str) -> None:
    """Steps of an optimizer between two generations, with one that torch does not count."""
    batch = histories_batch([[3, 5, 3], [1]])
    model = sequence_model(system).float()
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    before = generate(model, batch, trie, beam_width=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    after = generate(model, batch, trie, beam_width=4)
    fresh = sequence_model(system).float()
    fresh.load_state_dict(model.state_dict())
    assert not torch.allclose(before.scores, after.scores)
    assert torch.equal(after.scores, generate(fresh, batch, trie, beam_width=4).scores)
