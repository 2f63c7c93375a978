"""An interrupted training ends with the same bits as one that was left alone."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training
from safetensors.torch import load_file
from toy_training import CONFIG, EVERY, STEPS, KilledError, minus_loss, run

from glass.config import TrainConfig
from glass.training import load_checkpoint, save_checkpoint
from glass.training import loop as loop_module
from glass.training.log import read_rows
from glass.training.records import Records


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder)
    return folder


def equal(one: Any, two: Any) -> bool:
    """Equal structures with bit-identical tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return bool(one == two)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def best_weights(folder: Path) -> Path:
    """The file that the checkpoint names; no other is left."""
    (path,) = folder.glob("best*")
    assert path.name == f"best-{state(folder)['best'][1]}.safetensors"
    return path


def assert_same(folder: Path, alone: Path) -> None:
    """Weights, best weights, optimiser, random numbers, counters and logs."""
    one, two = state(folder), state(alone)
    for key in two:
        assert equal(one[key], two[key]), key
    for name in (best_weights(alone).name, "glass.jsonl", "glass.csv"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


def test_run_is_what_the_test_needs(alone: Path) -> None:
    assert STEPS >= 20
    assert STEPS % CONFIG.checkpoint_every
    assert EVERY % CONFIG.checkpoint_every
    final = state(alone)
    assert final["step"] == STEPS
    rows = read_rows(alone / "glass.jsonl")
    expected = {s for s in range(1, STEPS + 1) if s % 2 == 0 or s % EVERY == 0} | {STEPS}
    assert [row["step"] for row in rows] == sorted(expected)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_same_seed_gives_the_same_bits_and_dropout_is_on(alone: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert_same(tmp_path / "again", alone)
    model = toy_training.toy_model(dataclasses.replace(toy_training.SMALL, dropout=0.0))
    run(tmp_path / "no dropout", model=model)
    assert not equal(state(tmp_path / "no dropout")["model"], final_weights(alone))


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(state(folder)["model"])


@pytest.mark.parametrize("step", [1, 5, EVERY + 1, STEPS])
def test_resumed_run_is_bit_identical(step: int, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, stop_at=step)
    _, result = run(tmp_path)
    assert_same(tmp_path, alone)
    assert result.steps == STEPS


def test_resumed_run_repeats_at_most_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, stop_at=12)
    assert state(tmp_path)["step"] == 9
    _, result = run(tmp_path, stop_at=STEPS - 9 + 1)  # the steps that are left, and no more
    assert result.steps == STEPS


def test_many_interruptions(alone: Path, tmp_path: Path) -> None:
    for _ in range(STEPS):  # six steps a run: two checkpoints further each time
        try:
            run(tmp_path, stop_at=7)
        except KilledError:
            continue
        break
    assert_same(tmp_path, alone)


def test_interruption_while_validating(alone: Path, tmp_path: Path) -> None:
    calls = []

    def stopped(model: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return minus_loss(model)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, validate=stopped)
    run(tmp_path)
    assert_same(tmp_path, alone)


@pytest.mark.parametrize("name", ["checkpoint", "best"])
def test_interruption_before_a_file_has_its_name(
    name: str, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, count = os.replace, []

    def stopped(source: Any, to: Any) -> None:
        count.extend([1] * Path(to).name.startswith(name))
        if len(count) == 2:
            raise KilledError
        rename(source, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KilledError):
            run(tmp_path)
    run(tmp_path)
    assert_same(tmp_path, alone)


def test_killed_process(alone: Path, tmp_path: Path) -> None:
    """SIGKILL before the first checkpoint and at several moments after it."""
    script = Path(toy_training.__file__)
    root = Path(loop_module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "1", "4", "7", "11"],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{script.parent}"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    assert_same(tmp_path, alone)


def test_finished_run_is_not_repeated(alone: Path, tmp_path: Path) -> None:
    run(tmp_path)
    model, result = run(tmp_path, stop_at=1)  # collates nothing
    assert result.steps == STEPS
    assert_same(tmp_path, alone)
    best = load_file(best_weights(tmp_path))
    assert equal(dict(model.state_dict()), best)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"seed": 3}, {"batch_size": 5}, {"max_epochs": 1.3}]
)
def test_other_settings_start_anew(change: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, max_epochs=1)
    other = dataclasses.replace(config, **change)
    with pytest.raises(KilledError):
        run(tmp_path / "a", config, stop_at=8)
    run(tmp_path / "a", other)
    run(tmp_path / "b", other)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_best_weights_of_other_settings_are_never_returned(tmp_path: Path) -> None:
    """Finished; then other settings, interrupted after a validation; then the first again."""
    first, _ = run(tmp_path)
    config = dataclasses.replace(CONFIG, learning_rate=1e-2, checkpoint_every=1000)
    with pytest.raises(KilledError):
        run(tmp_path, config, stop_at=EVERY + 2)
    again, _ = run(tmp_path)
    assert equal(dict(again.state_dict()), dict(first.state_dict()))


class Scripted:
    """Gives the scores one after another and keeps the weights of each validation."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        self.weights.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"ndcg@20": self.scores[len(self.weights) - 1]}


def test_best_weights_of_lost_steps_are_never_returned(tmp_path: Path) -> None:
    """Killed between a better validation and the next checkpoint; repeated, as on a GPU, the
    steps come out otherwise and the better score does not come again."""
    first = Scripted(0.5, 0.9)
    with pytest.raises(KilledError):
        run(tmp_path, validate=first, stop_at=2 * EVERY + 1)
    assert EVERY < state(tmp_path)["step"] < 2 * EVERY
    again = Scripted(0.4, 0.3, 0.2)
    model, result = run(tmp_path, validate=again)
    assert len(again.weights) == 3
    assert (result.best_step, result.best) == (EVERY, 0.5)
    assert equal(dict(model.state_dict()), first.weights[0])
    assert best_weights(tmp_path).name == f"best-{EVERY}.safetensors"


def test_checkpoint_without_its_best_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, stop_at=2 * EVERY + 1)
    for path in tmp_path.glob("best*"):
        path.unlink()
    message = rf"checkpoint\.pt belongs with best-{EVERY}\.safetensors, .* delete checkpoint\.pt"
    with pytest.raises(ValueError, match=message):
        run(tmp_path)


def test_other_data_start_anew(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"fingerprint": "one", "step": 3})
    assert load_checkpoint(path, made_with="two") is None
    assert load_checkpoint(path, made_with="one")["step"] == 3  # type: ignore[index]
    assert load_checkpoint(tmp_path / "none.pt", made_with="one") is None


class Touch:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def damages(whole: bytes, other: Path) -> dict[str, bytes]:
    middle = len(whole) // 2
    return {
        "empty": b"",
        "cut short": whole[:middle],
        "without its end": whole[:-30],
        "text": b"not a checkpoint\n" * 40,
        "zeros": bytes(4000),
        "pickle with code": pickle.dumps(Touch(other), protocol=2),
        "pickle of a list": pickle.dumps([1, 2, 3], protocol=2),
    }


KINDS = list(damages(b"", Path("none")))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.replace(" ", "-"))
def test_damaged_checkpoint_is_refused_with_the_remedy(
    kind: str, alone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    whole = (alone / "checkpoint.pt").read_bytes()
    path.write_bytes(damages(whole, tmp_path / "executed")[kind])
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*delete it to start anew"):
        run(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    """Saved by torch itself, so that only weights_only stands between."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"format_version": 1, "fingerprint": Touch(tmp_path / "executed")}, path)
    with pytest.raises(ValueError, match="delete it to start anew"):
        load_checkpoint(path, made_with="one")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("stored", [[1, 2], {"step": 1}, {"format_version": 1, "step": 1}])
def test_file_that_is_no_checkpoint_is_refused(stored: object, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(stored, path)
    with pytest.raises(ValueError, match="delete it to start anew"):
        load_checkpoint(path, made_with="one")


def test_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format_version": 99, "fingerprint": "one"}, path)
    with pytest.raises(ValueError, match=r"has format 99, this version reads 1; delete it"):
        load_checkpoint(path, made_with="one")


def test_nothing_temporary_is_left(alone: Path) -> None:
    names = sorted(path.name for path in alone.iterdir())
    assert names == [best_weights(alone).name, "checkpoint.pt", "glass.csv", "glass.jsonl"]


def test_autocast_run_resumes_too(tmp_path: Path) -> None:
    config: TrainConfig = dataclasses.replace(CONFIG, autocast=True, max_epochs=1)
    run(tmp_path / "a", config)
    with pytest.raises(KilledError):
        run(tmp_path / "b", config, stop_at=8)
    run(tmp_path / "b", config)
    assert_same(tmp_path / "b", tmp_path / "a")
    assert not equal(final_weights(tmp_path / "a"), toy_training.toy_model().state_dict())
    for name, weight in final_weights(tmp_path / "a").items():
        assert weight.dtype != torch.bfloat16, name


@pytest.mark.parametrize("best", [["x", "../../x", 0], [0.1, None, 0], [0.1], None, "abc"])
def test_a_checkpoint_names_no_other_file(best: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", {"fingerprint": "mine", "best": best})
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint of a training"):
        Records(tmp_path, "mine").load()


def test_every_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"fingerprint": "mine", "best": [0.0, 0, 0], "x": torch.ones(3)})
    content, rng = path.read_bytes(), random.Random(0)
    refusals = []
    for _ in range(300):
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :])
        try:
            Records(tmp_path, "mine").load()
        except ValueError as error:
            refusals.append(str(error))
        path.write_bytes(content)
    assert len(refusals) > 20
    assert all("checkpoint.pt" in refusal for refusal in refusals)
