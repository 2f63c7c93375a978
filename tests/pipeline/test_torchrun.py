"""`torchrun -m glass`: the commands in several processes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from torchrun import ROOT, command, environment, torchrun

from glass.cli import main
from glass.training.log import read_rows

MakeShop = Callable[..., Path]
NO_DROPOUT = {"model": {"dropout": 0.0}, "systems": ["popularity", "glass"]}


def scores(run: Path) -> dict[str, float]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return {
        f"{name} {metric}": value
        for name, system in metrics["systems"].items()
        for metric, value in system["all"].items()
        if isinstance(value, float)
    }


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_run_of_two_processes(parallel: str, make_shop: MakeShop) -> None:
    changes = {**NO_DROPOUT, "train": {"parallel": parallel}}
    shop, other = make_shop(**changes), make_shop("other", **changes)
    done = torchrun(2, "-m", "glass", "run", str(shop))
    assert done.returncode == 0, done.stderr[-3000:]
    assert main(["run", str(other)]) == 0
    run, alone = shop.parent / "runs" / "tiny", other.parent / "runs" / "tiny"
    assert len(scores(alone)) > 10
    assert scores(run) == pytest.approx(scores(alone), abs=0.02)
    # What is told is told once, and all that one process leaves is there.
    assert done.stdout.count("All targets, SID level") == 1
    assert done.stderr.count("train glass ...") == 1
    left, expected = ({p.name for p in folder.rglob("*")} for folder in (run, alone))
    assert left == expected
    if parallel == "fsdp2":
        return
    # The second call finds everything up to date.
    before = (run / "metrics.json").stat().st_mtime_ns
    again = torchrun(2, "-m", "glass", "run", str(shop))
    assert again.returncode == 0, again.stderr[-3000:]
    assert (run / "metrics.json").stat().st_mtime_ns == before
    assert "train glass: up to date" in again.stderr


def test_a_rank_without_a_job_silences_nothing(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert main(["data", "prepare", str(make_shop())]) == 0
    assert "shop" in capsys.readouterr().out


def test_work_of_one_process_is_refused(make_shop: MakeShop) -> None:
    done = torchrun(2, "-m", "glass", "sid", "describe", str(make_shop()))
    assert done.returncode != 0
    assert (
        "`glass sid describe` is the work of one process; start it without torchrun" in done.stderr
    )


def test_killed_process_ends_the_job_with_a_message(make_shop: MakeShop) -> None:
    train = {"max_epochs": 400, "checkpoint_every": 5, "patience": 1000, "eval_every": 100}
    shop = make_shop(**NO_DROPOUT, train=train)
    folder = shop.parent / "runs" / "tiny"
    checkpoint = folder / "training" / "glass" / "checkpoint.pt"
    job = subprocess.Popen(
        command(2, "-m", "glass", "train", str(shop)),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert job.poll() is None
    workers = psutil.Process(job.pid).children(recursive=True)
    (second,) = (p for p in workers if p.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    _, text = job.communicate(timeout=120)
    assert job.returncode != 0
    # Whichever comes first: its connection breaks, or torchrun stops it.
    assert "lost another process of this job" in text or "to continue run again" in text
    assert "this is a bug in glass" not in text
    assert main(["train", str(shop), "--train.log_every", "2"]) == 0
    steps = [row["step"] for row in read_rows(folder / "logs" / "glass.jsonl")]
    assert steps == sorted(set(steps))
    assert (folder / "glass" / "trained.json").exists()
