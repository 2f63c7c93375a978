"""Early stopping, learning rates, clipping, logs and refusals of the training loop."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import random_dataset, toy_model
from toy_training import CONFIG, DATASET, EVERY, PER_EPOCH, STEPS, minus_loss, run, training_rows

from glass.config import TrainConfig
from glass.models import Glass
from glass.training import MetricLog, train
from glass.training.log import read_rows
from glass.training.trainer import learning_rate


class Scripted:
    """Gives the scores one after another and keeps the weights of each validation."""

    def __init__(self, scores: list[float], metric: str = "ndcg@20") -> None:
        self.scores, self.metric = scores, metric
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: Glass) -> dict[str, float]:
        self.weights.append({key: value.clone() for key, value in model.state_dict().items()})
        score = self.scores[len(self.weights) - 1]
        return {"ndcg@20": -score} | {self.metric: score}


LONG = dataclasses.replace(CONFIG, max_epochs=20)


def test_patience_ends_the_run_and_the_best_weights_return(tmp_path: Path) -> None:
    validate = Scripted([0.1, 0.4, 0.3, 0.4, 0.2, 9.0])
    config = dataclasses.replace(LONG, patience=3)
    model, result = run(tmp_path, config, validate=validate)
    assert len(validate.weights) == 5  # an equal score is no better one
    assert result.steps == 5 * EVERY
    assert (result.best_step, result.best) == (2 * EVERY, 0.4)
    best = validate.weights[1]
    assert all(torch.equal(best[key], value) for key, value in model.state_dict().items())
    assert not model.training


def test_patience_counts_from_the_last_better_score(tmp_path: Path) -> None:
    validate = Scripted([0.1, 0.0, 0.2, 0.1, 0.3, 0.2, 0.2, 9.0])
    _, result = run(tmp_path, dataclasses.replace(LONG, patience=2), validate=validate)
    assert len(validate.weights) == 7
    assert result.best == 0.3


@pytest.mark.parametrize(
    ("metric", "name"), [("hit@10", "hit@10"), ("recall@10", "hit@10"), ("ndcg@5", "ndcg@5")]
)
def test_another_metric_decides(metric: str, name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(LONG, patience=2, metric=metric)
    _, result = run(tmp_path, config, validate=Scripted([0.1, 0.4, 0.3, 0.2, 9.0], name))
    assert (result.best_step, result.best) == (2 * EVERY, 0.4)
    assert [row[f"valid_{name}"] for row in result.history if f"valid_{name}" in row][1] == 0.4


@pytest.mark.parametrize("metric", ["ndcg", "mrr@10", "ndcg@0", "loss"])
def test_unknown_metric_is_refused(metric: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, metric=metric)
    with pytest.raises(ValueError, match=rf"train\.metric is '{metric}'; it must be ndcg@K, hit"):
        run(tmp_path, config)
    assert not list(tmp_path.iterdir())


def test_stopped_run_stays_stopped(tmp_path: Path) -> None:
    config = dataclasses.replace(LONG, patience=1)
    _, first = run(tmp_path, config, validate=Scripted([0.2, 0.1]))
    _, second = run(tmp_path, config, validate=Scripted([]))
    assert second == first


def test_last_step_is_validated_even_out_of_turn(tmp_path: Path) -> None:
    validate = Scripted([0.1, 0.2, 0.3])
    config = dataclasses.replace(CONFIG, max_epochs=(2 * EVERY + 1) / PER_EPOCH)
    _, result = run(tmp_path, config, validate=validate)
    assert len(validate.weights) == 3
    assert result.best_step == result.steps == 2 * EVERY + 1


@pytest.mark.parametrize(("epochs", "steps"), [(1, PER_EPOCH), (0.5, EVERY), (1e-9, 1)])
def test_epochs_may_be_fractions(epochs: float, steps: int, tmp_path: Path) -> None:
    _, result = run(tmp_path, dataclasses.replace(CONFIG, max_epochs=epochs))
    assert result.steps == steps


def test_constant_rate_with_warm_up() -> None:
    config = TrainConfig(learning_rate=0.8, warmup_steps=4)
    rates = [learning_rate(config, step, 100) for step in (1, 2, 4, 5, 100)]
    assert rates == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])
    assert learning_rate(TrainConfig(learning_rate=0.8), 1, 100) == 0.8


def test_cosine_decays_to_a_tenth_at_the_last_step() -> None:
    config = TrainConfig(learning_rate=1.0, schedule="cosine")
    rates = [learning_rate(config, step, 100) for step in range(1, 101)]
    assert rates[-1] == pytest.approx(0.1)
    assert rates[49] == pytest.approx(0.55)  # halfway between 1 and 0.1
    assert rates[0] == pytest.approx(1, abs=1e-3)
    assert rates == sorted(rates, reverse=True)
    warm = dataclasses.replace(config, warmup_steps=10)
    assert learning_rate(warm, 5, 100) == pytest.approx(rates[4] / 2)


def test_optimiser_uses_the_schedule_and_weight_decay(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, weight_decay=0.25)
    run(tmp_path, config)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    (group,) = state["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(learning_rate(config, STEPS, STEPS))
    assert group["weight_decay"] == 0.25
    assert len(group["params"]) == len(list(toy_model().parameters()))


@pytest.mark.parametrize("clip", [0.01, 0.0])
def test_gradients_are_clipped(clip: float, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, grad_clip=clip, max_epochs=1e-9)
    model, _ = run(tmp_path, config)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    if clip:
        assert norm.item() == pytest.approx(clip, rel=1e-3)
    else:
        assert norm > 0.1


@pytest.mark.parametrize("log_every", [2, 1000])
def test_loss_that_is_not_finite_is_refused(log_every: int, tmp_path: Path) -> None:
    model = toy_model()
    model.bos.data[0] = torch.nan
    config = dataclasses.replace(CONFIG, log_every=log_every)
    with pytest.raises(
        ValueError, match=r"the loss is nan at step \d+; lower train\.learning_rate"
    ):
        run(tmp_path, config, model=model)
    assert not list(tmp_path.glob("best*"))


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("before", [[], [0.3]])
def test_score_that_is_not_finite_is_refused(
    bad: float, before: list[float], tmp_path: Path
) -> None:
    step = (len(before) + 1) * EVERY
    message = rf"train glass: the validation ndcg@20 is {bad} at step {step}; give .*num_valid_eve"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, validate=Scripted([*before, bad]))


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_below_one_is_refused(patience: int, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, patience=patience)
    with pytest.raises(ValueError, match=rf"train\.patience is {patience}; .* at least 1"):
        run(tmp_path, config)
    assert not list(tmp_path.iterdir())


def test_no_samples_are_refused(tmp_path: Path) -> None:
    none = dataclasses.replace(training_rows(DATASET), lengths=np.zeros(0, np.int64))
    with pytest.raises(ValueError, match=r"rows: the training split has no group"):
        train(toy_model(), none, minus_loss, CONFIG, tmp_path)


def test_averages_are_those_of_the_steps_since_the_row_before(tmp_path: Path) -> None:
    """A row of two steps is the mean of the rows of each step."""
    config = dataclasses.replace(CONFIG, max_epochs=1, eval_every=1)
    run(tmp_path / "two", config)
    run(tmp_path / "one", dataclasses.replace(config, log_every=1))
    single = {row["step"]: row for row in read_rows(tmp_path / "one" / "glass.jsonl")}
    double = {row["step"]: row for row in read_rows(tmp_path / "two" / "glass.jsonl")}
    for step in (2, 4, 6):
        mean = (single[step - 1]["loss"] + single[step]["loss"]) / 2
        assert double[step]["loss"] == pytest.approx(mean)
        for level in (1, 2, 3):
            assert 0 <= double[step][f"acc_{level}"] <= 1
        assert double[step]["epoch"] == pytest.approx(step / PER_EPOCH, abs=1e-4)


def test_csv_holds_the_rows_of_the_jsonl(tmp_path: Path) -> None:
    _, result = run(tmp_path)
    rows = read_rows(tmp_path / "glass.jsonl")
    assert rows == result.history
    with (tmp_path / "glass.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    for row, cells in zip(rows, table, strict=True):
        assert {key: float(cell) for key, cell in cells.items() if cell} == row


def test_log_drops_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "logs", "glass")
    for step in (1, 2, 3):
        log.write({"step": step, "loss": step / 2})
    with log.jsonl.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    assert [row["step"] for row in read_rows(log.jsonl)] == [1, 2, 3]
    resumed = MetricLog(tmp_path / "logs", "glass", resume_step=2)
    resumed.write({"step": 3, "loss": 9.0})
    text = log.jsonl.read_text().splitlines()
    assert [json.loads(line)["loss"] for line in text] == [0.5, 1.0, 9.0]
    assert MetricLog(tmp_path / "logs", "glass").rows == []


def test_tensorboard_without_its_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard package: pip install"):
        MetricLog(tmp_path, "glass", tensorboard=True)


def test_targets_of_later_events_train_nothing_else(tmp_path: Path) -> None:
    """Validation and test events are not read: other items there, the same weights."""
    changed = DATASET.items.copy()
    changed[DATASET.split > 0] = 0
    model, _ = run(tmp_path / "one", validate=Scripted([0.1] * 9))
    one = {key: value.clone() for key, value in model.state_dict().items()}
    kept = DATASET.items.copy()
    try:
        DATASET.items[:] = changed
        model, _ = run(tmp_path / "two", validate=Scripted([0.1] * 9))
    finally:
        DATASET.items[:] = kept
    assert all(torch.equal(one[key], value) for key, value in model.state_dict().items())
    assert np.array_equal(DATASET.items, random_dataset(5, seed=1).items)
