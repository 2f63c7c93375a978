"""One self-contained HTML file from a `ReportInput`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from glass.evaluation.results import COUNTERPARTS
from glass.report import figures, figures_data, redistribution, tables, tables_data
from glass.report.input import ReportInput
from glass.report.text import (
    as_number,
    clean,
    count,
    decimal,
    duration,
    interval,
    lookup,
    metric_label,
    ordered_systems,
    percent,
    system_label,
)
from glass.report.verdict import main_system, primary_metric, rivals, score, verdict

FILE_NAME = "report.html"
SECTIONS = (
    ("headline", "Result"),
    ("metrics", "Metrics"),
    ("differences", "Differences"),
    ("repeat", "Repeat or new"),
    ("by-history", "History length"),
    ("generation", "Generation"),
    ("training", "Training"),
    ("data", "Data"),
    ("sid", "Semantic IDs"),
    ("examples", "Example users"),
    ("cost", "Time and memory"),
    ("environment", "Environment"),
)
_WITH_REDISTRIBUTION = (*SECTIONS[:9], ("redistribution", "Redistribution"), *SECTIONS[9:])


def write_report(run: ReportInput) -> Path:
    """Write `<run.folder>/report.html` and return its path.

    The page fetches nothing and runs no script: figures and style are inline. It is written to a
    temporary name and renamed, so that a report is there whole or not at all.

    Raises:
        ValueError: `run.folder` is a file.
        OSError: the folder cannot be written to.
    """
    folder = Path(run.folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder is a file: {folder}; pass the folder of the run")
    page = render(run)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    temporary = folder / f".{FILE_NAME}.tmp-{os.getpid()}"
    try:
        # Lone surrogates in source data have no UTF-8 form.
        temporary.write_bytes(page.encode("utf-8", errors="replace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(run: ReportInput) -> str:
    """The page as text."""
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clean": clean, "count": count, "system": system_label}
    # The only unescaped parts: our own style sheet here, and matplotlib's escaped SVG in figures.
    style = Markup(_resource("style.css"))
    return environment.get_template("template.html").render(style=style, **_context(run))


def _resource(name: str) -> str:
    return files("glass.report").joinpath(name).read_text(encoding="utf-8")


def _context(run: ReportInput) -> dict[str, Any]:
    metrics = run.metrics
    metric = primary_metric(metrics) or "ndcg@10"
    found = tables.comparisons(metrics)
    hit_metric, item_metric = metric.replace("ndcg", "hit"), f"item_{metric}"
    shown = (metric, item_metric, hit_metric, f"item_{hit_metric}")
    main = sorted((c for c in found if c.metric in shown), key=lambda c: shown.index(c.metric))
    generation = {s: lookup(v, "generation") or {} for s, v in _systems(metrics).items()}
    levels = run.sid_health.get("levels")
    valid, valid_label = f"valid_{run.validation_metric}", metric_label(run.validation_metric)
    moved = redistribution.moved_table(run.redistribution)
    return {
        "run": run,
        "sections": SECTIONS if moved is None else _WITH_REDISTRIBUTION,
        "verdict": verdict(metrics),
        "tiles": _tiles(run, metric),
        "summary": _summary(run),
        "metric_tables": [tables.metric_table(metrics, level) for level in tables.LEVELS],
        "difference_table": tables.difference_table(main, "Paired differences over users"),
        "more_differences": tables.difference_table(
            [c for c in found if c not in main], "Paired differences, all other metrics"
        ),
        "forests": [figures.forest(found, name) for name in (metric, item_metric)],
        "subset_table": tables.subset_table(metrics, (metric, hit_metric)),
        "targets": {k: lookup(metrics, "counts", k) for k in ("repeat", "first_time")},
        "history_figure": figures.by_history(run.by_history),
        "generation_table": tables.generation_table(metrics),
        "crp_figure": figures.rank_progression(generation),
        "gate_figure": figures.gate_by_length(run.gates),
        "gate_trends": figures.gate_trends(run.gates),
        "training_table": tables_data.training_table(run.training_logs, valid, valid_label),
        "loss_figure": figures.training(run.training_logs, "loss", "Training loss"),
        "valid_figure": figures.training(run.training_logs, valid, f"Validation {valid_label}"),
        "data_facts": tables_data.data_facts(run.data_card),
        "split_table": tables_data.split_table(run.data_card),
        "sources": _sources(run.data_card.get("sources")),
        "level_table": tables_data.level_table(run.sid_health),
        "sid_facts": tables_data.facts(
            run.sid_health, ("levels", "bucket_sizes", "relative_error", "neighbour_agreement")
        ),
        "usage_figure": figures_data.code_usage(levels if isinstance(levels, list | tuple) else ()),
        "bucket_figure": figures_data.bucket_sizes(run.sid_health.get("bucket_sizes")),
        "tier_figure": figures_data.tier_occupancy(run.tier_occupancy, run.tier_edges),
        "tier_note": _tier_note(run),
        "moved_table": moved,
        "pair_figures": _pair_figures(run),
        "step_table": tables_data.step_table(run.steps),
        "environment_facts": tables_data.facts(run.environment),
    }


def _sources(sources: object) -> list[Any]:
    """[{file, sha256}] of that list, or of a mapping file -> sha256."""
    if isinstance(sources, Mapping):
        return [{"file": file, "sha256": sha256} for file, sha256 in sources.items()]
    return list(sources) if isinstance(sources, list | tuple) else []


def _systems(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    return lookup(metrics, "systems") or {}


def _tiles(run: ReportInput, metric: str) -> list[tuple[str, str, str]]:
    """(label, value, note): the scores that the verdict compares."""
    systems = ordered_systems(_systems(run.metrics))
    main = main_system(run.metrics, metric)
    shown = systems[::-1][:3]
    if main in COUNTERPARTS:
        shown = [main, *rivals(run.metrics, main, metric)]
    tiles = []
    for system in shown:
        bounds = lookup(run.metrics, "systems", system, "ci", metric)
        inside = interval(bounds)
        note = f"95 % CI {inside}" if inside else ""
        label = f"{system_label(system)}, {metric_label(metric)}"
        tiles.append((label, decimal(score(run.metrics, system, metric)), note))
    targets = lookup(run.metrics, "counts", "targets")
    if as_number(targets) is not None:
        repeats, samples = (lookup(run.metrics, "counts", k) for k in ("repeat", "samples"))
        share = (as_number(repeats) or 0.0) / targets if targets else None
        note = f"in {count(samples)} histories, {percent(share, 0)} repeats"
        tiles.append(("Test targets", count(targets), note))
    return tiles


def _summary(run: ReportInput) -> str:
    """What ran, in one line."""
    card, parts = run.data_card, []
    if card.get("name"):
        parts.append(clean(card["name"], 60))
    numbers = ((k, card.get(k, card.get(f"num_{k}"))) for k in ("users", "items", "events"))
    parts += [f"{count(number)} {k}" for k, number in numbers if as_number(number) is not None]
    seconds = sum(as_number(step[1]) or 0.0 for step in run.steps)
    if seconds:
        parts.append(f"{duration(seconds)} in all")
    if run.created:
        parts.append(clean(run.created, 60))
    return " · ".join(parts)


def _pair_figures(run: ReportInput) -> list[Markup]:
    found = []
    for system in ordered_systems(run.redistribution):
        example = lookup(run.redistribution, system, "example")
        titles = lookup(example, "titles") or ("", "")
        found.append(redistribution.pair_figure(system, example, titles))
    return [figure for figure in found if figure is not None]


def _tier_note(run: ReportInput) -> str:
    """Whether the tiers can carry a signal: nearly empty or crowded ones cannot."""
    shares = [share for value in run.tier_occupancy if (share := as_number(value)) is not None]
    if not shares:
        return ""
    low, high = min(shares), max(shares)
    if high > 0.9 and len(shares) > 1:
        return f"One tier holds {percent(high)} of the cosines: SID-Tier says next to nothing here."
    if low < 0.01:
        return f"The emptiest tier holds {percent(low)} of the cosines: it hardly counts."
    return f"Every tier holds a visible share, at least {percent(low)}."
