"""The copy head against a mixture that is counted by hand; ours, not in the paper."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import SIZES, SMALL, random_histories, toy_batch, toy_dataset, toy_model, toy_sids

from glass.models import Glass
from glass.models.repeats import SearchedHistory, repeat_features

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


def slow_features(sid: int, events: list[tuple[int, int, float]]) -> list[float]:
    """Of one SID in one history; events (sid, visits, days), oldest first."""
    ages = [age for age, event in enumerate(reversed(events)) if event[0] == sid]
    own = [event for event in events if event[0] == sid]
    visits = sorted({event[1] for event in own})
    counts = [
        len(own),
        *(sum(0.5 ** (age / h) for age in ages) for h in (8, 32, 128, 512)),
        *(sum(0.5 ** ((event[1] - 1) / h) for event in own) for h in (2, 8, 32)),
        *(sum(0.5 ** (event[2] / h) for event in own) for h in (7, 28, 84)),
        len(visits),
    ]
    gap = (visits[-1] - visits[0]) / (len(visits) - 1) if len(visits) > 1 else visits[0] + 10
    return [*(math.log(c + 0.01) for c in counts), math.log(visits[0]), math.log1p(gap)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=4), st.integers(0, 10_000))
def test_repeat_features_are_those_counted_one_by_one(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, flat = [], []
    for length in lengths:
        visits = np.sort(rng.integers(1, 12, length))[::-1]
        days = np.sort(rng.integers(0, 90, length).astype(float))[::-1]
        users.append(list(zip(rng.integers(0, 6, length), visits, days, strict=True)))
        flat += users[-1]
    columns = np.array(flat, dtype=float).reshape(-1, 3).T
    history = SearchedHistory(
        items=torch.zeros(len(flat), dtype=torch.int64),
        offsets=torch.tensor([0, *np.cumsum(lengths)]),
        visits=torch.from_numpy(columns[1].astype(np.int64)),
        days=torch.from_numpy(columns[2].astype(np.float32)),
    )
    sids = torch.from_numpy(columns[0].astype(np.int64))
    features, newest = repeat_features(history, sids, 6)
    place = 0
    for events in users:
        for number, (sid, _, _) in enumerate(events):
            last = all(sid != later[0] for later in events[number + 1 :])
            assert bool(newest[place]) == last
            if last:
                expected = slow_features(sid, events)
                assert features[place].tolist() == pytest.approx(expected, abs=2e-5)
            place += 1


def slow_copy(model: Glass, history: list[int], older: int) -> dict[tuple[int, ...], float]:
    """P_copy of every SID of the oldest `older` events; each event is a visit, a second apart."""
    head = model.copy_head
    assert head is not None
    number = {item: head.sid[item].item() for item in history}
    events = [
        (number[item], len(history) - place, (len(history) - 1 - place) / 86_400)
        for place, item in enumerate(history[:older])
    ]
    weights = {}
    for item in history[:older]:
        own = torch.tensor([*slow_features(number[item], events), *head.static[item].tolist()])
        scaled = ((own - head.mean) * head.scale).clamp(-8, 8)
        bend = (head.linear(scaled) + head.score(scaled)).item()
        weights[tuple(CODES[item])] = math.exp(own[0].item() + bend)
    total = sum(weights.values())
    return {codes: weight / total for codes, weight in weights.items()}


def mixture(
    model: Glass,
    level: int,
    logits: list[float],
    hidden: torch.Tensor,
    mass: list[float],
    matches: int,
) -> list[float]:
    """Probabilities lambda * P_copy + (1 - lambda) * P_decoder."""
    head = model.copy_head
    assert head is not None
    scale = sum(math.exp(logit) for logit in logits)
    decoded = [math.exp(logit) / scale for logit in logits]
    if not sum(mass):
        return decoded
    known = torch.tensor(
        [0.3 * math.log(sum(mass)), 0.3 * math.log(max(mass)), math.log1p(matches)]
    )
    gate = torch.sigmoid(head.gate[level](torch.cat((hidden, known)))).item()
    return [gate * m / sum(mass) + (1 - gate) * d for m, d in zip(mass, decoded, strict=True)]


def test_levels_mix_the_decoder_with_the_searched_history() -> None:
    model = mixing_model()
    batch = toy_batch(HISTORIES, TARGETS, CONFIG)
    encoded = model.encode(batch)
    truth = model.codes[batch.targets].long()
    retrieval = model.retrieve(encoded, truth[..., 0])
    assert retrieval is not None
    hidden, _ = model.decode(encoded, truth[..., :-1], retrieval)
    matched, losses = [], []
    for user, history in enumerate(HISTORIES):
        older = len(history) - CONFIG.short_length
        share = slow_copy(model, history, older)
        newest = {tuple(CODES[history[p]]): p for p in range(older)}
        start = int(batch.long_offsets[user])
        for place, target in enumerate(TARGETS[user]):
            found = {p - start for p in retrieval.positions[user, place].tolist() if p >= 0}
            for level in range(3):
                prefix = tuple(CODES[target][:level])
                mass = [0.0] * SIZES[level]
                for codes, probability in share.items():
                    if codes[:level] == prefix and (level == 0 or newest[codes] in found):
                        mass[codes[level]] += probability
                matched.append(sum(mass) > 0)
                events = range(older) if level == 0 else found
                matches = sum(CODES[history[p]][:level] == list(prefix) for p in events)
                state = hidden[user, place, level]
                rows = slice(sum(SIZES[:level]), sum(SIZES[: level + 1]))
                logits = (model.token_table[rows] @ state / math.sqrt(CONFIG.d_model)).tolist()
                expected = mixture(model, level, logits, state, mass, matches)
                assert sum(expected) == pytest.approx(1, abs=1e-5)
                mixed = model.level_logits(hidden[..., level, :], level, encoded, retrieval, truth)[
                    user, place
                ]
                assert mixed.exp().tolist() == pytest.approx(expected, abs=1e-5)
                losses.append(-math.log(expected[CODES[target][level]]))
    assert not all(matched)
    assert sum(matched) > 8
    assert model(batch).loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_head_is_fitted_on_training_events_alone() -> None:
    """What validation and test events hold must not reach the buffers."""
    users = [[[2], [2], [3], [4], [5]], [[7], [2, 2], [8], [9], [10]]]
    changed = [[*user[:3], [11], [12]] for user in users]
    heads = [toy_model(CONFIG, dataset=toy_dataset(u)).copy_head for u in (users, changed)]
    assert heads[0] is not None
    assert heads[1] is not None
    for name, buffer in heads[0].named_buffers():
        torch.testing.assert_close(buffer, heads[1].get_buffer(name))
    # item 2: four training events of two users
    assert heads[0].static[2].tolist() == pytest.approx([math.log(5), math.log(5 / 3)])


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
