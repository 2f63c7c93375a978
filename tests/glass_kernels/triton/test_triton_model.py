"""A small GLASS with every Triton kernel there is: training step and beams are the references'."""

from __future__ import annotations

import dataclasses

import torch
from backends import every_op_on
from toy import SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.generation import generate
from glass_kernels import SidTrie

CONFIG = dataclasses.replace(
    SMALL,
    num_heads=1,
    head_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout=0.0,
    initialization="copy",
)
HISTORIES = [*random_histories(2, (9, 20), seed=5), [1, 2]]  # the last without a long history
TARGETS = [[3, 9], [5], [38]]
TRIE = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)


def test_training_step_is_the_references(device: torch.device) -> None:
    model = toy_model(CONFIG).to(device)
    batch = toy_batch(HISTORIES, TARGETS, CONFIG).to(device)
    results = []
    for backend in ("reference", "triton"):
        model.zero_grad()
        with every_op_on(backend) as called:
            output = model(batch)
            output.loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
        results[-1]["loss"] = output.loss.detach()
    assert any("attention" in name for name in called)
    for name, wanted in results[0].items():
        torch.testing.assert_close(
            results[1][name], wanted, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_beams_are_the_references(device: torch.device) -> None:
    model = toy_model(CONFIG).to(device).eval()
    batch, trie = toy_batch(HISTORIES, TARGETS, CONFIG).to(device), TRIE.to(device)
    beams = []
    for backend in ("reference", "triton"):
        with every_op_on(backend) as called:
            beams.append(generate(model, batch, trie, beam_width=3))
    assert called
    assert torch.equal(beams[0].codes, beams[1].codes)
    torch.testing.assert_close(beams[1].scores, beams[0].scores, rtol=0, atol=1e-4)
