from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glass.cli import main
from glass.cli_errors import expected_message
from glass.commands import COMMANDS


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert all(f"  {name} " in out for name in [*COMMANDS, "info"])


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: glass {name} CONFIG ")
    assert "--train.max_epochs" in out
    assert COMMANDS[name].usage.split(" ")[0] in out


def test_help_shows_the_values_of_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train: {seed: 4711}\n")
    assert main(["run", str(path), "--help"]) == 0
    assert "default: 4711" in capsys.readouterr().out


def test_version_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("glass ")
    assert main(["info"]) == 0
    assert "torch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "unknown command 'runn'. Did you mean run?"),
        (["zzz"], "unknown command 'zzz'. The commands: run, data prepare"),
        (["data"], "`glass data` is one of: glass data prepare, glass data describe"),
        (["sid", "biuld"], "`glass sid` is one of: glass sid build"),
        (["run"], "`glass run` needs a CONFIG first"),
        (["run", "--train.seed", "1"], "`glass run` needs a CONFIG first"),
        (["run", "no.yaml"], "config file no.yaml does not exist"),
        (["run", "."], "a folder without a config.yaml"),
    ],
)
def test_usage_errors(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("glass: ")
    assert message in captured.err
    assert captured.out == ""


def test_settings_that_cannot_work_are_refused_before_any_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("train: {batch_size: 0}\n")
    assert main(["run", "a.yaml"]) == 1
    assert capsys.readouterr().err == "glass: train.batch_size is 0; it must be at least 1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.yaml"]


def test_recommend_needs_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n")
    assert main(["recommend", str(path)]) == 1
    assert "--users" in capsys.readouterr().err


def test_bug_keeps_its_traceback_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("glass.pipeline.Run.all", broken)
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n")
    assert main(["run", str(path)]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "boom" in err
    assert "please report it" in err.splitlines()[-1]


def test_debug_shows_the_traceback_of_expected_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLASS_DEBUG", "1")
    assert main(["run", "no.yaml"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("glass: config file no.yaml")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("glass.pipeline.Run.all", lambda run: signal.raise_signal(number))
    path = tmp_path / "a b.yaml"
    path.write_text("name: a\n")
    before = signal.getsignal(signal.SIGTERM)
    assert main(["run", str(path)]) == code
    err = capsys.readouterr().err
    assert "interrupted" in err
    assert err.splitlines()[-1] == f"  glass run '{path}'"
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) == before


class TestExpectedMessage:
    def test_full_disk_in_all_its_forms(self) -> None:
        words = "No space left on device"
        plain = OSError(28, words, "x.parquet")
        hidden = RuntimeError(f"Error while serializing: I/O error: {words} (os error 28)")
        for error in (plain, hidden):
            message = expected_message(error)
            assert message is not None
            assert words in message
            assert "free some disk space" in message
        assert (expected_message(plain) or "").startswith("x.parquet: ")

    def test_message_with_a_remedy_gets_no_second_one(self) -> None:
        message = expected_message(OSError(28, "cannot write a; free some disk space"))
        assert message == "cannot write a; free some disk space"

    def test_permission(self) -> None:
        assert "check the permissions" in (expected_message(PermissionError(13, "no", "x")) or "")

    def test_memory(self) -> None:
        assert "train.batch_size" in (expected_message(MemoryError()) or "")

    @pytest.mark.parametrize("error", [KeyError("a"), AssertionError(), RuntimeError("x")])
    def test_bugs(self, error: Exception) -> None:
        assert expected_message(error) is None


def test_module_starts_without_heavy_imports() -> None:
    # What `glass --help` imports decides how quick it is.
    code = (
        "import sys; from glass.cli import main; code = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'polars', 'jsonargparse'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_console_script() -> None:
    script = Path(sys.executable).with_name("glass")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "glass"]
    done = subprocess.run([*command, "run", "no.yaml"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "glass: config file no.yaml does not exist.\n"
