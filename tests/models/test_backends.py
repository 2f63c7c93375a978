"""GLASS on every backend is GLASS on the references: loss, gradients of all parameters, beams."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from backends import every_op_on, other_backends
from toy import SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.config import ModelConfig
from glass.generation import generate
from glass.models import Glass
from glass_kernels import SidTrie

GLASS = dataclasses.replace(SMALL, dropout=0.0)
CONFIGS = {
    "paper": GLASS,
    "state, trained rows": dataclasses.replace(
        GLASS, gate_input="state", train_retrieved=True, search_max_items=1
    ),
    "gate decides, no neighbours": dataclasses.replace(
        GLASS, empty_retrieval="gate", num_neighbours=0, search_max_items=40
    ),
    "all history, copying": dataclasses.replace(GLASS, long_history="all", copy_head=True),
}
# Ragged, two without a long history; one row of targets is padding alone.
HISTORIES = [*random_histories(5, (1, 40), seed=5), [4], [1, 2], random_histories(1, (5, 6))[0]]
TARGETS = [[3], [5, 0, 7], [9, 1], [2, 4, 6, 8], [38], [39], [0], [12, 11]]
NO_HISTORY = ([[1, 2, 3], [5]], [[4], [1, 2]])
TRIE = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)

BACKENDS = pytest.mark.parametrize("backend", other_backends())
SYSTEMS = pytest.mark.parametrize("name", CONFIGS, ids=lambda name: name.replace(" ", "-"))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
CLOSE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
}
"""float32 differs by the order of summation, which float64 shows to be all."""


def double_or_single(config: ModelConfig, dtype: torch.dtype) -> Glass:
    """Norms and biases are not at their neutral start."""
    model = toy_model(config).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def step(
    model: Glass, backend: str, histories: list[list[int]], targets: list[list[int]]
) -> dict[str, torch.Tensor]:
    """Loss, what was retrieved, and every gradient."""
    batch = toy_batch(histories, targets, model.config)
    model.zero_grad()
    with every_op_on(backend) as called:
        output = model(batch)
        output.loss.backward()
    assert called  # or the reference would be compared with itself
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert output.retrieved is not None
    return {"loss": output.loss.detach(), "retrieved": output.retrieved, **grads}


@BACKENDS
@SYSTEMS
@DTYPES
@pytest.mark.parametrize("histories", [(HISTORIES, TARGETS), NO_HISTORY], ids=["ragged", "none"])
def test_training_step_is_the_references(
    name: str,
    dtype: torch.dtype,
    backend: str,
    histories: tuple[list[list[int]], list[list[int]]],
    poisoned: None,
) -> None:
    model = double_or_single(CONFIGS[name], dtype)
    wanted = step(model, "reference", *histories)
    found = step(model, backend, *histories)
    assert found.keys() == wanted.keys()
    assert {f"decoder.layers.1.{p}" for p in ("retrieved.key.weight", "fusion.weight")} <= {*found}
    for key, value in wanted.items():
        torch.testing.assert_close(
            found[key], value, **CLOSE[dtype], msg=lambda m, key=key: f"{key}: {m}"
        )


@BACKENDS
@SYSTEMS
@DTYPES
@pytest.mark.parametrize("width", [1, 7])
def test_beams_are_the_references(name: str, dtype: torch.dtype, backend: str, width: int) -> None:
    model = double_or_single(CONFIGS[name], dtype).eval()
    with torch.no_grad():
        model.decoder.norm.weight.mul_(4)  # codes that differ clearly in probability
    batch = toy_batch(HISTORIES, TARGETS, model.config)
    beams = []
    for one in ("reference", backend):
        with every_op_on(one):
            beams.append(generate(model, batch, TRIE, beam_width=width))
    assert torch.equal(beams[0].codes, beams[1].codes)
    torch.testing.assert_close(beams[1].scores, beams[0].scores, rtol=0, atol=1e-5)


def test_best_backends_are_what_runs_by_itself() -> None:
    model = toy_model(GLASS)
    output = model(toy_batch(HISTORIES, TARGETS, GLASS))
    with every_op_on("reference"):
        reference = model(toy_batch(HISTORIES, TARGETS, GLASS))
    torch.testing.assert_close(output.loss, reference.loss, rtol=1e-5, atol=1e-6)
