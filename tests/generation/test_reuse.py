"""A decoder step reuses what belongs to the user: counted calls, and the rows they work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from toy import SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.generation import generate
from glass.models import Glass
from glass_kernels import SidTrie
from glass_kernels.modules import hard_search

HISTORIES = random_histories(3, (9, 25), seed=2)
USERS, LEVELS, WIDTH, SHORT = len(HISTORIES), len(SIZES), 7, SMALL.short_length
TRIE = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)
Calls = dict[str, list[list[int]]]


def linear_calls(model: Glass) -> Calls:
    """Shape of every input of every linear layer, by the layer's name; filled as they run."""
    calls: Calls = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            shapes = calls.setdefault(name, [])
            module.register_forward_pre_hook(
                lambda _, args, shapes=shapes: shapes.append(list(args[0].shape))
            )
    return calls


@pytest.mark.parametrize("tier", [True, False])
def test_projections_run_once_a_user_and_layer(tier: bool) -> None:
    config = dataclasses.replace(SMALL, use_sid_tier=tier)
    model = toy_model(config).eval()
    calls = linear_calls(model)
    generate(model, toy_batch(HISTORIES, [[1]] * USERS, config), TRIE, beam_width=WIDTH)
    d, inner = SMALL.d_model, SMALL.num_heads * SMALL.head_dim
    encoded = [USERS, LEVELS * SHORT + tier, d]
    table = [sum(SIZES), d]
    assert calls["retrieved_projection"] == [table]
    states = [[USERS, beams, 1] for beams in (1, WIDTH, WIDTH)]  # one position a level
    for number in range(SMALL.num_decoder_layers):
        layer = f"decoder.layers.{number}"
        for part in ("key", "value"):
            assert calls[f"{layer}.short.{part}"] == [encoded]
            assert calls[f"{layer}.retrieved.{part}"] == [table]
            own = [[users * beams, 1, d] for users, beams, _ in states]
            assert calls[f"{layer}.attention.proj.{part}"] == own
        flat = [[users, beams, d] for users, beams, _ in states]
        assert calls[f"{layer}.short.query"] == flat
        assert calls[f"{layer}.retrieved.query"] == [[*shape, d] for shape in states[1:]]
        assert calls[f"{layer}.retrieved.output"] == [[*shape, inner] for shape in states[1:]]
    for name, shapes in calls.items():
        if name.startswith("encoder"):
            assert [shape[:2] for shape in shapes] == [encoded[:2]], name
        if name.startswith("tier"):
            assert [shape[0] for shape in shapes] == [USERS], name


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


def test_beams_share_the_storage_of_their_user() -> None:
    """No key, value or table is as large as one that is repeated for each beam."""
    model = toy_model().eval()
    seen: list[Any] = []
    decode = model.decode

    def noting(encoded: Any, *args: Any) -> Any:
        seen.append(encoded)
        return decode(encoded, *args)

    model.decode = noting  # type: ignore[method-assign]
    generate(model, toy_batch(HISTORIES, [[1]] * USERS), TRIE, beam_width=WIDTH)
    assert len(seen) == LEVELS
    assert all(encoded is seen[0] for encoded in seen)
    memory = seen[0].memory
    heads, width = SMALL.num_heads, SMALL.head_dim
    for keys, values in memory.keys_values:
        assert keys.shape == values.shape == (USERS, heads, LEVELS * SHORT + 1, width)
    for keys, values in memory.tables:
        assert keys.shape == values.shape == (sum(SIZES), heads, width)
