"""The copy head against a mixture that is counted by hand; ours, not in the paper."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from toy import SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.models import Glass
from glass.models.copy_head import HALF_LIVES

CONFIG = dataclasses.replace(SMALL, dropout=0.0, copy_head=True)
PLAIN = dataclasses.replace(CONFIG, copy_head=False)
HISTORIES = random_histories(3, (6, 30), seed=4)
TARGETS = [[3, 9], [12, 5], [30, 1]]
CODES = toy_sids().codes.tolist()


def mixing_model() -> Glass:
    """A head whose function is not at its neutral start."""
    model = toy_model(CONFIG)
    assert model.copy_head is not None
    for parameter in model.copy_head.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def mixture(
    model: Glass, level: int, logits: list[float], hidden: torch.Tensor, events: list[tuple]
) -> list[float]:
    """Probabilities lambda * P_copy + (1 - lambda) * P_decoder.

    events: (code, age) of the history events that follow the prefix.
    """
    head = model.copy_head
    assert head is not None
    share = torch.softmax(10 * head.weight[level], 0).tolist()
    scores = []
    for code in range(SIZES[level]):
        ages = [age for follows, age in events if follows == code]
        counts = [float(len(ages)), *(sum(0.5 ** (a / h) for a in ages) for h in HALF_LIVES)]
        features = torch.tensor([math.log(count + 0.01) for count in counts])
        bend = head.score[level](features).item()
        mixed = sum(s * count for s, count in zip(share, counts, strict=True)) + 1e-6
        scores.append(mixed * math.exp(bend) if ages else 0.0)
    total = sum(math.exp(logit) for logit in logits)
    decoded = [math.exp(logit) / total for logit in logits]
    if not events:
        return decoded
    state = torch.cat((hidden, torch.tensor([math.log1p(len(events))])))
    gate = torch.sigmoid(head.gate[level](state)).item()
    copied = [score / sum(scores) for score in scores]
    return [gate * c + (1 - gate) * d for c, d in zip(copied, decoded, strict=True)]


def test_levels_mix_the_decoder_with_the_searched_history() -> None:
    model = mixing_model()
    batch = toy_batch(HISTORIES, TARGETS, CONFIG)
    encoded = model.encode(batch)
    truth = model.codes[batch.targets].long()
    retrieval = model.retrieve(encoded, truth[..., 0])
    assert retrieval is not None
    hidden, _ = model.decode(encoded, truth[..., :-1], retrieval)
    sizes, losses = [], []
    for user, history in enumerate(HISTORIES):
        older = history[: -CONFIG.short_length]
        start = int(batch.long_offsets[user])
        for place, target in enumerate(TARGETS[user]):
            found = [p - start for p in retrieval.positions[user, place].tolist() if p >= 0]
            for level in range(3):
                events = [
                    (CODES[older[p]][level], len(older) - 1 - p)
                    for p in (range(len(older)) if level == 0 else found)
                    if CODES[older[p]][:level] == CODES[target][:level]
                ]
                sizes.append(len(events))
                state = hidden[user, place, level]
                rows = slice(sum(SIZES[:level]), sum(SIZES[: level + 1]))
                logits = (model.token_table[rows] @ state / math.sqrt(CONFIG.d_model)).tolist()
                expected = mixture(model, level, logits, state, events)
                assert sum(expected) == pytest.approx(1, abs=1e-5)
                mixed = model.level_logits(hidden[..., level, :], level, encoded, retrieval, truth)[
                    user, place
                ]
                assert mixed.exp().tolist() == pytest.approx(expected, abs=1e-5)
                losses.append(-math.log(expected[CODES[target][level]]))
    assert 0 in sizes
    assert sum(size > 0 for size in sizes) > 8
    assert model(batch).loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_head_is_the_decoder_where_nothing_matches() -> None:
    model = mixing_model()
    batch = toy_batch([[1, 2]], [[3]], CONFIG)  # no long history
    with_head = model(batch).loss
    with_head.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.copy_head = None
    torch.testing.assert_close(model(batch).loss, with_head)


def test_new_head_mixes_the_frequencies_half_and_half() -> None:
    """Before training P_copy follows the counts, here of one code, and lambda is 1/2."""
    model = toy_model(CONFIG)
    batch = toy_batch([[5, 5, 5, 6, 7, 8, 9]], [[1]], CONFIG)  # older: item 5 three times
    encoded = model.encode(batch)
    prefix = torch.zeros(1, 1, 0, dtype=torch.int64)
    hidden, _ = model.decode(encoded, prefix, None)
    mixed = model.level_logits(hidden[:, :, 0], 0, encoded, None, prefix)[0, 0].exp()
    model.copy_head = None
    decoded = model.level_logits(hidden[:, :, 0], 0, encoded, None, prefix)[0, 0].softmax(-1)
    expected = 0.5 * decoded
    expected[CODES[5][0]] += 0.5
    torch.testing.assert_close(mixed, expected)


def test_loss_is_finite_and_near_under_autocast() -> None:
    model = mixing_model()
    batch = toy_batch(HISTORIES, TARGETS, CONFIG)
    exact = model(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch).loss
    assert abs(half - exact) < 0.02 * exact
    half.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_head_needs_the_search_and_is_off_in_the_paper() -> None:
    assert toy_model(dataclasses.replace(CONFIG, use_hard_search=False)).copy_head is None
    assert toy_model(PLAIN).copy_head is None
