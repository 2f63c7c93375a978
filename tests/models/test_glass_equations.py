"""GLASS equals a literal reading of its equations: loss and every gradient, for every switch."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from literal import Literal
from torch import Tensor
from toy import SMALL, random_dataset, random_histories, toy_batch, toy_model, toy_sids

from glass.config import ModelConfig
from glass.models import Glass
from glass.sid import SidTable

PAPER = dataclasses.replace(SMALL, dropout=0.0, tier_edges="paper")
HISTORY = random_histories(1, (20, 21), seed=13)[0]
OLD = HISTORY[-1 - SMALL.short_length]  # the newest event of the long history
SWITCHES: dict[str, dict[str, Any]] = {
    "paper": {},
    "tier first": {"tier_token_last": False},
    "equal tiers": {"tier_edges": "equal", "num_tiers": 7},
    "no tier": {"use_sid_tier": False},
    "no search": {"use_hard_search": False},
    "gate from state": {"gate_input": "state"},
    "fixed gate": {"gate": "fixed", "fixed_gate": 0.3},
    "closed gate": {"gate": "fixed", "fixed_gate": 0.0},
    "trained retrieved": {"train_retrieved": True},
    "no neighbours": {"num_neighbours": 0},
    "one neighbour": {"num_neighbours": 1},
    "larger tau": {"search_min_items": 5},
    "no tau": {"search_min_items": 0},
    "two items": {"search_max_items": 2},
    "more items": {"search_max_items": 12, "search_min_items": 9},
    "all history": {"long_history": "all"},
    "standardized": {"tier_standardize": True},
    "empty by gate": {"empty_retrieval": "gate", "num_neighbours": 0},
    "short 9": {"short_length": 9},
    "short 1": {"short_length": 1},
}
EDGES = {"paper": [-1, -0.1, 0, 0.1, 1], "equal": np.linspace(-1, 1, 8).tolist()}


def sids() -> SidTable:
    """First-level code 3 is missing from the catalogue: its prototype is the global mean."""
    table = toy_sids()
    codes = table.codes.copy()
    codes[codes[:, 0] == 3, 0] = 1
    return dataclasses.replace(table, codes=codes)


def double_model(config: ModelConfig) -> Glass:
    """float64 model whose norms and gate biases are not at their neutral start."""
    model = toy_model(config, sids=sids(), dataset=random_dataset(6)).double()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def targets_by_bucket() -> list[int]:
    """One target of each first-level code of the catalogue, so that some buckets are sparse."""
    codes = sids().codes[:, 0]
    return [int(np.flatnonzero(codes == code)[0]) for code in np.unique(codes)]


def gradients(model: Glass, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda name: name.replace(" ", "-"))
def test_loss_and_gradients_are_those_of_the_equations(switch: str) -> None:
    config = dataclasses.replace(PAPER, **SWITCHES[switch])
    model = double_model(config)
    literal = Literal(model, config, sids(), EDGES[config.tier_edges])
    targets = targets_by_bucket()
    expected = [literal.loss(HISTORY, target) for target in targets]
    for target, one in zip(targets, expected, strict=True):
        found = model(toy_batch([HISTORY], [[target]], config)).loss
        torch.testing.assert_close(found, one, rtol=0, atol=1e-10)
    together = model(toy_batch([HISTORY], [targets], config)).loss
    mean = torch.stack(expected).mean()
    torch.testing.assert_close(together, mean, rtol=0, atol=1e-10)
    grads, wanted = gradients(model, together), gradients(model, mean)
    zero = torch.zeros((), dtype=torch.float64)
    for name, grad in grads.items():
        one, other = (zero if g is None else g for g in (grad, wanted[name]))
        torch.testing.assert_close(*torch.broadcast_tensors(one, other), rtol=0, atol=1e-10)


def test_fixture_reaches_every_case_of_the_search() -> None:
    """Full, sparse and empty buckets, and a sparse bucket that neighbours fill."""
    literal = Literal(double_model(PAPER), PAPER, sids(), EDGES["paper"])
    older = HISTORY[: -PAPER.short_length]
    codes = sids().codes[older, 0]
    sizes = [int((codes == code).sum()) for code in range(5)]
    assert max(sizes) > PAPER.search_max_items
    assert 0 in sizes
    reached = {len(literal.retrieved(older, code)) for code in range(5)}
    assert reached >= {PAPER.search_min_items, PAPER.search_max_items}


def test_every_neighbour_has_items() -> None:
    """Code 3 has none: it would take a place and bring no event."""
    for count in (1, 2, 4):
        config = dataclasses.replace(PAPER, num_neighbours=count)
        model = toy_model(config, sids=sids())
        assert model.hard_search is not None
        neighbours = model.hard_search.neighbours.tolist()
        for code, row in enumerate(neighbours):
            others = {0, 1, 2, 4} - {code}
            found = [other for other in row if other >= 0]
            assert set(found) <= others
            assert len(found) == len(set(found)) == min(count, len(others))
            assert row == [*found, *[-1] * (count - len(found))]


LOUD = [name for name in SWITCHES if name not in ("paper", "trained retrieved")]


@pytest.mark.parametrize("switch", LOUD, ids=lambda name: name.replace(" ", "-"))
def test_switch_changes_the_loss(switch: str) -> None:
    """The same weights where both have them; so the loss differs by the switch alone."""
    config = dataclasses.replace(PAPER, **SWITCHES[switch])
    base, model = double_model(PAPER), double_model(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    own = {
        "edges",
        "table",
        "neighbours",
        "feature_mean",
        "feature_scale",
    }  # follow from the configuration
    shared = {
        name: tensor
        for name, tensor in base.state_dict().items()
        if shapes.get(name) == tensor.shape and name.split(".")[-1] not in own
    }
    model.load_state_dict(shared, strict=False)
    losses = [
        [m(toy_batch([HISTORY], [[t]], c)).loss.item() for t in targets_by_bucket()]
        for m, c in ((base, PAPER), (model, config))
    ]
    assert max(abs(one - two) for one, two in zip(*losses, strict=True)) > 1e-6


def test_training_the_retrieved_rows_changes_the_gradient_alone() -> None:
    frozen = double_model(PAPER)
    trained = double_model(dataclasses.replace(PAPER, train_retrieved=True))
    batch = toy_batch([HISTORY], [targets_by_bucket()])
    one, two = frozen(batch).loss, trained(batch).loss
    assert torch.equal(one, two)
    first, second = gradients(frozen, one), gradients(trained, two)
    for name, grad in first.items():
        same = torch.equal(grad, second[name])
        assert same == (name != "token_table"), name


def test_retrieved_path_alone_gives_no_gradient_to_the_token_table() -> None:
    """The token looked at occurs in a retrieved item and in nothing else that is fed."""
    assert OLD not in HISTORY[-SMALL.short_length :]
    for train_retrieved in (False, True):
        model = double_model(dataclasses.replace(PAPER, train_retrieved=train_retrieved))
        with torch.no_grad():
            model.codes[:, 2] = 0
            model.codes[OLD, 2] = 1
        encoded = model.encode(toy_batch([HISTORY], [[0]]))
        retrieval = model.retrieve(encoded, model.codes[OLD, 0].view(1, 1))
        assert retrieval is not None
        assert OLD in [HISTORY[place] for place in retrieval.positions.flatten().tolist()]
        prefix = torch.zeros(1, 1, 1, dtype=torch.int64)
        hidden, _ = model.decode(encoded, prefix, retrieval)
        (grad,) = torch.autograd.grad(hidden.pow(2).sum(), model.token_table)
        row = int(model.level_start[2]) + 1
        assert bool((grad[row] != 0).any()) == train_retrieved


def test_gate_is_closed_at_bos_and_without_retrieval() -> None:
    """Exactly the same state as without the search, whatever the gate says."""
    model = double_model(PAPER)
    with_search = model.encode(toy_batch([HISTORY], [[0]]))
    codes = sids().codes[HISTORY[: -PAPER.short_length], 0]
    absent = next(code for code in range(5) if code not in codes)
    model.hard_search.num_neighbours = 0
    empty = model.retrieve(with_search, torch.tensor([[absent]]))
    assert empty is not None
    assert empty.lengths.item() == 0
    prefix = torch.tensor([[[absent, 1]]])
    without, _ = model.decode(with_search, prefix, None)
    found, _ = model.decode(with_search, prefix, empty)
    assert torch.equal(found, without)

    full = model.retrieve(with_search, torch.tensor([[int(codes[-1])]]))
    found, _ = model.decode(with_search, prefix, full)
    assert torch.equal(found[..., 0, :], without[..., 0, :])
    assert not torch.isclose(found[..., 1:, :], without[..., 1:, :]).all()


def test_gate_that_is_kept_is_zero_at_bos_and_open_after() -> None:
    model = double_model(PAPER)
    for layer in model.decoder.layers:
        layer.keep_gate = True
    model(toy_batch([HISTORY], [targets_by_bucket()]))
    for layer in model.decoder.layers:
        assert layer.gate.shape == (1, len(targets_by_bucket()), 3, PAPER.d_model)
        assert (layer.gate[:, :, 0] == 0).all()
        assert ((layer.gate[:, :, 1:] > 0) & (layer.gate[:, :, 1:] < 1)).all()


def test_quantile_edges_and_the_codes_neighbours_come_from_the_data() -> None:
    model = toy_model(dataclasses.replace(PAPER, tier_edges="quantile"), sids=sids())
    bought = torch.zeros(40)
    bought[2], bought[3] = 2, 1  # the training events of `toy_model`
    occupancy = model.tier.occupancy(bought)
    assert occupancy.tolist() == pytest.approx([0.25] * 4, abs=2 / 15)  # 5 codes a training event
    literal = Literal(model, PAPER, sids(), [])
    expected = [literal.neighbours(code) for code in range(5)]
    assert model.hard_search.neighbours.tolist() == expected


def test_every_pair_of_switches_keeps_the_equations() -> None:
    """A few pairs that meet in one tensor."""
    pairs = itertools.product(
        ({"tier_token_last": False}, {"long_history": "all"}),
        ({"gate_input": "state"}, {"train_retrieved": True}),
    )
    for one, two in pairs:
        config = dataclasses.replace(PAPER, **one, **two)
        model = double_model(config)
        literal = Literal(model, config, sids(), EDGES["paper"])
        target = targets_by_bucket()[1]
        found = model(toy_batch([HISTORY], [[target]], config)).loss
        torch.testing.assert_close(found, literal.loss(HISTORY, target), rtol=0, atol=1e-10)


def test_features_are_standardized_over_the_long_histories_of_training_samples() -> None:
    config = dataclasses.replace(PAPER, tier_standardize=True, short_length=2)
    dataset = random_dataset(6)
    model = toy_model(config, sids=sids(), dataset=dataset)
    samples = dataset.samples("train")
    rows = zip(samples.history_start, samples.history_end, strict=True)
    histories = [dataset.items[start:end][:-2].tolist() for start, end in rows]
    literal = Literal(model, config, sids(), EDGES["paper"])
    features = np.array([literal.histogram(history) for history in histories])
    assert len({len(history) for history in histories}) > 5
    mean, scale = model.tier.feature_mean.numpy(), model.tier.feature_scale.numpy()
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-6)
    deviation = features.std(0, ddof=1)
    np.testing.assert_allclose(scale, 1 / np.where(deviation < 1e-3, 1, deviation), rtol=1e-4)


@pytest.mark.parametrize("head_dim", [4, 5])  # an inner width of d_model and above
def test_copying_start_hands_tokens_through_the_cross_attentions(head_dim: int) -> None:
    config = dataclasses.replace(PAPER, initialization="copy", num_heads=4, head_dim=head_dim)
    model = toy_model(config)
    x = torch.randn(7, config.d_model)
    for layer in model.decoder.layers:
        for proj in (layer.short, layer.retrieved):
            torch.testing.assert_close(proj.output(proj.value(x)), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.retrieved_projection(x), x)


@pytest.mark.parametrize("search", [True, False])
def test_copying_start_in_narrower_heads_is_refused(search: bool) -> None:
    config = dataclasses.replace(
        PAPER, initialization="copy", num_heads=3, head_dim=5, use_hard_search=search
    )
    message = (
        r"model\.initialization is 'copy', .* least model\.d_model, were 3 \* 5 = 15 and 16; raise"
    )
    with pytest.raises(ValueError, match=message):
        toy_model(config)
    toy_model(dataclasses.replace(config, initialization="t5"))
