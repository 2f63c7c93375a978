"""What must not matter: padding, company in the batch; and histories at the edge."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy import NUM_ITEMS, SMALL, random_histories, toy_batch, toy_model

from glass.config import ModelConfig
from glass.data.batches import Batch
from glass.models import Glass

GLASS = dataclasses.replace(SMALL, dropout=0.0)
TIGER = dataclasses.replace(GLASS, use_sid_tier=False, use_hard_search=False)
COPYING = dataclasses.replace(GLASS, copy_head=True, empty_retrieval="gate")
SYSTEMS = pytest.mark.parametrize(
    "config", [GLASS, COPYING, TIGER], ids=["glass", "copying", "tiger"]
)

HISTORIES = [*random_histories(5, (1, 30), seed=5), [4], [1, 2], random_histories(1, (4, 5))[0]]
TARGETS = [[3], [5, 0, 7], [9, 1], [2, 4, 6, 8], [38], [39], [0], [12, 11]]


def losses(model: Glass, batch: Batch) -> torch.Tensor:
    """Loss of each sample by itself, from one pass over the whole batch."""
    encoded = model.encode(batch)
    codes = model.codes[batch.targets.clamp(min=0)].long()
    retrieval = model.retrieve(encoded, torch.where(batch.targets >= 0, codes[..., 0], -1))
    hidden, _ = model.decode(encoded, codes[..., :-1], retrieval)
    total = torch.zeros(batch.targets.shape)
    for level in range(model.num_levels):
        state = hidden[..., level, :]
        logits = model.level_logits(state, level, encoded, retrieval, codes).log_softmax(-1)
        total = total - logits.gather(-1, codes[..., level, None])[..., 0].float()
    return (total / model.num_levels * (batch.targets >= 0)).sum(-1)


def every_gradient(model: Glass, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@SYSTEMS
def test_batch_loss_is_the_mean_over_all_targets_whatever_the_batch(config: ModelConfig) -> None:
    model = toy_model(config)
    whole = model(toy_batch(HISTORIES, TARGETS, config))
    count = sum(map(len, TARGETS))
    assert whole.correct.shape == (count, model.num_levels)
    alone = sum(
        model(toy_batch([h], [t], config)).loss * len(t)
        for h, t in zip(HISTORIES, TARGETS, strict=True)
    )
    torch.testing.assert_close(whole.loss, alone / count, rtol=0, atol=1e-5)
    first = every_gradient(model, whole.loss)
    second = every_gradient(model, alone / count)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)


@SYSTEMS
def test_loss_is_that_of_the_targets_cut_out_of_the_padding(config: ModelConfig) -> None:
    model = toy_model(config)
    batch = toy_batch(HISTORIES, TARGETS, config)
    present = batch.targets >= 0
    assert not present.all()
    encoded = model.encode(batch)
    codes = model.codes[batch.targets.clamp(min=0)].long()
    retrieval = model.retrieve(encoded, torch.where(present, codes[..., 0], -1))
    hidden, _ = model.decode(encoded, codes[..., :-1], retrieval)
    wanted, correct = [], []
    for level in range(model.num_levels):
        logits = model.level_logits(hidden[..., level, :], level, encoded, retrieval, codes)
        logits, target = logits[present], codes[..., level][present]
        wanted.append(torch.nn.functional.cross_entropy(logits, target))
        correct.append(logits.argmax(-1) == target)
    loss = torch.stack(wanted).mean()
    output = model(batch)
    torch.testing.assert_close(output.loss, loss, rtol=0, atol=1e-6)
    assert torch.equal(output.correct, torch.stack(correct, -1))
    assert torch.equal(output.present, present)
    assert output.hits.shape == (*present.shape, model.num_levels)
    assert not output.hits[~present].any()
    first, second = every_gradient(model, output.loss), every_gradient(model, loss)
    for name, grad in first.items():
        torch.testing.assert_close(grad, second[name], rtol=1e-5, atol=1e-6)


@SYSTEMS
def test_batch_without_any_target_has_no_loss(config: ModelConfig) -> None:
    model = toy_model(config)
    batch = toy_batch(HISTORIES, TARGETS, config)
    output = model(dataclasses.replace(batch, targets=torch.full_like(batch.targets, -1)))
    assert output.loss.isnan()  # which the training loop refuses
    assert output.correct.shape == (0, model.num_levels)


@SYSTEMS
def test_sample_is_independent_of_its_company_and_order(config: ModelConfig) -> None:
    model = toy_model(config)
    together = losses(model, toy_batch(HISTORIES, TARGETS, config))
    for row, (history, target) in enumerate(zip(HISTORIES, TARGETS, strict=True)):
        alone = losses(model, toy_batch([history], [target], config))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    back = losses(model, toy_batch(HISTORIES[::-1], TARGETS[::-1], config))
    torch.testing.assert_close(back.flip(0), together, rtol=0, atol=1e-5)


@SYSTEMS
def test_target_is_independent_of_the_other_targets_of_its_group(config: ModelConfig) -> None:
    model = toy_model(config)
    for target in TARGETS[3]:
        alone = losses(model, toy_batch(HISTORIES[3:4], [[target]], config))
        pair = losses(model, toy_batch(HISTORIES[3:4], [[target, 30]], config))
        other = losses(model, toy_batch(HISTORIES[3:4], [[30]], config))
        torch.testing.assert_close(pair, alone + other, rtol=0, atol=1e-5)


def test_side_of_the_padding_does_not_matter_without_tier_token() -> None:
    model = toy_model(TIGER)
    left = toy_batch(HISTORIES, TARGETS, TIGER, pad_left=True)
    right = toy_batch(HISTORIES, TARGETS, TIGER, pad_left=False)
    assert left.padded
    assert not torch.equal(left.short_items, right.short_items)
    torch.testing.assert_close(losses(model, left), losses(model, right), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tier_last", [True, False])
def test_wider_padding_changes_nothing(tier_last: bool) -> None:
    config = dataclasses.replace(GLASS, tier_token_last=tier_last)
    model = toy_model(config)
    histories = [[7], [8, 9]]  # shorter than the short history
    batch = toy_batch(histories, [[1], [2, 3]], config)
    pad = (3, 0) if tier_last else (0, 3)
    wide = dataclasses.replace(
        batch,
        short_items=torch.nn.functional.pad(batch.short_items, pad, value=-1),
        targets=torch.nn.functional.pad(batch.targets, (0, 4), value=-1),
    )
    torch.testing.assert_close(model(wide).loss, model(batch).loss, rtol=0, atol=1e-6)


EDGES = {
    "no long history": ([[1, 2, 3]], [[4]]),
    "single event": ([[1]], [[1]]),
    "one target of many": ([[1, 2, 3, 4, 5, 6], [5]], [[4], [1, 2, 3, 4]]),
    "ragged": (HISTORIES, TARGETS),
    "item of code 0, 0, 0": ([[0] * 9], [[0]]),
    "last item": ([[NUM_ITEMS - 1] * 9], [[NUM_ITEMS - 1]]),
}


@SYSTEMS
@pytest.mark.parametrize("edge", EDGES, ids=lambda name: name.replace(" ", "-"))
def test_loss_and_gradients_are_finite_at_the_edges(edge: str, config: ModelConfig) -> None:
    model = toy_model(dataclasses.replace(config, dropout=0.1))
    output = model(toy_batch(*EDGES[edge], config))
    assert output.loss.isfinite()
    for name, grad in every_gradient(model, output.loss).items():
        assert grad.isfinite().all(), name
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in model.named_parameters()}


def test_user_without_long_history_gives_the_search_no_gradient() -> None:
    model = toy_model(GLASS)
    grads = every_gradient(model, model(toy_batch([[1, 2, 3]], [[4]])).loss)
    for name, grad in grads.items():
        if "retrieved" in name or "fusion" in name:
            assert (grad == 0).all(), name
    tier = grads["tier.mlp.0.weight"]  # an empty history has zeros for features
    assert (tier == 0).all()
    assert (grads["tier.mlp.0.bias"] != 0).any()


def test_padding_is_not_item_zero() -> None:
    """Item 0 has the code (0, 0, 0), which the released code takes for padding."""
    model = toy_model(GLASS)
    assert model.codes[0].tolist() == [0, 0, 0]
    one = losses(model, toy_batch([[0, 5]], [[7]]))
    two = losses(model, toy_batch([[5]], [[7]]))
    both = losses(model, toy_batch([[0, 5], [5]], [[7], [7]]))
    assert abs(one - two) > 1e-4
    torch.testing.assert_close(both, torch.cat((one, two)), rtol=0, atol=1e-5)


def test_token_ids_of_levels_do_not_overlap_and_bos_is_none_of_them() -> None:
    model = toy_model(GLASS)
    tokens = model.item_tokens(torch.arange(NUM_ITEMS))
    assert tokens[0].tolist() == [0, 5, 9]
    assert tokens[1].tolist() == [4, 8, 11]
    assert model.token_table.shape[0] == 12
    assert model.bos.shape == (GLASS.d_model,)


@pytest.mark.parametrize("config", [GLASS, TIGER], ids=["glass", "tiger"])
def test_bfloat16_autocast_is_close_and_trains(config: ModelConfig) -> None:
    model = toy_model(config)
    batch = toy_batch(HISTORIES, TARGETS, config)
    exact = model(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch).loss
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 0.02 * exact
    for name, grad in every_gradient(model, loss).items():
        assert grad.dtype == torch.float32
        assert grad.isfinite().all(), name


def test_dropout_is_active_in_training_alone() -> None:
    model = toy_model(SMALL)
    batch = toy_batch(HISTORIES, TARGETS)
    assert model(batch).loss != model(batch).loss
    model.eval()
    assert model(batch).loss == model(batch).loss
