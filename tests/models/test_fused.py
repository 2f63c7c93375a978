"""The encoder of generation is the model's encoder with what its decoder reads of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy import SMALL, toy_batch, toy_model

from glass.models.fused import fused
from glass_kernels import use_backend

CONFIG = dataclasses.replace(SMALL, dropout=0.0)
HISTORIES = [[3, 1, 4, 1, 5], [], [9], list(range(12))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pad_left", [True, False])
def test_memory_is_the_encoders(pad_left: bool, dtype: torch.dtype) -> None:
    model = toy_model(CONFIG).to(dtype).eval()
    for parameter in model.parameters():  # norms and biases are not at their neutral start
        parameter.data += 0.2 * torch.randn_like(parameter)
    close = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 1e-10}
    for histories in (HISTORIES[2:3], HISTORIES, HISTORIES[1:3]):  # longer ones, then shorter
        batch = toy_batch(histories, [[1]] * len(histories), CONFIG, pad_left=pad_left)
        with torch.no_grad():
            x, valid = model._inputs(batch)
            wanted = model.decoder.memory(model.encoder(x, valid), valid, None)
            found = fused(model).memory(x, valid)
            for backend in ("reference", "cpp"):  # float64 has no other
                with use_backend(backend):
                    again = fused(model).memory(x, valid)
                for (keys, values), (same_keys, same_values) in zip(
                    found.keys_values, again.keys_values, strict=True
                ):
                    torch.testing.assert_close(same_keys, keys, **close)
                    torch.testing.assert_close(same_values, values, **close)
        kept = (
            slice(None)
            if valid is None
            else valid[:, None, :, None].expand_as(found.keys_values[0][0])
        )
        for mine, theirs in zip(found.keys_values, wanted.keys_values, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                torch.testing.assert_close(one[kept], other[kept], **close)
