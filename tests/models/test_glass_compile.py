"""The training forward is one graph for torch.compile, whatever the lengths."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy import SMALL, random_histories, toy_batch, toy_model

from glass.config import ModelConfig

GLASS = dataclasses.replace(SMALL, dropout=0.0, num_encoder_layers=1, num_decoder_layers=1)
TIGER = dataclasses.replace(GLASS, use_sid_tier=False, use_hard_search=False)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GLASS, TIGER], ids=["glass", "tiger"])
def test_forward_is_one_graph(config: ModelConfig) -> None:
    torch._dynamo.reset()
    model = toy_model(config)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for seed in (0, 1):  # other lengths, other numbers of targets
        histories = random_histories(6, (2, 25), seed=seed)
        targets = [list(range(n)) for n in (1, 2, 3, 1, 2 + seed, 1)]
        batch = toy_batch(histories, targets, config)
        results = []
        for run in (model, compiled):
            model.zero_grad()
            # Picking out the targets that are no padding has a shape that depends on the data.
            # The floats are settings: as symbols they are given up after a first, wasted capture.
            with torch._dynamo.config.patch(
                capture_dynamic_output_shape_ops=True, specialize_float=True
            ):
                output = run(batch)
                output.loss.backward()
            results.append([output.loss.detach(), *(p.grad.clone() for p in model.parameters())])
        for one, two in zip(*results, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
