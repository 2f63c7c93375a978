"""GLASS with IntRR equals a literal reading of its equations, and generates what it trained."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from backends import every_op_on, other_backends
from literal_union import LiteralUnion
from toy import (
    NUM_ITEMS,
    SIZES,
    SMALL,
    random_dataset,
    random_histories,
    toy_batch,
    toy_dataset,
    toy_sids,
)

from glass.data import Dataset
from glass.data.batches import Kept
from glass.generation import generate
from glass.models import GlassIntrr
from glass.models.glass_intrr import GlassIntrrConfig
from glass.sid import SidTable
from glass_kernels import SidTrie

PLAIN = GlassIntrrConfig(
    **{**asdict(SMALL), "dropout": 0.0, "tier_edges": "paper"}, uid_dim=7, hidden_dim=11
)
HISTORY = random_histories(1, (20, 21), seed=13)[0]
TARGETS = list(range(0, 40, 6))
SWITCHES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "tier first": {"tier_token_last": False},
    "no tier": {"use_sid_tier": False},
    "tier for the encoder alone": {"tier_guidance": False},
    "no search": {"use_hard_search": False},
    "no first code": {"first_code": False},
    "neither": {"use_hard_search": False, "first_code": False},
    "gate from state": {"gate_input": "state"},
    "fixed gate": {"gate": "fixed", "fixed_gate": 0.3},
    "trained retrieved": {"train_retrieved": True},
    "empty by gate": {"empty_retrieval": "gate", "num_neighbours": 0},
    "all history": {"long_history": "all"},
    "content": {"content": True},
    "soft": {"assignment": "soft", "temperature": 0.7},
    "no alignment": {"alignment": 0.0},
    "large codebooks": {"codebook_std": 0.8},
    "summed context": {"context": "sum"},
}
BY_NAME = {"ids": lambda name: name.replace(" ", "-")}
GENERATED = ("no search", "no first code", "neither", "summed context")
MOVED = ("norm", "bias", "tier_guidance", "first_code", "gate", "linear")
EDGES = [-1, -0.1, 0, 0.1, 1]
TRIE = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)


def known(num_items: int = NUM_ITEMS) -> Dataset:
    """Training knows every item."""
    items = list(range(num_items))
    return toy_dataset([[*([item] for item in items), [0], [0]]], num_items)


def union(
    config: GlassIntrrConfig = PLAIN, sids: SidTable | None = None, dataset: Dataset | None = None
) -> GlassIntrr:
    """Nothing is at its neutral start."""
    torch.manual_seed(0)
    table = sids or toy_sids()
    model = GlassIntrr.from_data(config, table, dataset or known(len(table.codes)))
    for name, parameter in model.named_parameters():
        if any(
            part in name
            for part in ("norm", "bias", "tier_guidance", "first_code", "gate", "linear")
        ):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def gradients(model: GlassIntrr, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("switch", SWITCHES, **BY_NAME)
def test_loss_and_gradients_are_those_of_the_equations(switch: str, poisoned: None) -> None:
    config = dataclasses.replace(PLAIN, **SWITCHES[switch])
    model = union(config).double()
    literal = LiteralUnion(model, config, toy_sids(), EDGES)
    wanted = torch.stack([literal.loss(HISTORY, target) for target in TARGETS]).mean()
    found = model(toy_batch([HISTORY], [TARGETS], config)).loss
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    grads, expected = gradients(model, found), gradients(model, wanted)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("switch", [s for s in SWITCHES if s != "as it is"], **BY_NAME)
def test_switch_changes_loss_or_gradient(switch: str) -> None:
    """The same weights where both have them."""
    config = dataclasses.replace(PLAIN, **SWITCHES[switch])
    base, model = union().double(), union(config).double()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shared = {n: t for n, t in base.state_dict().items() if shapes.get(n) == t.shape}
    model.load_state_dict(shared, strict=False)
    losses = [m(toy_batch([HISTORY], [TARGETS], m.config)).loss for m in (base, model)]
    grads = [
        gradients(m, loss)["network.codebooks.2"]
        for m, loss in zip((base, model), losses, strict=True)
    ]
    assert (losses[0] - losses[1]).abs() > 1e-6 or (grads[0] - grads[1]).abs().max() > 1e-6
    assert ((losses[0] - losses[1]).abs() > 1e-6) == (switch != "trained retrieved")


def test_retrieved_path_alone_gives_no_gradient_to_the_codebooks() -> None:
    """Of a level whose codes nothing else reads: the last one's, from the guidance of deeper."""
    for train_retrieved in (False, True):
        model = union(dataclasses.replace(PLAIN, train_retrieved=train_retrieved))
        read, _ = model.read(toy_batch([HISTORY], [[0]]))
        read = dataclasses.replace(read, guidance=read.guidance.detach())
        sid1 = torch.tensor([[int(toy_sids().codes[HISTORY[-9], 0])]])
        retrieval = model.retrieve(read, sid1)
        assert retrieval is not None
        assert int(retrieval.lengths) > 0
        deeper = model.deeper(read.guidance, sid1, model.code_tables(), retrieval)
        grads = gradients(model, deeper.pow(2).sum())
        assert bool(grads["network.codebooks.2"].any()) == train_retrieved
        assert grads["retrieved_guidance.attention.key.weight"].any()
        assert not grads["uids.weight"].any()


def test_items_are_spread_once_however_often_they_occur() -> None:
    """Duplicates, within a user and between users, and users of any length."""
    model = union().double()
    histories, targets = [[3, 3, 3, 5], [5], [3, 9]], [[1, 2], [3], [4, 0, 7]]
    rows = []
    model.network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    together = model(toy_batch(histories, targets, PLAIN))
    assert rows == [3 + 1]  # and item 0, which stands for padding
    alone = [model(toy_batch([h], [t], PLAIN)) for h, t in zip(histories, targets, strict=True)]
    parts = [one.parts for one in alone]
    for name, weights in (("rec", [2, 1, 3]), ("align", [4, 1, 2])):
        wanted = sum(w * p[name] for w, p in zip(weights, parts, strict=True)) / sum(weights)
        torch.testing.assert_close(together.parts[name], wanted, rtol=0, atol=1e-12)
    wanted = together.parts["rec"] + PLAIN.alignment * together.parts["align"]
    torch.testing.assert_close(together.loss.detach(), wanted)
    grad = gradients(model, together.loss)["uids.weight"]
    assert grad.abs().amax(1).nonzero().flatten().tolist() == [3, 5, 9]


@pytest.mark.parametrize("switch", ["copying", *GENERATED], **BY_NAME)
def test_generation_finds_what_an_exhaustive_search_finds(switch: str) -> None:
    """All SIDs of the catalogue, by the teacher-forced loss of each."""
    switches = SWITCHES.get(switch, {"copy_head": True})
    config = dataclasses.replace(PLAIN, alignment=0.0, **switches)
    model = union(config).double().eval()
    codes = toy_sids().codes
    distinct = np.unique(codes, axis=0, return_index=True)[1]
    for history in (HISTORY, []):
        batch = toy_batch([history], [[1]], config)
        beams = generate(model, batch, TRIE, beam_width=50, mask_before_softmax=False)
        wanted = {}
        for item in distinct.tolist():
            one = model(toy_batch([history], [[item]], config))
            wanted[tuple(codes[item].tolist())] = -len(SIZES) * one.loss.item()
        ranked = sorted(wanted.items(), key=lambda pair: -pair[1])
        found = [tuple(row) for row in beams.codes[0, : len(ranked)].tolist()]
        assert found == [sid for sid, _ in ranked]
        assert beams.scores[0, : len(ranked)].tolist() == pytest.approx(
            [score for _, score in ranked], abs=1e-5
        )
        assert (beams.codes[0, len(ranked) :] == -1).all()


def test_generation_narrower_than_the_catalogue_follows_its_beams() -> None:
    """Retrieval and guidance go with their beam where parents are out of order."""
    model = union().double().eval()
    literal = LiteralUnion(model, PLAIN, toy_sids(), EDGES)
    beams = generate(model, toy_batch([HISTORY], [[1]]), TRIE, beam_width=6, constrained=False)
    for sid, score in zip(beams.codes[0].tolist(), beams.scores[0].tolist(), strict=True):
        log_probs = literal.log_probs(HISTORY, sid)
        wanted = sum(
            float(level[code].detach()) for level, code in zip(log_probs, sid, strict=True)
        )
        assert score == pytest.approx(wanted, abs=1e-5)
    order = beams.prefixes[0][0, :, 0].tolist()
    assert [sid[0] for sid in beams.codes[0].tolist()] != order


def test_users_do_not_depend_on_their_batch() -> None:
    model = union(dataclasses.replace(PLAIN, copy_head=True)).eval()
    histories = [*random_histories(4, (1, 25), seed=2), []]
    batch = toy_batch(histories, [[1]] * 5, PLAIN)
    together = generate(model, batch, TRIE, beam_width=7)
    for row, history in enumerate(histories):
        alone = generate(model, toy_batch([history], [[1]], PLAIN), TRIE, beam_width=7)
        assert torch.equal(together.codes[row], alone.codes[0])
        torch.testing.assert_close(together.scores[row], alone.scores[0], rtol=0, atol=1e-5)


def test_empty_histories_train_and_generate() -> None:
    model = union(dataclasses.replace(PLAIN, copy_head=True))
    output = model(toy_batch([[], []], [[1], [2, 3]], PLAIN))
    assert output.loss.isfinite()
    assert output.parts["align"] == 0
    grads = gradients(model, output.loss)
    assert all(grad.isfinite().all() for grad in grads.values())
    assert output.retrieved.tolist() == [[0, 0], [0, 0]]


def test_items_that_training_lacks_have_the_token_of_their_sid() -> None:
    model = union(dataset=random_dataset(3)).eval()
    unseen = (~model.seen).nonzero().flatten()
    assert len(unseen) > 3
    tokens, _ = model.item_tokens(unseen)
    codes = toy_sids().codes[unseen.numpy()]
    for token, sid in zip(tokens, codes, strict=True):
        rows = [book[code] for book, code in zip(model.network.codebooks, sid, strict=True)]
        torch.testing.assert_close(token, torch.stack(rows).sum(0) / model.network.codebook_std)


def test_generation_reads_the_weights_as_they_are_now() -> None:
    """The table of all items' tokens is kept, but not when a weight was changed."""
    model = union().eval()
    batch = toy_batch([HISTORY], [[1]], PLAIN)
    before = generate(model, batch, TRIE, beam_width=5).scores
    assert torch.equal(before, generate(model, batch, TRIE, beam_width=5).scores)
    with torch.no_grad():
        model.uids.weight.neg_()
    after = generate(model, batch, TRIE, beam_width=5).scores
    assert not torch.equal(before, after)
    fresh = union().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(after, generate(fresh, batch, TRIE, beam_width=5).scores)


def test_what_a_server_keeps_serves_as_well() -> None:
    model = union().eval()
    batch = toy_batch([HISTORY, [4, 5]], [[1]] * 2, PLAIN)
    assert model.tier is not None
    tiers = model.tier.histogram(batch.long_items, batch.long_offsets)
    read, _ = model.read(batch)
    kept = dataclasses.replace(batch, kept=Kept(tiers, read.index, read.tokens))
    wanted = generate(model, batch, TRIE, beam_width=5)
    found = generate(model, kept, TRIE, beam_width=5)
    assert torch.equal(found.scores, wanted.scores)


@pytest.mark.parametrize("backend", other_backends())
def test_training_step_on_a_backend_is_the_references(backend: str, poisoned: None) -> None:
    config = dataclasses.replace(PLAIN, copy_head=True)
    model = union(config).double()
    batch = toy_batch([*random_histories(3, (1, 30), seed=5), []], [[3], [5, 0, 7], [9], [1]])
    steps = []
    for name in ("reference", backend):
        with every_op_on(name) as called:
            loss = model(batch).loss
            steps.append((loss.detach(), gradients(model, loss)))
        assert called
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-9, atol=1e-11)


def test_saved_model_is_the_same(tmp_path: Any) -> None:
    config = dataclasses.replace(PLAIN, copy_head=True, content=True)
    model = union(config).eval()
    model.save_pretrained(tmp_path)
    loaded = GlassIntrr.from_pretrained(str(tmp_path)).eval()
    assert loaded.config == config
    batch = toy_batch([HISTORY], [[1]], PLAIN)
    one, two = (generate(m, batch, TRIE, beam_width=5) for m in (model, loaded))
    assert torch.equal(one.scores, two.scores)


def test_content_without_vectors_is_refused() -> None:
    bare = dataclasses.replace(toy_sids(), vectors=np.zeros((NUM_ITEMS, 0), np.float32))
    config = dataclasses.replace(PLAIN, use_sid_tier=False, num_neighbours=0, content=True)
    with pytest.raises(ValueError, match=r"sequence\.content"):
        union(config, sids=bare)
