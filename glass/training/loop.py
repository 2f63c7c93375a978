"""Training loop: early stopping, full resume, identical results after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glass import distributed
from glass.config import TrainConfig
from glass.systems import Model, TrainingRows
from glass.training import metric
from glass.training.checkpoint import fingerprint
from glass.training.feed import Feed, MemoryFeed
from glass.training.log import Row
from glass.training.records import Records
from glass.training.trainer import Trainer

FOR_PEOPLE = {"log_every": 1, "checkpoint_every": 1, "tensorboard": False}
"""Settings that leave the weights as they are: changing them does not end a run."""
FOR_MACHINES = ("workers", "parallel")
"""As well, and checkpoints of before know nothing of them."""
LATER = {"shuffle_events": TrainConfig.shuffle_events}
"""Settings that came later, and how it always was before."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left."""

    best_step: int
    best: float
    """Validation score (`TrainConfig.metric`) of the weights that the model holds now."""
    steps: int
    history: list[Row]


def decisive(config: TrainConfig) -> dict[str, Any]:
    """Settings that decide the weights, by name.

    One that came later is there only where it is not as it always was, so that older runs stay
    valid.
    """
    without = (*FOR_PEOPLE, *FOR_MACHINES)
    settings = {name: v for name, v in asdict(config).items() if name not in without}
    for name, before in {"metric": metric.DEFAULT, **LATER}.items():
        if settings[name] == before:
            del settings[name]
    return settings


def train(
    model: Model,
    rows: TrainingRows | Feed,
    validate: Callable[[Any], dict[str, float]],
    config: TrainConfig,
    folder: Path,
    *,
    name: str = "glass",
    log_folder: Path | None = None,
    data_fingerprint: str = "",
    progress: bool = True,
) -> TrainResult:
    """Trains until `max_epochs` or `patience` validations without a better `config.metric`.

    Called again after an interruption it continues from the last checkpoint in `folder` and, on
    CPU, ends with the same weights as an uninterrupted run. The model holds the best weights at
    the end. Under `torchrun` every process calls this and all end with the same weights.

    Args:
        model: initialised from `config.seed` by the caller, on its device.
        rows: what an epoch goes through, in memory or from files.
        validate: model -> metrics, that of `config.metric` among them.
        folder: for `checkpoint.pt` and the best weights, `best-<step>.safetensors`.
        name: shown in the progress bar, and name of the log files.
        log_folder: where the logs go; `folder` if not given.
        data_fingerprint: identifies data and SIDs; a checkpoint made with others is not used.

    Raises:
        ValueError: no training rows, a patience below 1, an unknown metric, a checkpoint without
            its best weights, or a loss or validation score that is not finite (with the remedy).
    """
    if config.patience < 1:
        raise ValueError(f"train.patience is {config.patience}; it must be at least 1")
    score = metric.score_name(config.metric)
    feed = rows if isinstance(rows, Feed) else MemoryFeed(rows, config)
    if not feed.num_rows:
        raise ValueError("rows: the training split has no group with a history to train on")
    made_with = fingerprint(
        model.config,
        {**decisive(config), **FOR_PEOPLE, **feed.made_with()},
        model.codebook_sizes,
        feed.num_rows,
        name,
        data_fingerprint,
    )
    records = Records(folder, made_with)
    trainer = Trainer(model, feed, config)
    state = records.load()
    if state is not None:
        trainer.restore(state)
    records.open_log(log_folder, name, trainer.step, tensorboard=config.tensorboard)
    trainer.model.train()
    bar = tqdm(
        total=trainer.total,
        initial=trainer.step,
        desc=f"train {name}",
        unit="step",
        disable=not (progress and distributed.is_first()),
        mininterval=1.0,
    )
    while trainer.step < trainer.total and trainer.bad < config.patience:
        trainer.train_step()
        bar.update()
        last = trainer.step == trainer.total
        if trainer.step % trainer.every == 0 or last:
            row = _validated(trainer, validate, score, records, name)
            records.write(row)
            shown = {score.replace("@", ""): f"{row['valid_' + score]:.4f}"}
            bar.set_postfix(loss=f"{row['loss']:.3f}", **shown)
        elif trainer.step % config.log_every == 0:
            row = _finite(trainer.averages(), name)
            records.write(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}")
        if last or trainer.step % config.checkpoint_every == 0 or trainer.bad >= config.patience:
            records.save(trainer.state())
    bar.close()
    records.close()
    trainer.processes.end(records.best_weights(trainer.best_step))
    model.eval()
    return TrainResult(trainer.best_step, trainer.best, trainer.step, records.rows)


def _finite(row: Row, name: str) -> Row:
    if not math.isfinite(row["loss"]):
        raise ValueError(
            f"train {name}: the loss is {row['loss']} at step {row['step']}; lower "
            "train.learning_rate or set train.grad_clip, then start again"
        )
    return row


def _validated(
    trainer: Trainer,
    validate: Callable[[Any], dict[str, float]],
    score: str,
    records: Records,
    name: str,
) -> Row:
    row = _finite(trainer.averages(), name)
    with trainer.processes.whole():
        scores = validate(trainer.model)
    reached = scores[score]
    if not math.isfinite(reached):
        raise ValueError(
            f"train {name}: the validation {score} is {reached} at step {trainer.step}; "
            "give the validation samples with targets (data.num_valid_events or "
            "data.valid_share), then start again"
        )
    row.update({f"valid_{key}": value for key, value in scores.items()})
    if reached > trainer.best:
        trainer.best, trainer.best_step, trainer.bad = reached, trainer.step, 0
        records.save_best(trainer.step, trainer.processes.weights())
    else:
        trainer.bad += 1
    return row
