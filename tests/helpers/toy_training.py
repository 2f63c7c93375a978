"""A short training run, in this process or, killed again and again, in another one.

`python toy_training.py FOLDER ROWS..` trains in a child that is killed (SIGKILL) once its log has
that many rows, for each of ROWS; at last it trains without being killed. It prints how many
children the signal has ended.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy import SMALL, collator, random_dataset, toy_model

from glass.config import TrainConfig
from glass.data import Dataset
from glass.data.batches import Batch
from glass.models import Glass
from glass.systems import TRAINED, TrainingRows
from glass.training import TrainResult, train

DATASET = random_dataset(5, seed=1)
SAMPLES = DATASET.samples("train")
CONFIG = TrainConfig(
    batch_size=4,
    max_targets=2,
    learning_rate=3e-3,
    max_epochs=2,
    eval_every=0.5,
    warmup_steps=5,
    schedule="cosine",
    log_every=2,
    checkpoint_every=3,
)
PER_EPOCH = -(-len(SAMPLES.users) // CONFIG.batch_size)
STEPS = 2 * PER_EPOCH
EVERY = round(PER_EPOCH / 2)

Validate = Callable[[Glass], dict[str, float]]


class KilledError(Exception):
    """Stands for a kill."""


@dataclasses.dataclass
class Collate:
    """The collator of the training samples; stops the run at call `stop_at`."""

    stop_at: int | None = None
    calls: int = 0

    def __call__(self, rows: np.ndarray, **settings: object) -> Batch:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KilledError
        return collator(DATASET, SAMPLES)(rows, **settings)  # type: ignore[arg-type]


def training_rows(dataset: Dataset, collate: Any = None) -> TrainingRows:
    """Training samples of the toy model; `collate` in place of its own."""
    rows = TRAINED["glass"].training_rows(SMALL, dataset)
    return rows if collate is None else dataclasses.replace(rows, collate=collate)


@torch.no_grad()
def minus_loss(model: Glass) -> dict[str, float]:
    """In place of a beam search: minus the loss on a few samples, without dropout."""
    model.eval()
    loss = model(collator(DATASET, SAMPLES)(np.arange(6))).loss.item()
    model.train()
    return {"ndcg@20": -loss}


def run(
    folder: Path,
    config: TrainConfig = CONFIG,
    *,
    model: Glass | None = None,
    stop_at: int | None = None,
    validate: Validate = minus_loss,
) -> tuple[Glass, TrainResult]:
    """Trains the toy model (dropout on); `stop_at`: interrupted at this step of this call."""
    model = model or toy_model(SMALL)
    torch.manual_seed(7)
    rows = training_rows(DATASET, Collate(stop_at))
    result = train(model, rows, validate, config, folder, progress=False)
    return model, result


def _rows(folder: Path) -> int:
    log = folder / "glass.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def main(folder: Path, kill_at: list[int]) -> None:
    # an optimizer's first use imports much of torch: here once, not in every fork
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    rng, killed = random.Random(0), 0
    for rows in kill_at:
        child = os.fork()
        if child == 0:
            run(folder)
            os._exit(0)
        ended = 0
        while _rows(folder) < rows and not ended:
            time.sleep(0.005)
            ended, _ = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(rng.random() * 0.02)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            killed += os.WIFSIGNALED(status)
    run(folder)
    print(killed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), [int(rows) for rows in sys.argv[2:]])
