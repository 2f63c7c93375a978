"""What holds IntRR and its baseline together: data, sharing, content, budget, disk, convergence."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sequence_cases import (
    DATASET,
    ITEMS,
    KINDS,
    NUM_ITEMS,
    SIDS,
    TINY,
    histories_batch,
    sequence_model,
    windows_batch,
)
from toy import toy_dataset, toy_sids

import glass_kernels
from glass.generation import generate
from glass.models.sequence import IntRR, model_class, moved_share, parameter_counts
from glass.models.sequence.jagged import Jagged
from glass.sid import SidTable
from glass_kernels import SidTrie

UNSEEN = sorted(set(range(NUM_ITEMS)) - set(ITEMS))


def intrr(**settings: Any) -> IntRR:
    model = sequence_model("intrr_transformer", **settings)
    assert isinstance(model, IntRR)
    return model


def test_an_item_is_assigned_once_however_often_it_occurs() -> None:
    model = intrr()
    asked = []
    original = model.item_guidance
    model.item_guidance = lambda items: asked.append(items) or original(items)  # type: ignore[method-assign]
    model(histories_batch([[3, 3, 5], [5, 3]]))
    assert [items.tolist() for items in asked] == [[3, 5]]


def test_gradients_of_repeated_items_sum() -> None:
    """As if each occurrence had its own pass through the item side."""
    model = intrr()
    batch = windows_batch()
    model(batch).loss.backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    tokens, losses = model.item_tokens(batch.items, align=True)
    layout = Jagged.of(batch.offsets, batch.longest, len(batch.items))
    states, _ = model.backbone(tokens, layout, None)
    present = batch.targets >= 0
    rows, column = present.nonzero(as_tuple=True)
    codes = model.codes[batch.targets[rows, column]].long()
    predicted = model.network.teacher_forced(states[batch.states][rows], codes)
    (predicted.loss.sum(1).mean() + model.config.alignment * losses.mean()).backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


def test_without_alignment_the_items_have_no_loss() -> None:
    model = intrr(alignment=0.0)
    out = model(windows_batch())
    assert out.parts is not None
    assert set(out.parts) == {"rec"}
    assert torch.equal(out.parts["rec"], out.loss.detach())


@torch.no_grad()
def test_tokens_that_are_kept_are_those_of_the_weights() -> None:
    """Looked up without a gradient, computed with one; never those of other weights."""
    model = intrr()
    batch = histories_batch([[3, 3, UNSEEN[0]], [5, 3]])

    def computed() -> torch.Tensor:
        with torch.enable_grad():
            return model.read(batch)[0]

    for name in ("uids.weight", "codes"):
        torch.testing.assert_close(model.read(batch)[0], computed())
        before = computed()
        tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}[name]
        tensor.copy_(tensor.flip(0))
        assert not torch.equal(before, computed())
        torch.testing.assert_close(model.read(batch)[0], computed())


# --- items that training does not know


def test_an_unseen_item_is_the_sum_of_its_codes() -> None:
    model = intrr()
    assert UNSEEN
    items = torch.tensor([ITEMS[0], UNSEEN[0]])
    token, _ = model.item_tokens(items)
    codes = model.codes[UNSEEN[0]].tolist()
    static = sum(book[code] for book, code in zip(model.network.codebooks, codes, strict=True))
    torch.testing.assert_close(token[1], static / model.network.codebook_std)
    with torch.no_grad():
        model.uids.weight[UNSEEN] = 1e6
    again, _ = model.item_tokens(items)
    assert torch.equal(token, again)


def test_with_content_an_unseen_item_speaks_by_its_vector() -> None:
    model = intrr(content=True, assignment="soft")
    item = torch.tensor([UNSEEN[0]])
    uid_dim = model.config.uid_dim
    guidance = model.item_guidance(item)[0]
    weight, bias = model.guidance.weight[:, uid_dim:], model.guidance.bias
    vector = torch.from_numpy(SIDS.vectors[UNSEEN[0]]).double()
    torch.testing.assert_close(guidance, weight @ vector + bias)
    torch.testing.assert_close(
        model.item_tokens(item)[0], model.network(guidance[None])[0] / model.network.codebook_std
    )
    before = generate_one(model, [*ITEMS[:2], UNSEEN[0]])
    with torch.no_grad():
        model.content[UNSEEN[0]] = -3 * model.content[UNSEEN[0]] + 1
    after = generate_one(model, [*ITEMS[:2], UNSEEN[0]])
    assert not torch.equal(before, after)


def generate_one(model: IntRR, history: list[int]) -> torch.Tensor:
    trie = SidTrie.build(torch.from_numpy(SIDS.codes), SIDS.codebook_sizes)
    return generate(model, histories_batch([history]), trie, beam_width=5).scores


def test_content_reaches_the_loss_in_training() -> None:
    model = intrr(content=True).train()
    model(windows_batch()).loss.backward()
    grad = model.guidance.weight.grad
    assert grad is not None
    assert (grad[:, model.config.uid_dim :] != 0).any()
    assert not model.content.requires_grad


# --- redistribution


def test_moved_share_counts_codes_that_are_not_the_sids() -> None:
    model = intrr()
    found = model.assignments()
    assert [tuple(p.shape) for p in found] == [(NUM_ITEMS, size) for size in model.codebook_sizes]
    for level in found:
        torch.testing.assert_close(level.sum(1), torch.ones(NUM_ITEMS).double())
    best = torch.stack([level.argmax(1) for level in found], dim=1)
    share = moved_share(best, model.codes)
    expected = [
        np.mean([best[i, level] != model.codes[i, level] for i in range(NUM_ITEMS)])
        for level in range(3)
    ]
    assert share.tolist() == pytest.approx(expected)
    assert moved_share(model.codes, model.codes).tolist() == [0, 0, 0]
    some = torch.tensor([4, 2])
    for part, whole in zip(model.assignments(some), found, strict=True):
        torch.testing.assert_close(part, whole[some])


# --- data, budget, disk


def test_sids_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match="table holds 7 items, data set 'toy' 43"):
        sequence_model("intrr_hstu", sids=toy_sids(7))


def test_content_needs_vectors() -> None:
    codes = SIDS.codes
    bare = SidTable(codes, SIDS.codebook_sizes, np.zeros((len(codes), 0), np.float32))
    with pytest.raises(ValueError, match=r"sequence.content is true, but .* without item vectors"):
        sequence_model("intrr_transformer", sids=bare, content=True)
    sequence_model("intrr_transformer", sids=bare)


def test_without_clock_times_there_is_no_time_bias() -> None:
    ordinal = dataclasses.replace(DATASET, manifest={"time_unit": "ordinal"})
    assert sequence_model("intrr_hstu").reads_times
    assert not sequence_model("intrr_hstu", dataset=ordinal).reads_times


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(ValueError, match=r"system must be one of .*, was 'sasrec'"):
        model_class("sasrec")


@pytest.mark.parametrize("backbone", ["transformer", "hstu"])
def test_the_baseline_has_as_many_parameters(backbone: str) -> None:
    sizes = dict(d_model=64, num_layers=2, num_heads=2, head_dim=32, d_ff=128, uid_dim=128)
    ours = parameter_counts(sequence_model(f"intrr_{backbone}", **sizes))
    matched = parameter_counts(sequence_model(f"flattened_{backbone}", **sizes))
    plain = sequence_model(f"flattened_{backbone}", match_parameters=False, **sizes)
    assert parameter_counts(plain).trunk < 0.8 * ours.trunk
    assert matched.trunk == pytest.approx(ours.trunk, rel=0.03)
    assert ours.tables == NUM_ITEMS * 128 + sum(SIDS.codebook_sizes) * 64
    assert matched.tables == 2 * sum(SIDS.codebook_sizes) * 64


@pytest.mark.parametrize(("system", "hstu"), KINDS)
def test_a_model_is_the_same_from_disk(system: str, hstu: str, tmp_path: Path) -> None:
    model = sequence_model(system, hstu, content=system.startswith("intrr")).float()
    model.save_pretrained(tmp_path)
    loaded = model_class(system).from_pretrained(str(tmp_path)).eval()
    assert loaded.config == model.config
    batch = windows_batch(rows=[1, 2])
    assert torch.equal(loaded(batch).loss, model(batch).loss)


def test_a_history_of_one_and_a_batch_of_one() -> None:
    dataset = toy_dataset([[[1], [2], [3], [4]]], num_items=NUM_ITEMS)
    for system, hstu in KINDS:
        model = sequence_model(system, hstu, dataset=dataset)
        batch = windows_batch(dataset=dataset)
        assert (len(batch), batch.longest, batch.targets.tolist()) == (1, 1, [[2]])
        out = model(batch)
        assert out.loss.isfinite()
        assert tuple(out.hits.shape) == (1, 1, 3)


# --- training


def trained(system: str, backend: str | None, **settings: Any) -> list[float]:
    """Losses of a short training in float32."""
    torch.manual_seed(3)
    config = dataclasses.replace(TINY, d_model=16, dropout=0.1, **settings)
    model = model_class(system).from_data(system, config, SIDS, DATASET).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = windows_batch()
    losses = []
    for _ in range(25):
        with glass_kernels.use_backend(backend) if backend else nullcontext():
            loss = model(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("system", ["intrr_transformer", "intrr_hstu"])
def test_kernels_and_reference_train_alike(system: str) -> None:
    """Rounding moves an argmax here and there, so late losses agree less than early ones."""
    fast, slow = trained(system, None), trained(system, "reference")
    assert fast[:5] == pytest.approx(slow[:5], rel=1e-3)
    assert fast[-1] == pytest.approx(slow[-1], rel=0.1)
    assert fast[-1] < 0.85 * fast[0]


@pytest.mark.parametrize("system", ["flattened_transformer", "flattened_hstu"])
def test_the_baseline_learns(system: str) -> None:
    losses = trained(system, None)
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize(
    "settings", [{"assignment": "soft"}, {"learn_temperature": True}, {"hstu": "released"}], ids=str
)
def test_variants_learn(settings: dict[str, Any]) -> None:
    losses = trained("intrr_hstu", None, **settings)
    assert losses[-1] < 0.85 * losses[0]
