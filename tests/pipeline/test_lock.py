"""Two processes and one run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glass.cli import main
from glass.pipeline.lock import NAME, locked_folder

HOLD = """
import sys
from pathlib import Path
from glass.pipeline.lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run_folder(finished: Path) -> Path:
    return finished.parent / "runs" / "tiny"


@pytest.fixture
def other(run_folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the run's folder."""
    command = [sys.executable, "-c", HOLD, str(run_folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_process_is_refused_until_the_first_is_killed(
    other: subprocess.Popen[str],
    finished: Path,
    run_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (run_folder / "config.yaml").stat().st_mtime_ns
    for command in ("run", "sid build", "train", "evaluate"):
        assert main([*command.split(), str(finished)]) == 1, command
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert f"{run_folder} is being worked on by process {other.pid} on " in lines[0]
    assert (run_folder / "config.yaml").stat().st_mtime_ns == before
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert main(["train", str(finished)]) == 0


def test_reading_commands_are_not_blocked(
    other: subprocess.Popen[str], run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "config.yaml").stat().st_mtime_ns
    for command in ("data describe", "sid describe", "report", "recommend"):
        more = ["--users", "u1"] if command == "recommend" else []
        assert main([*command.split(), str(run_folder), *more]) == 0, capsys.readouterr().err
    assert other.poll() is None
    assert (run_folder / "config.yaml").stat().st_mtime_ns == before


def test_reading_does_not_replace_semantic_ids_that_another_process_uses(
    other: subprocess.Popen[str], run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "sid" / "sids.parquet").read_bytes()
    for command in ("sid describe", "report"):
        assert main([*command.split(), str(run_folder), "--sid.seed=1"]) == 1
        assert f"by process {other.pid}" in capsys.readouterr().err
    assert (run_folder / "sid" / "sids.parquet").read_bytes() == before


def test_lock_is_free_again_and_names_its_holder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    for _ in range(2):
        with locked_folder(folder):
            assert (folder / NAME).read_text().startswith(f"process {os.getpid()} on ")
            with pytest.raises(ValueError, match=f"process {os.getpid()} on .*another --name"):
                locked_folder(folder).__enter__()
    with pytest.raises(KeyError), locked_folder(folder):
        raise KeyError
    with locked_folder(folder):
        pass


def test_file_system_without_locks_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked_folder(tmp_path):
        pass
    assert "cannot be locked" in caplog.text
