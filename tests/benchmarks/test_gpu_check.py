"""`python -m benchmarks.gpu_check`, as far as a machine without a card can run it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import NamesDevices

from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import jobs as all_jobs
from benchmarks.gpu_check import models, ops, parts, report, settings
from benchmarks.gpu_check.parts import Found, Options
from benchmarks.machine import Floors
from benchmarks.moving import moved

TINY = all_jobs.jobs("tiny")
FLOORS = Floors(1e10, 1e10)


def options(folder: Path, **changes: Any) -> Options:
    return replace(Options("cpu", "tiny", 0.01, 1.0, folder), **changes)


@dataclass(frozen=True)
class Pair:
    leaf: torch.Tensor
    parts: tuple[torch.Tensor, ...]
    name: str = "pair"


def test_moved_inputs_are_the_same_and_leaves_stay_leaves() -> None:
    pair = Pair(torch.ones(2, requires_grad=True), (torch.arange(3),))
    again = moved([pair], "cpu")[0]
    assert again.leaf.is_leaf
    assert again.leaf.requires_grad
    assert again.leaf is not pair.leaf
    assert torch.equal(again.parts[0], pair.parts[0])
    assert again.name == "pair"


@pytest.mark.parametrize("name", list(TINY))
def test_every_side_of_every_job_names_its_devices_and_is_right(name: str) -> None:
    for job in TINY[name]:
        contest = job.make("cpu")
        backends = ops.backends_of(job.ops, "cpu")
        assert backends[0] == "cpp"
        sides = ops.sides_of(contest, backends)
        with NamesDevices():
            assert ops.checked(contest, sides, backends) == {}
        assert job.floor(FLOORS, contest) > 0


def test_full_and_quick_have_every_job() -> None:
    for size in ("full", "quick"):
        assert list(all_jobs.jobs(size)) == list(TINY)


def test_an_unnamed_device_is_found() -> None:
    with NamesDevices(), pytest.raises(AssertionError, match=r"torch\.arange without a device"):
        torch.arange(3)


def test_a_wrong_backend_has_no_time_but_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    job = TINY["gated_fusion"][0]
    row = ops.row_of(job, FLOORS, "cpu", 0.0)
    assert row["best"] == "cpp"
    assert row["wrong"] == ""
    assert row["plain / best"] > 0  # type: ignore[operator]

    def wrong(device: str) -> Any:
        contest = job.make(device)
        return replace(contest, ours=lambda batch: tuple(1.01 * x for x in contest.ours(batch)))

    row = ops.row_of(replace(job, make=wrong), FLOORS, "cpu", 0.0)
    assert "cpp: result 0 differs" in str(row["wrong"]) or "cpp: cpp" in str(row["wrong"])
    assert "cpp ms" not in row
    assert "best" not in row
    monkeypatch.setattr(ops, "jobs", lambda _: {"gated_fusion": [replace(job, make=wrong)]})
    given = ["gated_fusion", "--size=tiny", "--device=cpu"]
    assert ops.main([*given, "--check-only"]) == 1
    assert ops.main([*given, "--seconds=0"]) == 1


def test_models_are_timed_and_a_wrong_one_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glass_kernels import triton_tuning

    monkeypatch.setattr(triton_tuning, "measured", lambda: {"op.kernel": []})  # the interpreter's

    def wrong(*_: object) -> None:
        raise RuntimeError("not\nright")

    good = models.works("tiny", "cpu", 0.0)
    assert len(good) == 4 * 3
    monkeypatch.setattr(models, "works", lambda *_: [("bad", wrong), good[0]])
    assert models.main(["--size=tiny", "--device=cpu"]) == 1
    first, second = parts._rows(capsys.readouterr().out)
    assert first["wrong"] == "not right"
    assert second["plain / ours"] > 0  # type: ignore[operator]


def is_running(process: int) -> bool:
    """Not gone, nor waiting for its parent to notice that it is."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_process_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    status, text = parts.run([sys.executable, "-c", code], 0.05, tmp_path / "log")
    assert status is None
    end = time.monotonic() + 10  # it was told to die, and does so when it next runs
    while is_running(int(text)):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_failures_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "tests.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="a" name="x"/>'
        '<testcase classname="a" name="y"><failure message="assert 1&#10;more"/></testcase>'
        '<testcase classname="a" name="z"><skipped/></testcase></testsuite></testsuites>'
    )
    counts, shown = parts._failures(path)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert shown == ["- `a::y` assert 1"]


def test_a_cut_line_is_left_out() -> None:
    assert parts._rows('{"a": 1}\nnoise\n{"b": ') == [{"a": 1}]


def test_the_report_keeps_every_number_and_shows_the_chief_ones(tmp_path: Path) -> None:
    rows = [{"B": 2, "cuda ms": 1.25, "cuda host ms": 0.5}, {"B": 4, "form": "a | b"}]
    parts_found = [Found("ops x", "failed", ["- cuda: differs"], rows), Found("tests", "no card")]
    text = report.write(tmp_path, {"card": "H100"}, {"copy": "3 TB/s"}, parts_found).read_text()
    assert "host ms |" not in text
    assert "a \\| b" in text
    assert "- cuda: differs" in text
    assert "| tests | no card |" in text
    with (tmp_path / "gpu_check.csv").open() as file:
        stored = list(csv.DictReader(file))
    assert stored[0]["cuda host ms"] == "0.5"
    assert stored[1]["card"] == "H100"
    assert not list(tmp_path.glob("*.tmp"))


def test_fastest_settings_become_a_file_that_can_be_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glass_kernels import triton_tuning  # once all tests are collected; see triton/conftest.py

    entry = {"when": {"D": 64, "dtypes": ["torch.float32"]}, "use": {"BM": 64, "warps": 4}}
    slower = {**entry, "use": {"BM": 16, "warps": 4}}
    other = {**entry, "when": {"D": 32}}
    lines = [json.dumps({"settings": {"op.kernel": each}}) for each in ([entry], [slower, other])]
    rows, tuned = settings.split(parts._rows("\n".join(['{"B": 2}', *lines])))
    assert rows == [{"B": 2}]
    assert tuned == {"op.kernel": [entry, other]}
    card = {"card": "NVIDIA H100, sm_90", "triton": "3.8.0"}
    path = settings.write(tmp_path, card, [tuned, {"op.more": [entry]}])
    assert path == tmp_path / "sm_90.json"
    monkeypatch.setattr(triton_tuning, "FOLDER", tmp_path)
    triton_tuning.read.cache_clear()
    found = triton_tuning.read("sm_90")
    triton_tuning.read.cache_clear()
    assert found == {"measured": card, "settings": {**tuned, "op.more": [entry]}}
    assert settings.write(tmp_path, {"card": "none: no CUDA device is visible"}, [tuned]) is None
    assert settings.write(tmp_path, card, [{}]) is None
    monkeypatch.setattr(triton_tuning, "measured", lambda: {"op.kernel": [entry]})
    settings.show()
    assert json.loads(capsys.readouterr().out) == {"settings": {"op.kernel": [entry]}}


def test_without_a_card_it_says_so_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["tests", "sanitizer", f"--output={tmp_path}", "--device=cpu"]
    assert program.main(given) == 0
    assert "No CUDA device is visible to torch" in capsys.readouterr().out
    text = (tmp_path / "gpu_check.md").read_text()
    assert text.count("left out: no card") == 2


def test_a_failed_part_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(program.PARTS, "models", lambda _: Found("models", "failed"))
    given = ["models", "tests", f"--output={tmp_path}", "--device=cpu"]
    assert program.main(given) == 1
    assert "| tests" in (tmp_path / "gpu_check.md").read_text().lower()
    with pytest.raises(SystemExit):
        program.main(["modles"])


def test_a_broken_build_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> tuple[int, str]:
        return 1, "g++: no such file"

    monkeypatch.setattr(parts, "run", broken)
    found = parts.build(options(tmp_path))
    assert found.failed
    assert "g++: no such file" in found.lines


def test_it_needs_nothing_that_a_machine_with_a_card_may_lack() -> None:
    """No data frames, no clustering, no command line of glass."""
    code = (
        "import sys\n"
        "for name in ('polars', 'faiss', 'jsonargparse', 'sentence_transformers', 'ranx'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.gpu_check.__main__, benchmarks.gpu_check.models\n"
        "from benchmarks.gpu_check.jobs import jobs\n"
        "(job,) = jobs('tiny')['residual_quantize']\n"
        "assert not job.make('cpu').others\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
