"""The parts of the check. Each is a process or several, so that none can spoil another."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import torch

from benchmarks.gpu_check import settings
from benchmarks.gpu_check.jobs import jobs
from benchmarks.output import Row

ROOT = Path(__file__).parent.parent.parent
TESTS = ("tests/cuda", "tests/glass_kernels/triton")
"""Folders whose tests need a card, and nothing that must be downloaded."""
TOOLS = ("memcheck", "racecheck", "synccheck")
_SANITIZER = "compute-sanitizer"
_WRONG = 99  # an exit status that nothing else has


@dataclass
class Found:
    """What became of a part."""

    title: str
    verdict: str
    """"ok", "failed", or why it was left out."""
    lines: list[str] = field(default_factory=list)
    """For the report."""
    rows: list[Row] = field(default_factory=list)
    """For the tables and the CSV."""
    tuned: settings.Settings = field(default_factory=dict)
    """What Triton's autotuner found."""

    @property
    def failed(self) -> bool:
        return self.verdict == "failed"


@dataclass(frozen=True)
class Options:
    """What a part is told."""

    device: str
    size: str
    seconds: float
    minutes: float
    """At most, of a process."""
    output: Path


def run(
    command: Sequence[str], minutes: float, log: Path, extra: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """(exit status or None after `minutes`, what it printed); all of it goes to `log` too."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(extra or {})}
    log.parent.mkdir(parents=True, exist_ok=True)
    status: int | None = None
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it started can be stopped with it
        )  # fmt: skip
        try:
            status = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return status, log.read_text(errors="replace")


def _state(status: int | None, minutes: float) -> str:
    if status is None:
        return f"stopped after {minutes:g} minutes"
    return f"exit status {status}"


def _tail(text: str, count: int = 12) -> list[str]:
    return ["```", *[line[:200] for line in text.strip().splitlines()[-count:]], "```"]


def build(options: Options) -> Found:
    """Both libraries in place, CUDA for this card alone."""
    found = Found("Build", "ok")
    extra = {"GLASS_BUILD_CPP": "1"}
    if options.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        extra |= {"GLASS_BUILD_CUDA": "1", "GLASS_CUDA_ARCHS": f"{major}{minor}"}
        built = f"built for sm_{major}{minor}"
    else:
        extra |= {"GLASS_BUILD_CUDA": "0"}
        built = "left out: no card (`make check` compiles it)"
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    status, text = run(command, options.minutes, options.output / "build.txt", extra)
    found.lines.append(f"C++ library built; CUDA library {built}.")
    if status != 0:
        found.verdict = "failed"
        found.lines = [f"`{' '.join(command[1:])}`: {_state(status, options.minutes)}"]
        found.lines += _tail(text)
    return found


def _failures(report: Path) -> tuple[dict[str, int], list[str]]:
    """Counts, and the first failures with their reasons, of a JUnit file."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    shown = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        bad = [*case.findall("failure"), *case.findall("error")]
        kind = "failed" if bad else "skipped" if case.findall("skipped") else "passed"
        counts[kind] += 1
        if bad:
            reason = " ".join((bad[0].get("message") or "").splitlines()[:1])
            shown.append(f"- `{case.get('classname')}::{case.get('name')}` {reason[:240]}")
    return counts, shown


def tests(options: Options) -> Found:
    """`pytest -m gpu`, side by side where pytest-xdist is there."""
    if options.device != "cuda":
        return Found("Tests on the card", "left out: no card")
    report = options.output / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", *TESTS]
    if find_spec("xdist"):
        command += ["-n", str(min(os.cpu_count() or 1, 8)), "--dist=loadfile"]
    status, text = run(command, options.minutes, options.output / "tests.txt")
    found = Found("Tests on the card", "ok" if status == 0 else "failed")
    if not report.exists():
        found.lines = [_state(status, options.minutes), *_tail(text)]
        return found
    counts, shown = _failures(report)
    found.rows = [{**counts}]
    found.lines = [", ".join(f"{number} {kind}" for kind, number in counts.items()) + ".", *shown]
    if counts["passed"] == 0:
        found.verdict = "failed"
        found.lines.append("No test ran.")
    return found


def _sanitized(options: Options, tool: str, job: str) -> Row:
    command = [_SANITIZER, "--tool", tool, "--error-exitcode", str(_WRONG), sys.executable, "-m"]
    command += ["benchmarks.gpu_check.ops", job, "--size", "tiny", "--check-only"]
    log = options.output / "sanitizer" / f"{tool}-{job}.txt"
    extra = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else it sees torch's blocks, not tensors
    status, text = run(command, options.minutes, log, extra)
    summary = re.findall(r"SUMMARY: (.*)", text)
    verdict = "ok" if status == 0 else _state(status, options.minutes)
    return {"tool": tool, "job": job, "verdict": verdict, "summary": "; ".join(summary)[:200]}


def sanitizer(options: Options) -> Found:
    """Every job, small, under each tool of compute-sanitizer."""
    if options.device != "cuda":
        return Found("compute-sanitizer", "left out: no card")
    if shutil.which(_SANITIZER) is None:
        return Found("compute-sanitizer", f"left out: no {_SANITIZER} on the PATH")
    pairs = [(tool, job) for tool in TOOLS for job in jobs("tiny")]
    with ThreadPoolExecutor(min(len(pairs), max((os.cpu_count() or 2) // 2, 1))) as pool:
        rows = list(pool.map(partial(_sanitized, options), *zip(*pairs, strict=True)))
    good = all(row["verdict"] == "ok" for row in rows)
    return Found("compute-sanitizer", "ok" if good else "failed", rows=rows)


def _rows(text: str) -> list[Row]:
    """The JSON lines among others."""
    rows = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # a line that a kill cut
                continue
    return rows


def _module(name: str, arguments: Sequence[str], options: Options, log: str) -> Found:
    """The rows that a module of this package prints."""
    command = [sys.executable, "-m", f"benchmarks.gpu_check.{name}", *arguments]
    command += ["--device", options.device, "--size", options.size]
    command += ["--seconds", str(options.seconds)]
    extra = {"GLASS_AUTOTUNE": "1"}  # what is shipped may be a guess
    status, text = run(command, options.minutes, options.output / log, extra)
    found = Found(" ".join((name, *arguments)), "ok" if status == 0 else "failed")
    found.rows, found.tuned = settings.split(_rows(text))
    found.lines = [f"- {row['wrong']}" for row in found.rows if row.get("wrong")]
    if status != 0 and not found.lines:
        found.lines = [_state(status, options.minutes), *_tail(text, 4)]
    return found


def operations(options: Options) -> list[Found]:
    """A part a job, one after another: they would disturb each other's times."""
    return [_module("ops", (name,), options, f"{name}.txt") for name in jobs("tiny")]


def models(options: Options) -> Found:
    """Training and generation, end to end."""
    return _module("models", (), options, "models.txt")


PARTS: dict[str, Callable[[Options], Found | list[Found]]] = {
    "build": build,
    "tests": tests,
    "sanitizer": sanitizer,
    "ops": operations,
    "models": models,
}
"""By name, in the order in which they run."""
