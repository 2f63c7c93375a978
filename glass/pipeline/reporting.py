"""Gathers what the steps left into the report and the terminal summary."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from glass.pipeline.examples import example_users
from glass.pipeline.neural import load_system
from glass.report import ReportInput, print_summary, sid_health_facts, write_report
from glass.systems import TRAINED
from glass.training.log import read_rows
from glass.training.metric import score_name

if TYPE_CHECKING:
    from glass.pipeline.run import Run

LICENCES = {
    "complete_journey": "Its package calls it simulated data based on real grocery shopping "
    "patterns, for education and exploration and not for academic research or commercial "
    "decisions; the R original calls it household level transactions.",
    "movielens_1m": "GroupLens: research use; may not be redistributed.",
    "movielens_100k": "GroupLens: research use; may not be redistributed.",
}
"""What the report says of a data set's terms."""


def report_input(run: Run) -> ReportInput:
    """Everything the report shows."""
    metrics = run.metrics()
    occupancy, edges = _tiers(run)
    logs = {
        system: read_rows(run.folder / "logs" / f"{system}.jsonl") for system in run.neural_systems
    }
    return ReportInput(
        name=run.config.name,
        folder=run.folder,
        metrics=metrics,
        data_card={**run.data_card, "licence": LICENCES.get(run.config.data.format, "")},
        sid_health=sid_health_facts(run.sid_health),
        tier_occupancy=occupancy,
        tier_edges=edges,
        training_logs=logs,
        validation_metric=score_name(run.config.train.metric),
        gates=metrics.get("gates", {}),
        redistribution=_with_titles(run, metrics.get("redistribution", {})),
        by_history=metrics.get("by_history", {}),
        examples=example_users(run, run.config.num_example_users),
        steps=run.clock.steps(),
        config_yaml=run.config_yaml(),
        environment=environment(),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_run_report(run: Run) -> tuple[Path, ReportInput]:
    """`report.html` of an evaluated run, and what it shows."""
    gathered = report_input(run)
    return write_report(gathered), gathered


def print_run_summary(run: Run, gathered: ReportInput, report: Path) -> None:
    """Verdict, tables and sample users on the terminal."""
    print_summary(gathered, report=report, metrics=run.folder / "metrics.json")


def _tiers(run: Run) -> tuple[list[float], list[float]]:
    """Tier occupancy, weighted by training events, and edges of a trained SID-Tier."""
    for system in reversed(run.neural_systems):
        model, _, _ = load_system(run.folder / system)
        if (tier := TRAINED[system].tiers(model)) is not None:
            weights = torch.from_numpy(run.dataset.train_counts).float().to(tier.edges.device)
            return tier.occupancy(weights).tolist(), tier.edges.tolist()
    return [], []


def _with_titles(run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """Redistribution with the titles of the items that it shows."""
    titles = run.dataset.item_table["title"]
    for system in found.values():
        if "example" in system:
            system["example"]["titles"] = [titles[item] for item in system["example"]["items"]]
    return found


def environment() -> dict[str, Any]:
    """Machine and versions behind the figures."""
    versions = {}
    for package in ("glass-rec", "torch", "triton", "numpy", "polars", "faiss-cpu"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "command": "glass " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, GPU: {gpu}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }
