"""`python -m benchmarks.cost_model`: what each step of a run costs a unit, and at full size.

Data sets in the files of TAOBAO-MM, made up with several numbers of users, go through every step
of `glass run`. A step costs a fixed time, and time and memory a unit of what it goes through: lines
through the sizes, errors taken relative to the values. The largest size is also predicted from the
others, which shows how far such a line carries. Beyond the sizes, for the paper's subset and for
the whole release, the lines are EXTRAPOLATIONS: of this machine, and of eight.

    python -m benchmarks.cost_model --users 1500 4500 13500 --output docs/cost_model
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from scipy.optimize import nnls

from benchmarks.machine import describe
from benchmarks.output import Row, format_table, number, save_figure, write_csv

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "taobao_mm_glass.yaml"
SETTINGS = {
    "systems": '["glass"]',
    "train.max_epochs": "1",
    "train.batch_size": "256",
    "train.num_valid_groups": "500",
    "eval.bootstrap": "100",
}
"""One epoch, with batches that the small sizes have several of; else the config's."""
MACHINES = 8
Sizes = dict[str, float]
WHOLE: dict[str, Sizes] = {
    "paper's subset": {"users": 189_423, "items": 970_000, "samples": 189_423, "tests": 37_900},
    "release": {"users": 6.9e6, "items": 35.5e6, "samples": 6.9e6, "tests": 1.38e6},
}
"""Users and items with a vector as published (35.5 million of 6.9 million users; the subset's in
the same proportion); a training sample a user, a test sample for every fifth. Events follow from
the users by what the sizes show."""


@dataclass(frozen=True)
class Step:
    """A step of a run."""

    title: str
    names: tuple[str, ...]
    """In `steps.json`."""
    unit: str
    """What it goes through."""
    fills: str
    """Where it writes."""
    several: str
    """How machines share it: "all" of it, all but the "read"ing, or "none" of it."""


VECTOR_BYTES = 3 * 4 * 128
"""Of an item: its float32 vector, while it is centred and saved."""
STEPS = (
    Step("prepare", ("prepare data",), "events", "data", "read"),
    Step("SIDs", ("semantic IDs",), "items", "runs/cost/sid", "none"),
    Step("train one epoch", ("train glass",), "samples", "runs/cost/training", "all"),
    Step("evaluate", ("evaluate glass", "metrics"), "tests", "runs/cost/predictions", "all"),
)


def measure(users: int, folder: Path) -> tuple[Sizes, list[Row]]:
    """Makes up files, runs all steps, and tells the sizes and a row for each step."""
    glass = [sys.executable, "-m", "glass"]
    synth = ["data", "synth", "taobao-mm", "--users", str(users), "--to", "raw"]
    subprocess.run([*glass, *synth], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    given = {"name": "cost", "data.path": "raw", **SETTINGS}
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [*glass, "run", str(CONFIG), *options],
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    manifest = json.loads((folder / "data/taobao_mm/manifest.json").read_text())
    metrics = json.loads((folder / "runs/cost/metrics.json").read_text())
    sizes = {
        "users": float(users),
        "events": float(manifest["counts"]["source_events"]),
        "items": float(manifest["counts"]["items"]),
        "samples": float(manifest["split"]["train"]["groups"] // 2),  # history, then clicks
        "tests": float(metrics["counts"]["samples"]),
    }
    kept = json.loads((folder / "runs/cost/steps.json").read_text())
    steps = {row["name"]: row for row in kept}
    found = re.search(r": read ([0-9.]+) s", done.stderr)
    assert found, "the preparation tells the seconds of its steps"
    rows: list[Row] = []
    for step in STEPS:
        row: Row = {"users": users, "step": step.title, "unit": step.unit}
        row["units"] = sizes[step.unit]
        row["seconds"] = sum(steps[name]["seconds"] for name in step.names)
        row["peak MB"] = max(steps[name]["peak_mb"] for name in step.names)
        row["disk MB"] = size_of(folder / step.fills) / 1e6
        row["read s"] = float(found[1]) if step.several == "read" else None
        rows.append(row)
    rows[0]["source MB"] = size_of(folder / "raw") / 1e6
    return sizes, rows


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def line(units: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Fixed part and part a unit, neither negative, with the least relative errors."""
    scale = 1 / np.maximum(np.array(values), 1e-9)
    system = np.stack([scale, np.array(units) * scale], axis=1)
    (fixed, each), _ = nnls(system, np.ones(len(values)))
    return float(fixed), float(each)


def of_step(rows: Sequence[Row], step: Step, what: str) -> tuple[list[float], list[float]]:
    """Units and values of a step at all sizes."""
    own = [row for row in rows if row["step"] == step.title]
    return [number(row["units"]) for row in own], [number(row[what]) for row in own]


def model(rows: Sequence[Row], events: Sequence[float]) -> list[Row]:
    """What a step costs, and the largest size as the others' line predicts it."""
    found: list[Row] = []
    for step in STEPS:
        units, seconds = of_step(rows, step, "seconds")
        fixed, each = line(units, seconds)
        row: Row = {"step": step.title, "s fixed": fixed}
        row["s / million events"] = each * units[-1] / events[-1] * 1e6
        row |= {"unit": step.unit, "s / million units": each * 1e6}
        _, disk = line(events, of_step(rows, step, "disk MB")[1])
        row["disk MB / million events"] = disk * 1e6
        fixed, each = line(units[:-1], seconds[:-1])
        row["largest: predicted s"] = fixed + each * units[-1]
        row["measured s"] = seconds[-1]
        found.append(row)
    return found


def extrapolate(rows: Sequence[Row], events: Sequence[float], largest: Sizes) -> list[Row]:
    """Hours and memory at full size, on one machine and on several.

    Memory is the largest peak that was measured, and for what there is more of: an event what the
    step of the SIDs shows, which has little else; an item `VECTOR_BYTES`. The preparation's does
    not grow (benchmarks/preparation.py).
    """
    _, an_event = line(events, of_step(rows, STEPS[1], "peak MB")[1])
    found: list[Row] = []
    for name, sizes in WHOLE.items():
        whole = {"events": largest["events"] / largest["users"] * sizes["users"], **sizes}
        for step in STEPS:
            units, seconds = of_step(rows, step, "seconds")
            fixed, each = line(units, seconds)
            hours = (fixed + each * whole[step.unit]) / 3600
            alone = {"all": 0.0, "none": hours}.get(step.several)
            if alone is None:
                first, more = line(*of_step(rows, step, "read s"))
                alone = min(hours, (first + more * whole[step.unit]) / 3600)
            memory = max(of_step(rows, step, "peak MB")[1])
            memory += an_event * (whole["events"] - largest["events"])
            memory += VECTOR_BYTES / 1e6 * (whole["items"] - largest["items"])
            row: Row = {"EXTRAPOLATED": name, "step": step.title, "unit": step.unit}
            row["million units"] = whole[step.unit] / 1e6
            row |= {"h, 1 machine": hours, f"h, {MACHINES}": alone + (hours - alone) / MACHINES}
            row["GB of memory"] = None if step.unit == "events" else memory / 1e3
            disk = line(units, of_step(rows, step, "disk MB")[1])
            row["GB of disk"] = (disk[0] + disk[1] * whole[step.unit]) / 1e3
            found.append(row)
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """Seconds of each step against its units, and the fitted lines."""
    figure, panels = plt.subplots(1, len(STEPS), figsize=(3.2 * len(STEPS), 3.2))
    for axes, step in zip(panels, STEPS, strict=True):
        units, seconds = of_step(rows, step, "seconds")
        fixed, each = line(units, seconds)
        axes.plot(units, seconds, "o")
        ends = np.array([0, max(units)])
        axes.plot(ends, fixed + each * ends, ":", color="grey")
        axes.set_title(step.title)
        axes.set_xlabel(step.unit)
    panels[0].set_ylabel("seconds")
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1_500, 4_500, 13_500])
    parser.add_argument("--output", type=Path, default=Path(".benchmarks/cost_model"))
    parser.add_argument("--scratch", type=Path, help="folder for the files; the system's")
    options = parser.parse_args(arguments)
    if len(options.users) < 3 or options.users != sorted(set(options.users)):
        parser.error("--users needs three numbers or more, rising")
    print("  ".join(f"{key} {value}" for key, value in describe().items()))
    rows: list[Row] = []
    sizes: Sizes = {}
    for users in options.users:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            sizes, steps = measure(users, Path(folder))
        rows += steps
        print(format_table(steps), flush=True)
    events = of_step(rows, STEPS[0], "seconds")[0]
    for table in (model(rows, events), extrapolate(rows, events, sizes)):
        print("\n" + format_table(table))
    write_csv(rows, options.output.with_suffix(".csv"))
    plot(rows, options.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
