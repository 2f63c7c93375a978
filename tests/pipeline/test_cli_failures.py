"""Bad input, full disks, interruptions and kills: one message, and nothing that looks whole."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from glass.cli import main

MakeShop = Callable[..., Path]


def message_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that failed as expected."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("glass: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


class TestBadInput:
    def test_unknown_column(self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]) -> None:
        config = make_shop(data={"item_column": "itemid"})
        assert main(["run", str(config)]) == 1
        message = message_of(capsys)
        assert "data.item_column is 'itemid'" in message
        assert "Did you mean 'item_id'?" in message
        assert not (config.parent / "data" / "shop").exists()

    def test_empty_file(self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]) -> None:
        config = make_shop()
        (config.parent / "events.csv").write_text("")
        assert main(["run", str(config)]) == 1
        assert "events.csv is empty" in message_of(capsys)

    def test_header_alone(self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]) -> None:
        config = make_shop()
        (config.parent / "events.csv").write_text("user_id,item_id,timestamp\n")
        assert main(["run", str(config)]) == 1
        assert "events.csv" in message_of(capsys)

    def test_missing_file(self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]) -> None:
        config = make_shop(data={"path": "nowhere.csv"})
        assert main(["run", str(config)]) == 1
        assert "data.path: nowhere.csv does not exist" in message_of(capsys)

    def test_user_with_one_event_is_left_out_and_counted(
        self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = make_shop()
        with (config.parent / "events.csv").open("a") as file:
            file.write("single,i1,1000\n")
        assert main(["data", "describe", str(config)]) == 0
        out = capsys.readouterr().out
        assert "24 users" in out
        assert "users with one event: 1 users" in out
        assert (
            main(["train", str(config), "--data.min_user_events=1", "--train.max_epochs=.2"]) == 0
        )

    def test_no_item_has_a_text(
        self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = make_shop(
            data={"items_path": None, "title_column": None, "text_columns": []},
            sid={"source": "text"},
        )
        assert main(["run", str(config)]) == 1
        assert "text" in message_of(capsys)
        assert not (config.parent / "runs" / "tiny" / "sid").exists()

    def test_more_codes_than_items(
        self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = make_shop(sid={"codebook_sizes": [64, 4]})
        assert main(["run", str(config)]) == 1
        assert "sid.codebook_sizes [64, 4]" in message_of(capsys)


class TestFolders:
    def test_output_below_a_file(
        self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = make_shop()
        blocked = config.parent / "events.csv" / "runs"
        assert main(["run", str(config), f"--output={blocked}"]) == 1
        message = message_of(capsys)
        assert "events.csv" in message
        assert "--output" in message
        assert not (config.parent / "data").exists()  # before any work

    def test_data_folder_below_a_file(
        self, make_shop: MakeShop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = make_shop()
        blocked = config.parent / "events.csv" / "data"
        assert main(["run", str(config), f"--data.folder={blocked}"]) == 1
        assert "data.folder" in message_of(capsys)

    @pytest.mark.parametrize("code", [13, 30])  # EACCES, EROFS
    def test_unwritable(
        self,
        code: int,
        make_shop: MakeShop,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        # Simulated: root, who may run the tests, can write everywhere.
        def mkdir(path: Path, *_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code), str(path))

        config = make_shop()
        monkeypatch.setattr(Path, "mkdir", mkdir)
        assert main(["run", str(config)]) == 1
        message = message_of(capsys)
        assert os.strerror(code) in message
        assert "check the permissions or choose another --output" in message


def test_disk_that_fills_up_at_every_stage(
    make_shop: MakeShop, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond a limit that rises from try to try; then the run goes on."""
    config = make_shop()
    folder, reference = (path.parent / "runs" / "tiny" for path in (config, finished))
    (best,) = (reference / "training" / "tiger").glob("best-*.safetensors")
    # Too little for one file after the other: a try gets as far as the one that is too large.
    stages = {
        reference / "config.yaml": [],
        finished.parent / "data" / "shop" / "interactions.parquet": [],
        best: ["sid"],
        reference / "training" / "tiger" / "checkpoint.pt": ["sid"],
        reference / "training" / "glass" / "checkpoint.pt": ["sid", "tiger"],
        reference / "report.html": ["sid", "tiger", "glass", "metrics.json"],
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for file, finished_parts in stages.items():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size - 200, before[1]))
        try:
            code = main(["run", str(config)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 1, file
        message = message_of(capsys)
        assert "free some" in message, message
        parts = ("sid", "tiger", "glass", "metrics.json", "report.html")
        assert [name for name in parts if (folder / name).exists()] == finished_parts, file
        assert not [p for p in config.parent.rglob("*.tmp-*")], file
    assert main(["run", str(config)]) == 0
    metrics = (folder / "metrics.json").read_text()
    assert json.loads(metrics) == json.loads((reference / "metrics.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_leaves_no_model_and_goes_on(
    number: signal.Signals,
    make_shop: MakeShop,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_shop()
    folder = config.parent / "runs" / "tiny"
    step, calls = torch.optim.AdamW.step, []

    def interrupted(optimizer: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            signal.raise_signal(number)
        return step(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    code = main(["train", str(config), "--system=tiger"])
    assert code == (130 if number == signal.SIGINT else 143)
    err = capsys.readouterr().err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (folder / "tiger").exists()
    assert main(["train", str(config), "--system=tiger"]) == 0
    # Steps 1 to 7, and from the checkpoint of step 6 on to step 10.
    assert len(calls) == 8 + 4
    same_weights(folder, finished.parent / "runs" / "tiny", "tiger")


def test_killed_training_ends_as_if_uninterrupted(make_shop: MakeShop, finished: Path) -> None:
    config = make_shop()
    folder = config.parent / "runs" / "tiny"
    # TIGER takes ten steps; GLASS is killed in its eighth, two after a checkpoint.
    code = """
import os, signal, sys, torch
step, calls = torch.optim.AdamW.step, []
def killed(optimizer, *given):
    calls.append(1)
    if len(calls) == 18:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(optimizer, *given)
torch.optim.AdamW.step = killed
torch.set_num_threads(1)
from glass.cli import main
main(sys.argv[1:])
"""
    done = subprocess.run([sys.executable, "-c", code, "run", str(config)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (folder / "tiger" / "model.safetensors").exists()
    assert not (folder / "glass").exists()
    assert not (folder / "metrics.json").exists()
    assert not (folder / "report.html").exists()
    assert main(["run", str(config)]) == 0
    reference = finished.parent / "runs" / "tiny"
    for system in ("tiger", "glass"):
        same_weights(folder, reference, system)
    metrics = (folder / "metrics.json").read_text()
    assert json.loads(metrics) == json.loads((reference / "metrics.json").read_text())
    for name in ("tiger.csv", "glass.csv"):
        logs = [(run / "logs" / name).read_text() for run in (folder, reference)]
        assert logs[0] == logs[1]


def same_weights(folder: Path, reference: Path, system: str) -> None:
    """Bit for bit."""
    ours, theirs = (load_file(run / system / "model.safetensors") for run in (folder, reference))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


def test_training_left_half_done_with_other_settings_is_not_mixed_in(
    make_shop: MakeShop, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished, B interrupted after its first best weights, back to A: A's weights."""
    config = make_shop()
    given = ["train", str(config), "--system=tiger"]
    assert main(given) == 0
    step, calls = torch.optim.AdamW.step, []

    def interrupted(optimizer: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # after the first validation, at step 5
            raise KeyboardInterrupt
        return step(optimizer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        assert main([*given, "--train.seed=1"]) == 130
    folder = config.parent / "runs" / "tiny"
    (folder / "tiger" / "trained.json").unlink()  # so that it must be made from what training left
    assert main(given) == 0
    same_weights(folder, finished.parent / "runs" / "tiny", "tiger")


def test_changing_test_items_changes_nothing_that_is_fitted(
    make_shop: MakeShop, finished: Path
) -> None:
    """SIDs, vectors, prototypes, tiers, neighbours and weights, over the whole pipeline."""
    source = pl.read_csv(finished.parent / "events.csv")
    # The four newest events of each user are test; their items move on by one.
    moved = pl.format("i{}", (pl.col("item_id").str.slice(1).cast(pl.Int32) + 1) % 30)
    newest = pl.int_range(pl.len()).over("user_id") >= pl.len().over("user_id") - 4
    changed = source.with_columns(item_id=pl.when(newest).then(moved).otherwise(pl.col("item_id")))
    assert (changed["item_id"] != source["item_id"]).sum() == 24 * 4
    config = make_shop(events=changed)
    assert main(["train", str(config)]) == 0
    ours, theirs = (path.parent / "runs" / "tiny" for path in (config, finished))
    for name in ("vectors", "quantizer"):
        mine, other = (load_file(run / "sid" / f"{name}.safetensors") for run in (ours, theirs))
        assert mine.keys() == other.keys()
        assert all(np.array_equal(mine[key], other[key]) for key in mine)
    sids = [pl.read_parquet(run / "sid" / "sids.parquet") for run in (ours, theirs)]
    assert sids[0].equals(sids[1])
    for system in ("tiger", "glass"):
        same_weights(ours, theirs, system)
    state = load_file(ours / "glass" / "model.safetensors")
    # The comparison above covers tiers and neighbours only if the model keeps them.
    assert any("edges" in name for name in state)
    assert any("neighbour" in name for name in state)
