"""Generation's shortcuts against the modules they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sequence_cases import TINY, histories_batch, sequence_model

import glass_kernels
from glass.generation import generate
from glass.models.sequence import IntRR
from glass.models.sequence.fused import Levels, causal_states
from glass.models.sequence.jagged import Jagged
from glass.models.sequence.transformer import transformer
from glass_kernels import SidTrie
from glass_kernels.decoder_step import runs
from glass_kernels.modules import RecursiveAssignment

needs_cpp = pytest.mark.skipif(not runs(torch.zeros(1)), reason="the C++ library is not built")


@needs_cpp
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("lengths", [[1], [7], [3, 3], [2, 0, 5, 1], [40, 3]])
@pytest.mark.parametrize(("width", "heads", "head_dim"), [(16, 2, 8), (24, 3, 8), (40, 2, 4)])
@torch.no_grad()
def test_a_causal_stack_is_the_backbone(
    lengths: list[int], width: int, heads: int, head_dim: int
) -> None:
    torch.manual_seed(1)
    config = replace(TINY, d_model=width, num_heads=heads, head_dim=head_dim, num_layers=2)
    backbone = transformer(config).eval()
    for parameter in backbone.parameters():  # norms of 1 would hide a norm left out
        parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    total = sum(lengths)
    layout = Jagged.of(glass_kernels.lengths_to_offsets(torch.tensor(lengths)), max(lengths), total)
    x = torch.randn(total, width)
    found = causal_states(backbone, x, layout)
    assert found is not None
    torch.testing.assert_close(found, backbone(x, layout)[0], rtol=1e-4, atol=1e-5)
    # Later rows of a user change nothing before them.
    x[-1] += 1
    again = causal_states(backbone, x, layout)
    assert again is not None
    assert torch.equal(again[:-1], found[:-1])
    assert not torch.equal(again[-1], found[-1])


@needs_cpp
@torch.no_grad()
def test_other_backbones_and_backends_have_none() -> None:
    layout, x = Jagged.of(torch.tensor([0, 2]), 2, 2), torch.randn(2, TINY.d_model)
    for system in ("intrr_transformer", "intrr_hstu"):
        backbone = sequence_model(system).float().backbone
        found = causal_states(backbone, x, layout)
        assert (found is None) == (system == "intrr_hstu")
        with glass_kernels.use_backend("reference"):
            assert causal_states(backbone, x, layout) is None
        assert causal_states(backbone.double(), x.double(), layout) is None


@pytest.mark.parametrize("context", ["previous", "sum"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@torch.no_grad()
def test_level_tables_are_the_network(levels: int, context: str) -> None:
    torch.manual_seed(0)
    sizes = [5, 4, 7, 3][:levels]
    network = RecursiveAssignment(6, sizes, hidden_dim=9, context=context)  # type: ignore[arg-type]
    guidance = torch.randn(3, 6)
    for _ in range(2):
        steps = Levels(network, guidance)
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
        for parameter in network.parameters():  # as a step of training: nothing stale is kept
            parameter.mul_(1.5)


@needs_cpp
@pytest.mark.parametrize("context", ["previous", "sum"])
def test_with_and_without_shortcuts_the_beams_are_the_same(context: str) -> None:
    model = sequence_model("intrr_transformer", context=context).float()
    assert isinstance(model, IntRR)
    batch = histories_batch([[3, 5, 3], [], [1]])
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    found = generate(model, batch, trie, beam_width=4)
    with glass_kernels.use_backend("reference"):
        truth = generate(model, batch, trie, beam_width=4)
    assert torch.equal(found.codes, truth.codes)
    torch.testing.assert_close(found.scores, truth.scores, rtol=1e-4, atol=1e-5)
