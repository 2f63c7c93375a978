"""What a result was made from, as one hash: results of other settings or data are never reused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glass.config import EvalConfig, RunConfig
from glass.data import Dataset
from glass.evaluation.results import FORMAT_VERSION
from glass.sid import SidTable
from glass.systems import TRAINED
from glass.training.checkpoint import fingerprint
from glass.training.loop import decisive

KEY = "fingerprint"
TRAINING_VERSION = 3
"""Raise when the same settings, data and SIDs come to give other weights: a change of the model or
of an operation below it, of batches, loss, optimiser or validation. Finished models and half done
trainings are then made anew. Leave it when a result is the same, only sooner."""
LATER = {"candidates": "catalogue"}
"""Settings of `eval` that came later, and how it always was before: older keys lack them."""
EVALUATION_VERSION = 1
"""Raise when the same models come to give other metrics or predictions: a change of the beam
search, a ranking, a baseline, a metric or the bootstrap. What is trained stays."""


def training_key(system: str, config: RunConfig, dataset: Dataset, table: SidTable) -> str:
    """Hash of all that decides the weights of `system`: settings, events, codes and vectors."""
    # Validation chooses the weights that are kept.
    every = _decisive(config.eval)
    validated = ("beam_width", "constrained", "ks", "candidates")
    chosen = {name: every[name] for name in validated if name in every}
    model = TRAINED[system].decisive(config)
    given = (system, model, decisive(config.train), chosen, _inputs(dataset, table))
    return fingerprint({"training_version": TRAINING_VERSION}, *given)


def evaluation_key(config: RunConfig, dataset: Dataset, table: SidTable) -> str:
    """Hash of all that decides `metrics.json` and the predictions."""
    trained = [training_key(s, config, dataset, table) for s in config.systems if s in TRAINED]
    given = (list(config.systems), _decisive(config.eval), trained, _inputs(dataset, table))
    versions = {"evaluation_version": EVALUATION_VERSION, "format_version": FORMAT_VERSION}
    return fingerprint(versions, *given)


def stored_key(path: Path) -> str | None:
    """The hash in a JSON file that a step wrote last; None if there is none."""
    try:
        content: Any = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    key = content.get(KEY) if isinstance(content, dict) else None
    return key if isinstance(key, str) else None


def _decisive(config: EvalConfig) -> dict[str, Any]:
    every = asdict(config)
    return {name: v for name, v in every.items() if name not in LATER or v != LATER[name]}


def _inputs(dataset: Dataset, table: SidTable) -> list[Any]:
    codes = hashlib.sha256(table.codes.tobytes()).hexdigest()
    vectors = hashlib.sha256(table.vectors.tobytes()).hexdigest()
    return [dataset.manifest.get("fingerprint"), list(table.codebook_sizes), codes, vectors]
