"""IntRR and its flattened baseline behind the same commands as GLASS."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from glass import Recommender
from glass.cli import main
from glass.data import Dataset
from glass.export import export_model
from glass.pipeline.neural import load_system
from glass.training.log import read_rows
from glass.training.trainer import Trainer

SYSTEMS = ["flattened_transformer", "intrr_hstu"]
MakeShop = Callable[..., Path]


@pytest.fixture
def folder(finished_sequences: Path) -> Path:
    return finished_sequences.parent / "runs" / "tiny"


def test_a_run_leaves_everything(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["systems"]) == ["own_frequency", *SYSTEMS]
    for system in SYSTEMS:
        found = metrics["systems"][system]["generation"]
        assert {"acc_1", "acc_2", "acc_3", "P_123", "invalid_rate"} <= set(found)
        assert 0 < found["acc_1"] < 1
        assert found["invalid_rate"] == 0
        assert {"loss", "acc_3", "valid_hit@5"} <= set(
            read_rows(folder / f"logs/{system}.jsonl")[-1]
        )
    assert metrics["gates"] == {}
    assert list(metrics["redistribution"]) == ["intrr_hstu"]
    assert len(metrics["redistribution"]["intrr_hstu"]["moved"]) == 3
    assert metrics["by_history"]["bins"] == ["20-49"]
    last = read_rows(folder / "logs" / "intrr_hstu.jsonl")[-1]
    assert last["loss"] == pytest.approx(last["loss_rec"] + 0.1 * last["loss_align"], rel=1e-5)
    page = (folder / "report.html").read_text()
    assert "IntRR (HSTU)" in page
    assert "Validation Hit@5" in page
    assert 'id="redistribution"' in page
    assert "Not available" in page  # gates, which these models have not


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_model_says_what_it_is(folder: Path, system: str) -> None:
    model, table, trie = load_system(folder / system)
    assert table.num_items == 30
    assert trie.codebook_sizes == model.codebook_sizes == (4, 4, 4)
    trained = json.loads((folder / system / "trained.json").read_text())
    assert (trained["system"], trained["metric"]) == (system, "hit@5")
    card = (folder / system / "README.md").read_text()
    assert f"hit@5 {trained['best']:.4f}" in card
    title = {"flattened_transformer": "Flattened SIDs (Transformer)", "intrr_hstu": "IntRR (HSTU)"}
    assert card.startswith(f"# {title[system]} on shop\n")
    with pytest.raises(ValueError, match="glass and tiger alone can be exported"):
        export_model(folder / system, folder.parent / "exported")
    assert not (folder.parent / "exported").exists()


def test_again_trains_nothing(finished_sequences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("worked again")

    for name in ("glass.pipeline.neural.train", "glass.pipeline.run.decode_samples"):
        monkeypatch.setattr(name, refuse)
    assert main(["run", str(finished_sequences)]) == 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_training_that_was_killed_ends_with_the_same_weights(
    system: str, folder: Path, make_sequence_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, step = make_sequence_shop(), Trainer.train_step

    def killed(trainer: Any) -> None:
        if trainer.step == 3:  # after the checkpoint of step 3, but none of a whole epoch
            raise KeyboardInterrupt
        step(trainer)

    monkeypatch.setattr(Trainer, "train_step", killed)
    given = ["train", str(path), "--system", system]
    assert main(given) == 130
    monkeypatch.setattr(Trainer, "train_step", step)
    again = path.parent / "runs" / "tiny"
    assert (again / "training" / system / "checkpoint.pt").exists()
    assert not (again / system).exists()
    assert main(given) == 0
    old, new = (load_file(f / system / "model.safetensors") for f in (folder, again))
    assert old.keys() == new.keys()
    assert all((old[name] == new[name]).all() for name in old)
    logs = [read_rows(f / "logs" / f"{system}.jsonl") for f in (folder, again)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_folder_alone_recommends_as_the_command(
    finished_sequences: Path, folder: Path, system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    users = ["u3", "u1", "u7"]
    given = ["recommend", str(folder), "--users", *users, "--num-items", "5", "--json"]
    chosen = ["--system", system] if system != SYSTEMS[-1] else []  # the run's last one anyway
    assert main([*given, *chosen]) == 0
    expected = json.loads(capsys.readouterr().out)
    recommender = Recommender.load(folder / system)
    recommender.observe_dataset(Dataset.load(finished_sequences.parent / "data" / "shop"))
    for user, listed in zip(users, recommender.recommend(users, 5), strict=True):
        shown = expected[user]
        assert [item.raw_item_id for item in listed] == [item["raw_item_id"] for item in shown]
        scores = [item["score"] for item in shown]
        assert [item.score for item in listed] == pytest.approx(scores, abs=1e-5)
    assert main([*given, "--exclude-seen", *chosen]) == 0
    fresh = json.loads(capsys.readouterr().out)
    assert not any(item["repeat"] for listed in fresh.values() for item in listed)
    assert len(recommender.recommend(["somebody"], 4)[0]) == 4  # without any events


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sequence.max_items=0", "sequence.max_items is 0; it must be at least 1"),
        ("--sequence.d_model=0", "sequence.d_model is 0; it must be at least 1"),
        ("--sequence.dropout=1.0", r"sequence.dropout is 1.0; it must be in [0, 1)"),
        ("--sequence.alignment=-1", "sequence.alignment is -1.0; it must be at least 0"),
        ("--sequence.temperature=0", "sequence.temperature is 0.0; it must be above 0"),
        ("--sequence.codebook_std=0", "sequence.codebook_std is 0.0; it must be above 0, or null"),
        ("--sequence.hidden_dim=0", "sequence.hidden_dim is 0; it must be at least 1, or null"),
        ("--sequence.hstu=new", "sequence.hstu is new; it must be one of canonical, released"),
        ("--systems=[intrr]", "systems is 'intrr'; it must be one of"),
    ],
)
def test_settings_that_cannot_work(
    argument: str,
    message: str,
    make_sequence_shop: MakeShop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_sequence_shop()
    assert main(["run", str(path), argument]) == 1
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error)
    assert not (path.parent / "runs").exists()
