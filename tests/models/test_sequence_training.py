"""The losses of the sequence models against one pass for each target, user by user."""

from __future__ import annotations

import pytest
import torch
from sequence_cases import KINDS, sequence_model, windows_batch
from torch import Tensor
from torch.nn import functional as F

from glass.data.sequences import SequenceBatch
from glass.models.sequence import Flattened, IntRR, SequenceModel
from glass.models.sequence.backbone import Times
from glass.models.sequence.jagged import Jagged


def target_losses(
    model: SequenceModel, history: Tensor, times: Tensor, target: int
) -> tuple[list[Tensor], list[bool]]:
    """Cross-entropy and hit of each level of one target after one history, by itself."""
    codes = model.codes[target].long()
    if isinstance(model, IntRR):
        tokens = torch.stack([model.item_tokens(item[None])[0][0] for item in history])
        layout = Jagged.of(torch.tensor([0, len(history)]), len(history), len(history))
        seconds = times[None]
        states, _ = model.backbone(tokens, layout, Times(seconds, seconds))
        logits = [
            model.network.level_logits(level, states[-1], codes[level - 1])
            for level in range(model.num_levels)
        ]
    else:
        assert isinstance(model, Flattened)
        levels = model.num_levels
        ids = (model.codes[history].long() + model.level_start).flatten().tolist()
        ids += (codes + model.level_start)[:-1].tolist()
        seen = times.repeat_interleave(levels).tolist() + [int(times[-1])] * (levels - 1)
        asked = list(seen)
        for item in range(1, len(history)):
            for level in range(levels - 1):
                asked[item * levels + level] = int(times[item - 1])
        layout = Jagged.of(torch.tensor([0, len(ids)]), len(ids), len(ids))
        both = Times(torch.tensor([asked]), torch.tensor([seen]))
        states, _ = model.backbone(model.token_table[ids], layout, both)
        logits = [
            model.heads[level] @ states[len(history) * levels - 1 + level]
            for level in range(levels)
        ]
    losses = [F.cross_entropy(row, code) for row, code in zip(logits, codes, strict=True)]
    return losses, [bool(row.argmax() == code) for row, code in zip(logits, codes, strict=True)]


def literal(model: SequenceModel, batch: SequenceBatch) -> tuple[Tensor, list[list[bool]]]:
    """Mean over all targets of the sum over levels, and the hits of each target."""
    losses, hits = [], []
    for state, owner, targets in zip(batch.states, batch.owners, batch.targets, strict=True):
        rows = slice(int(batch.offsets[owner]), int(state) + 1)
        for target in targets[targets >= 0].tolist():
            found, hit = target_losses(model, batch.items[rows], batch.times[rows], target)
            losses.append(torch.stack(found).sum())
            hits.append(hit)
    return torch.stack(losses).mean(), hits


@pytest.mark.parametrize(("system", "hstu"), KINDS)
@pytest.mark.usefixtures("poisoned")
def test_loss_is_that_of_each_target_alone(system: str, hstu: str) -> None:
    """Groups of one item and of several; windows share items and have several lengths."""
    model = sequence_model(system, hstu)
    batch = windows_batch(rows=[0, 3, 4])
    assert batch.targets.shape[1] > 1
    out = model(batch)
    loss, hits = literal(model, batch)
    if isinstance(model, IntRR):
        assert out.parts is not None
        torch.testing.assert_close(out.parts["rec"], loss.detach())
        items = batch.items[:, None]
        each = torch.cat([model.item_tokens(item, align=True)[1] for item in items])
        torch.testing.assert_close(out.parts["align"], each.mean().detach())
        loss = loss + model.config.alignment * each.mean()
    torch.testing.assert_close(out.loss, loss)
    assert out.correct.tolist() == hits
    parameters = list(model.parameters())
    found = torch.autograd.grad(out.loss, parameters)
    expected = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(found, expected)
    assert all((grad != 0).any() for grad in found)
