"""No model makes a tensor on the CPU by not naming a device: none meets tensors of a card."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from devices import NamesDevices

from benchmarks import intrr_models, union
from glass.generation import generate
from glass_kernels import SidTrie, use_backend


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("work", ["training", "generation"])
@pytest.mark.parametrize("name", list(union.SIDES))
def test_training_and_generation_name_their_devices(
    name: str, work: str, backend: str | None
) -> None:
    model = union.make_model(name)
    batch = union.make_batch(union.Setup("training", 2, targets=2), 0)
    read = union.as_sequences(batch) if name == "IntRR" else batch
    trie = SidTrie.build(model.codes, model.codebook_sizes)
    with nullcontext() if backend is None else use_backend(backend), NamesDevices():
        if work == "training":
            torch.autograd.backward(model.train()(read).loss)
            return
        last = intrr_models.newest(read) if name == "IntRR" else read
        beams = generate(model.eval(), last, trie, beam_width=5)
    assert beams.codes.shape == (2, 5, 3)
