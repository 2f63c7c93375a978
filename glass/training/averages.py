"""Means of a training between two rows of its log, over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from glass import distributed
from glass.models import Output
from glass.training.log import Row


class Averages:
    """Sums of this process's share of loss, its parts and hits; read as those of all processes."""

    def __init__(self, num_levels: int) -> None:
        self.loss = torch.zeros((), dtype=torch.float64)
        self.parts: dict[str, Tensor] = {}
        self.correct = torch.zeros(num_levels, dtype=torch.float64)
        self.targets = self.steps = 0

    def add(
        self, output: Output, loss: Tensor, shares: Mapping[str, Tensor], *, counts: bool
    ) -> None:
        """Takes a step.

        Args:
            output, loss: of it.
            shares: what the parts of the loss count in this process; 1 where there is none.
            counts: False: its only row is another process's.
        """
        self.loss += loss.detach().double().cpu()
        for name, value in (output.parts or {}).items():
            part = value.double() * shares[name] if name in shares else value.double()
            self.parts[name] = self.parts.get(name, 0.0) + part.cpu()
        if counts:
            self.correct += output.hits.sum((0, 1)).double().cpu()
            self.targets += int(output.present.sum())
        self.steps += 1

    def row(self) -> Row:
        """Mean loss, its parts and accuracy per level since the last call."""
        loss, correct, targets = self._of_all()
        parts = {name: self._mean(total) for name, total in self.parts.items()}
        row: Row = {"loss": float(loss / max(self.steps, 1))}
        for name, total in parts.items():
            row[f"loss_{name}"] = float(total / max(self.steps, 1))
        for level, hits in enumerate(correct.tolist(), start=1):
            row[f"acc_{level}"] = hits / max(targets, 1)
        self.loss.zero_()
        self.parts.clear()
        self.correct.zero_()
        self.targets = self.steps = 0
        return row

    def state(self) -> dict[str, Any]:
        """For a checkpoint, whatever the number of processes that read it."""
        loss, correct, targets = self._of_all()
        return {
            "sums": [loss, correct, targets, self.steps],
            "parts": {name: self._mean(total) for name, total in self.parts.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up the sums of `state`: they are the first process's, and count once."""
        loss, correct, targets, self.steps = state["sums"]
        count = distributed.count() if distributed.is_first() else 0
        self.loss = loss * count
        parts = state.get("parts", {})  # not in checkpoints of older versions
        self.parts = {name: total * count for name, total in parts.items()}
        self.correct = correct * min(count, 1)
        self.targets = targets * min(count, 1)

    def _of_all(self) -> tuple[Tensor, Tensor, int]:
        targets = distributed.summed(torch.tensor(self.targets))
        return self._mean(self.loss), distributed.summed(self.correct), int(targets)

    def _mean(self, value: Tensor) -> Tensor:
        return distributed.summed(value) / distributed.count()
