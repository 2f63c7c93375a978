"""`python -m benchmarks.gpu_check.ops JOB`: times an operation's backends on a card.

A process a job, so that one that breaks the card's context spoils nothing else. Prints a JSON line
a row: times by backend, of the best plain and compiled forms, and of what bounds them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.agreement import DiffersError
from benchmarks.contest import Contest, Run, rotated
from benchmarks.gpu_check import settings
from benchmarks.gpu_check.card import measure_ceilings, take
from benchmarks.gpu_check.jobs import SIZES, Job, jobs
from benchmarks.machine import Floors
from benchmarks.output import Row
from glass_kernels import use_backend
from glass_kernels.info import op_backends

ON_DEVICE = {"cuda": ("cuda", "triton", "eager"), "cpu": ("cpp", "eager")}
"""Backends that take tensors there, best first."""


def backends_of(ops: Sequence[str], device: str) -> list[str]:
    """Backends that have all of `ops`, best first."""
    has = op_backends()
    return [name for name in ON_DEVICE[device] if all(name in has[op] for op in ops)]


def under(backend: str, run: Run) -> Run:
    """`run` with every operation on `backend`."""

    def running(batch: Any) -> Any:
        with use_backend(backend):
            return run(batch)

    return running


def sides_of(contest: Contest, backends: Sequence[str]) -> dict[str, Run]:
    """Ours by backend, then the opponents by the kind and name of their form."""
    sides = {backend: under(backend, contest.ours) for backend in backends}
    for kind, forms in (("plain", contest.plain), ("compiled", contest.compiled)):
        sides |= {f"{kind} {name}": form for name, form in forms.items()}
    return sides | {f"beside {name}": run for name, run in contest.others.items()}


def checked(contest: Contest, sides: dict[str, Run], backends: Sequence[str]) -> dict[str, str]:
    """Why a side takes no part, by name: it differs from the reference, or cannot run."""
    wrong: dict[str, str] = {}
    for batch in contest.batches:
        truth = contest.reference(batch)
        for name, run in sides.items():
            agree = contest.ours_agree if name in backends else contest.agree
            try:
                agree(name, run(batch), truth, batch)
            except (DiffersError, RuntimeError, ValueError) as error:
                wrong.setdefault(name, " ".join(str(error).split())[:300] or repr(error))
    return wrong


def _best(times: dict[str, float], kind: str) -> str | None:
    found = [name for name in times if name.startswith(kind)]
    return min(found, key=times.__getitem__, default=None)


def row_of(job: Job, floors: Floors, device: str, seconds: float) -> Row:
    """Times of a job; a side that is wrong has none, and its reason is in "wrong"."""
    contest = job.make(device)
    backends = backends_of(job.ops, device)
    sides = sides_of(contest, backends)
    wrong = checked(contest, sides, backends)
    runs = {name: rotated(run, contest.batches) for name, run in sides.items() if name not in wrong}
    yardsticks = {f"beside {name}": run for name, run in contest.yardsticks.items()}
    runs |= {name: rotated(run, contest.batches) for name, run in yardsticks.items()}
    taken = take(runs, device, seconds=seconds)
    times = {name: timing.ms for name, timing in taken.items()}
    row: Row = {**job.columns}
    kept = [name for name in backends if name in times]
    for name in kept:
        row |= {
            f"{name} ms": times[name],
            f"{name} host ms": taken[name].host_ms,
            f"{name} extra MiB": taken[name].extra_mib,
        }
    for kind in ("plain", "compiled"):
        form = _best(times, f"{kind} ")
        if form is not None:
            row |= {f"{kind} ms": times[form], f"{kind} form": form.removeprefix(f"{kind} ")}
            row[f"{kind} extra MiB"] = taken[form].extra_mib
    for name, ms in times.items():
        if name.startswith("beside "):
            row[f"{name.removeprefix('beside ')} ms"] = ms
    row["floor ms"] = floor = job.floor(floors, contest)
    if kept:
        best = min(times[name] for name in kept)
        row |= {"best": min(kept, key=times.__getitem__), "best / floor": best / floor}
        for kind in ("plain", "compiled"):
            if f"{kind} ms" in row:
                row[f"{kind} / best"] = float(str(row[f"{kind} ms"])) / best
    row["wrong"] = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a backend of ours is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("job", choices=list(jobs("full")))
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", choices=list(ON_DEVICE), default="cuda")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each side")
    parser.add_argument("--check-only", action="store_true", help="compare, and time nothing")
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    bad = False
    if options.check_only:
        for job in jobs(options.size)[options.job]:
            contest, backends = job.make(options.device), backends_of(job.ops, options.device)
            ours = {name: under(name, contest.ours) for name in backends}
            wrong = checked(contest, ours, backends)
            bad |= bool(wrong)
            row = {**job.columns, "backends": ", ".join(backends), "wrong": str(wrong or "")}
            print(json.dumps(row), flush=True)
        return int(bad)
    floors, _ = measure_ceilings(options.device)
    for job in jobs(options.size)[options.job]:
        row = row_of(job, floors, options.device, options.seconds)
        bad |= any(f"{name}:" in str(row["wrong"]) for name in ON_DEVICE[options.device])
        print(json.dumps(row), flush=True)
    if options.device == "cuda":
        settings.show()
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
