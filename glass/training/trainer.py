"""State of one training run, and its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass import distributed
from glass.config import TrainConfig
from glass.systems import Model
from glass.training.averages import Averages
from glass.training.feed import Feed, Step
from glass.training.log import Row
from glass.training.parallel import shared


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Learning rate of step 1..total."""
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warm
    decay = 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))
    return config.learning_rate * warm * decay


class Trainer:
    """State of one training run; `state()` and `restore()` are exact inverses."""

    def __init__(self, model: Model, feed: Feed, config: TrainConfig) -> None:
        self.feed, self.config = feed, config
        self.processes = shared(model, config.parallel)
        self.model: Any = self.processes.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over a table of items instead of a dozen
        )
        self.per_epoch = feed.per_epoch
        self.total = max(1, round(config.max_epochs * self.per_epoch))
        self.every = max(1, round(config.eval_every * self.per_epoch))
        self.device = next(self.model.parameters()).device
        self.step = 0
        self.best, self.best_step, self.bad = -math.inf, 0, 0
        self.sums = Averages(model.num_levels)
        self._ahead: Iterator[Step] | None = None
        if distributed.rank():  # the first goes on with the stream that made the weights
            torch.manual_seed(_own_seed(config.seed, 0))

    def train_step(self) -> None:
        """One step of the optimiser on the next batch."""
        if self._ahead is None:
            self._ahead = self.feed.steps(self.step, self.total)
        given = next(self._ahead)
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.total)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast):
            output = self.processes.forward(given.batch.to(self.device))
        self.optimizer.zero_grad()
        loss, shares = self.processes.loss(output, counts=given.counts)
        torch.autograd.backward(loss)
        if self.config.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.sums.add(output, loss, shares, counts=given.counts)

    def averages(self) -> Row:
        """Mean loss and per-level accuracy since the last call."""
        row: Row = {"step": self.step, "epoch": round(self.step / self.per_epoch, 4)}
        return row | self.sums.row()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds; every process must ask."""
        on_card = self.device.type == "cuda"
        random: list[Tensor] = distributed.gathered(torch.get_rng_state())
        return {
            "step": self.step,
            "best": [self.best, self.best_step, self.bad],
            **self.sums.state(),
            "rng": random[0],
            "rng_of_others": random[1:],
            "cuda_rng": distributed.gathered(torch.cuda.get_rng_state()) if on_card else [],
            "model": self.processes.weights(),
            "optimizer": self.processes.optimizer_state(self.optimizer),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a state, of any number of processes."""
        self.step = state["step"]
        self.best, self.best_step, self.bad = state["best"]
        self.sums.restore(state)
        self.processes.load(state["model"])
        self.processes.load_optimizer(self.optimizer, state["optimizer"])
        random = [state["rng"], *state.get("rng_of_others", [])]
        if distributed.is_first() or len(random) == distributed.count():
            torch.set_rng_state(random[distributed.rank()])
            if state["cuda_rng"]:  # of every process; of older versions, of every card
                torch.cuda.set_rng_state(state["cuda_rng"][distributed.rank()])
        else:  # more processes than before, or fewer: no stream is used twice
            torch.manual_seed(_own_seed(self.config.seed, self.step))


def _own_seed(seed: int, step: int) -> int:
    """Of this process's dropout."""
    entropy = np.random.SeedSequence([seed, 2, step, distributed.rank()])
    return int(entropy.generate_state(1, np.uint64)[0])
