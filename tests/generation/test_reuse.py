"""A decoder step reuses what belongs to the user: counted calls, and the rows they work on."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.data.batches import Batch
from glass.generation import generate
from glass.models import Glass
from glass.models import fused as fused_module
from glass_kernels import SidTrie
from glass_kernels.modules import hard_search

HISTORIES = random_histories(3, (9, 25), seed=2)
USERS, LEVELS, WIDTH, SHORT = len(HISTORIES), len(SIZES), 7, SMALL.short_length
TRIE = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)


class Products(TorchDispatchMode):
    """Notes the shapes [rows, inner, columns] of every product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, int, int]] = Counter()
        self.batched: list[list[int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in ("linear", "mm", "matmul", "addmm"):  # in inference mode some come whole
            one, other = args[:2] if name == "linear" else args[-2:]
            inner = one.shape[-1]
            self.shapes[one.numel() // inner, inner, other.numel() // inner] += 1
        if "scaled_dot_product" in name:
            self.batched.append([list(part.shape) for part in args[:3]])
        return func(*args, **(kwargs or {}))


def products_of(model: Glass, batch: Batch) -> Products:
    with Products() as seen:
        generate(model, batch, TRIE, beam_width=WIDTH)
    return seen


@pytest.mark.parametrize("tier", [True, False])
def test_products_of_a_search(tier: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder rows are multiplied once; each level multiplies one row a beam; tables none."""
    # Kernels of the whole encoder and of a whole step show none.
    monkeypatch.setattr(fused_module, "runs", lambda *tensors: False)
    config = dataclasses.replace(SMALL, use_sid_tier=tier)
    model = toy_model(config).eval()
    batch = toy_batch(HISTORIES, [[1]] * USERS, config)
    first = products_of(model, batch)
    seen = products_of(model, batch)
    d, inner, ff = SMALL.d_model, SMALL.num_heads * SMALL.head_dim, SMALL.d_ff
    length = LEVELS * SHORT + tier
    rows = USERS * length
    layers, deep = SMALL.num_encoder_layers, SMALL.num_decoder_layers
    wanted: Counter[tuple[int, int, int]] = Counter()
    for shape in ((d, 3 * inner), (inner, d), (d, ff), (ff, d)):
        wanted[(rows, *shape)] += layers
    wanted[(rows, d, 2 * inner * deep)] += 1
    for level, beams in enumerate((USERS, USERS * WIDTH, USERS * WIDTH)):
        for shape in ((d, 3 * inner), (inner, d), (inner, d), (d, ff), (ff, d)):
            wanted[(beams, *shape)] += deep
        wanted[(beams, d, inner * (2 if level else 1))] += deep
        if level:
            wanted[(beams, inner, d)] += deep
        wanted[(beams, d, SIZES[level])] += 1
    if tier:
        wanted[(USERS, SIZES[0] * SMALL.num_tiers, d)] += 1
        wanted[(USERS, d, d)] += 1
    for found in (first, seen):  # the gate's product shows where no kernel does it
        found.shapes.pop((USERS * WIDTH, 2 * d, d), None)
    assert seen.shapes == wanted
    # The token table is projected once for these weights, not once a search.
    table = first.shapes - seen.shapes
    assert table == Counter({(sum(SIZES), d, d): 1, (sum(SIZES), d, inner): 2 * deep})
    # Keys and values of the encoder belong to the user, not to the beam.
    heads, width = SMALL.num_heads, SMALL.head_dim
    keys = [USERS, heads, length, width]
    assert len(seen.batched) == layers + LEVELS * deep
    assert all(key == value == keys for _, key, value in seen.batched)
    cross = [query[2] for query, _, _ in seen.batched[layers:]]
    assert cross == [1] * deep + [WIDTH] * deep * (LEVELS - 1)


def test_changed_weights_are_seen() -> None:
    model, other = toy_model(seed=1).eval(), toy_model(seed=2).eval()
    batch = toy_batch(HISTORIES, [[1]] * USERS)
    before = generate(model, batch, TRIE, beam_width=WIDTH)
    wanted = generate(other, batch, TRIE, beam_width=WIDTH)
    assert not torch.equal(before.scores, wanted.scores)
    kept = copy.deepcopy(model.state_dict())
    for assign in (False, True):
        model.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
        assert torch.equal(generate(model, batch, TRIE, beam_width=WIDTH).scores, wanted.scores)
        model.load_state_dict(kept)
        assert torch.equal(generate(model, batch, TRIE, beam_width=WIDTH).scores, before.scores)
    for name, value in other.named_buffers():
        model.get_buffer(name).copy_(value)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data = theirs.data  # as `model.to(device)` does
    assert torch.equal(generate(model, batch, TRIE, beam_width=WIDTH).scores, wanted.scores)


def test_history_is_indexed_once_and_searched_once_a_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model().eval()
    batch = toy_batch(HISTORIES, [[1]] * USERS)
    sizes: dict[str, list[torch.Size]] = {}

    def noting(name: str, op: Callable[..., Any], place: int) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            sizes.setdefault(name, []).append(args[place].shape)
            return op(*args, **kwargs)

        return run

    for name, place in (("bucket_history", 0), ("hard_search", 1)):
        monkeypatch.setattr(hard_search, name, noting(name, getattr(hard_search, name), place))
    generate(model, batch, TRIE, beam_width=WIDTH)
    assert sizes == {
        "bucket_history": [batch.long_items.shape],
        "hard_search": [torch.Size([USERS, WIDTH])],
    }
