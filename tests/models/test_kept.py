"""What is kept of a module's weights goes when they change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from glass.models.kept import Kept

total: Kept[nn.Linear, float] = Kept(lambda module: float(module.weight.detach().sum()))


@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_step_of_any_optimizer_is_noticed(
    kind: type[torch.optim.Optimizer], how: dict[str, Any]
) -> None:
    """torch's fused ones leave a tensor's version as it was."""
    module = nn.Linear(3, 2)
    optimizer = kind(module.parameters(), lr=0.1, **how)  # type: ignore[call-arg]
    before = total(module)
    assert total(module) == before
    module.weight.grad = torch.ones_like(module.weight)
    optimizer.step()
    assert total(module) == float(module.weight.detach().sum()) != before


def test_a_change_in_place_and_a_new_tensor_are_noticed() -> None:
    module = nn.Linear(3, 2)
    total(module)
    with torch.no_grad():
        module.weight.add_(1)
    assert total(module) == float(module.weight.detach().sum())
    module.weight = nn.Parameter(torch.ones(2, 3))
    assert total(module) == 6
    module.load_state_dict({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    assert total(module) == 0


def test_what_nobody_changed_is_made_once() -> None:
    made = []
    keep: Kept[nn.Linear, int] = Kept(lambda module: made.append(module) or len(made))  # type: ignore[func-returns-value]
    module, other = nn.Linear(1, 1), nn.Linear(1, 1)
    assert [keep(module), keep(module), keep(other), keep(module)] == [1, 1, 2, 1]


def test_parameters_of_inference_mode_do_not_stop_a_step() -> None:
    with torch.inference_mode():
        module = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.step()
    assert total(module) == float(module.weight.detach().sum())
