"""Training loop: early stopping, full resume, identical results after an interruption."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from glass.config import TrainConfig
from glass.data.batches import epoch_batches
from glass.systems import Model, TrainingRows
from glass.training import metric
from glass.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from glass.training.log import MetricLog, Row

FOR_PEOPLE = {"log_every": 1, "checkpoint_every": 1, "tensorboard": False}
"""Settings that leave the weights as they are: changing them does not end a run."""


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
    settings = {name: v for name, v in asdict(config).items() if name not in FOR_PEOPLE}
    if settings["metric"] == metric.DEFAULT:
        del settings["metric"]
    return settings


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Learning rate of step 1..total."""
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warm
    decay = 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))
    return config.learning_rate * warm * decay


class _Trainer:
    """State of one training run; `state()` and `restore()` are exact inverses."""

    def __init__(self, model: Model, rows: TrainingRows, config: TrainConfig) -> None:
        self.model, self.collate, self.config = model, rows.collate, config
        self.lengths = rows.lengths
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over a table of items instead of a dozen
        )
        self.per_epoch = math.ceil(len(self.lengths) / config.batch_size)
        self.total = max(1, round(config.max_epochs * self.per_epoch))
        self.every = max(1, round(config.eval_every * self.per_epoch))
        self.device = next(model.parameters()).device
        self.step = 0
        self.best, self.best_step, self.bad = -math.inf, 0, 0
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.parts: dict[str, Tensor] = {}
        self.correct = torch.zeros(model.num_levels, dtype=torch.float64)
        self.targets = 0
        self.since = 0
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def rows(self) -> np.ndarray:
        """Rows of the next step's batch: a function of seed and step alone."""
        epoch, position = divmod(self.step, self.per_epoch)
        if self._epoch[0] != epoch:
            batches = epoch_batches(
                self.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch
            )
            self._epoch = (epoch, batches)
        return self._epoch[1][position]

    def train_step(self) -> None:
        rng = np.random.default_rng([self.config.seed, 1, self.step])
        batch = self.collate(self.rows(), max_targets=self.config.max_targets, rng=rng)
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.total)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast):
            output = self.model(batch.to(self.device))
        self.optimizer.zero_grad()
        output.loss.backward()
        if self.config.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.loss_sum += output.loss.detach().double().cpu()
        for part, value in (output.parts or {}).items():
            self.parts[part] = self.parts.get(part, 0.0) + value.double().cpu()
        self.correct += output.hits.sum((0, 1)).double().cpu()
        self.targets += int(output.present.sum())
        self.since += 1

    def averages(self) -> Row:
        """Mean loss and per-level accuracy since the last call."""
        row: Row = {
            "step": self.step,
            "epoch": round(self.step / self.per_epoch, 4),
            "loss": float(self.loss_sum / max(self.since, 1)),
        }
        for part, total in self.parts.items():
            row[f"loss_{part}"] = float(total / max(self.since, 1))
        for level, hits in enumerate(self.correct.tolist(), start=1):
            row[f"acc_{level}"] = hits / max(self.targets, 1)
        self.loss_sum.zero_()
        self.parts.clear()
        self.correct.zero_()
        self.targets = self.since = 0
        return row

    def state(self, made_with: str) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "fingerprint": made_with,
            "step": self.step,
            "best": [self.best, self.best_step, self.bad],
            "sums": [self.loss_sum, self.correct, self.targets, self.since],
            "parts": self.parts,
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.best, self.best_step, self.bad = state["best"]
        self.loss_sum, self.correct, self.targets, self.since = state["sums"]
        self.parts = state.get("parts", {})  # not in checkpoints of older versions
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def train(
    model: Model,
    rows: TrainingRows,
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
    the end.

    Args:
        model: initialised from `config.seed` by the caller, on its device.
        rows: what an epoch goes through.
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
    if not len(rows):
        raise ValueError("rows: the training split has no group with a history to train on")
    folder.mkdir(parents=True, exist_ok=True)
    made_with = fingerprint(
        model.config,
        {**decisive(config), **FOR_PEOPLE},
        model.codebook_sizes,
        len(rows),
        name,
        data_fingerprint,
    )
    trainer = _Trainer(model, rows, config)
    state = load_checkpoint(folder / "checkpoint.pt", made_with=made_with)
    if state is not None:
        trainer.restore(state)
        best = _best_path(folder, trainer.best_step)
        if trainer.best_step and not best.exists():
            raise ValueError(
                f"{folder / 'checkpoint.pt'} belongs with {best.name}, which is not there; delete "
                "checkpoint.pt to start anew"
            )
    else:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    # What other settings left, or steps that a kill undid and that may come out otherwise when
    # they are repeated (on a GPU), must never be taken for ours.
    _remove_weights(folder, keep=trainer.best_step)
    log = MetricLog(
        log_folder or folder, name, resume_step=trainer.step, tensorboard=config.tensorboard
    )
    model.train()
    bar = tqdm(
        total=trainer.total,
        initial=trainer.step,
        desc=f"train {name}",
        unit="step",
        disable=not progress,
        mininterval=1.0,
    )
    while trainer.step < trainer.total and trainer.bad < config.patience:
        trainer.train_step()
        bar.update()
        last = trainer.step == trainer.total
        if trainer.step % trainer.every == 0 or last:
            row = _validated(trainer, validate, score, folder, name)
            log.write(row)
            shown = {score.replace("@", ""): f"{row['valid_' + score]:.4f}"}
            bar.set_postfix(loss=f"{row['loss']:.3f}", **shown)
        elif trainer.step % config.log_every == 0:
            row = _finite(trainer.averages(), name)
            log.write(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}")
        if last or trainer.step % config.checkpoint_every == 0 or trainer.bad >= config.patience:
            save_checkpoint(folder / "checkpoint.pt", trainer.state(made_with))
            _remove_weights(folder, keep=trainer.best_step)
    bar.close()
    log.close()
    model.load_state_dict(load_file(_best_path(folder, trainer.best_step)))
    model.eval()
    return TrainResult(trainer.best_step, trainer.best, trainer.step, log.rows)


def _finite(row: Row, name: str) -> Row:
    if not math.isfinite(row["loss"]):
        raise ValueError(
            f"train {name}: the loss is {row['loss']} at step {row['step']}; lower "
            "train.learning_rate or set train.grad_clip, then start again"
        )
    return row


def _validated(
    trainer: _Trainer,
    validate: Callable[[Any], dict[str, float]],
    score: str,
    folder: Path,
    name: str,
) -> Row:
    row = _finite(trainer.averages(), name)
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
        _save_weights(_best_path(folder, trainer.step), trainer.model.state_dict())
    else:
        trainer.bad += 1
    return row


def _best_path(folder: Path, step: int) -> Path:
    """Named by its step: the weights that the last checkpoint goes with stay until the next."""
    return folder / f"best-{step}.safetensors"


def _remove_weights(folder: Path, *, keep: int) -> None:
    kept = _best_path(folder, keep)
    for path in folder.glob("best-*.safetensors*"):
        if path != kept:
            path.unlink(missing_ok=True)


def _save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    save_file({key: value.contiguous() for key, value in weights.items()}, temporary)
    os.replace(temporary, path)
