"""Teacher-forced accuracy per level, gates against the retrieved length, and where items moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from glass.data import Dataset, Samples
from glass.data.batches import sequential_batches
from glass.evaluation import describe_redistribution
from glass.serving.folder import device
from glass.systems import TRAINED, Model

LENGTH_EDGES = (0, 1, 2, 3, 5, 8, 12, 17, 23, 30, 45, 70, 100, 150, 250)


@dataclass(frozen=True)
class Diagnosis:
    """Of one model on one split."""

    accuracy: dict[str, float]
    """acc_1 .. acc_L: share of targets whose code is the arg-max, true codes before it given."""
    gates: dict[str, list[float]]
    """`length`: mean retrieved items of a bin, `mean_gate` over layers and channels, `count`;
    empty without hard search."""
    redistribution: dict[str, Any]
    """See `describe_redistribution`; empty for a model that leaves the SIDs as they are."""


@torch.no_grad()
def diagnose(
    system: str, model: Model, dataset: Dataset, samples: Samples, batch_size: int
) -> Diagnosis:
    """Runs all targets of `samples` through the model of `system` once."""
    collate = TRAINED[system].collator(model.config, dataset, samples)
    layers = TRAINED[system].gate_layers(model)
    correct, lengths, gates = [], [], []
    for layer in layers:
        layer.keep_gate = True
    try:
        for rows in sequential_batches(len(samples), batch_size):
            batch = collate(rows).to(device())
            output = model(batch)
            correct.append(output.correct.cpu().numpy())
            if output.retrieved is not None:
                present = batch.targets >= 0
                # The BOS position has no retrieval and its gate is 0 by definition.
                kept = [layer.gate[..., 1:, :] for layer in layers if layer.gate is not None]
                mean = torch.stack([gate.float().mean((-1, -2)) for gate in kept]).mean(0)
                gates.append(mean[present].cpu().numpy())
                lengths.append(output.retrieved[present].cpu().numpy())
    finally:
        for layer in layers:
            layer.keep_gate, layer.gate = False, None
    hits = np.concatenate(correct).mean(axis=0)
    accuracy = {f"acc_{level}": float(hit) for level, hit in enumerate(hits, start=1)}
    assignments = TRAINED[system].assignments(model)
    moved = {}
    if assignments is not None:
        moved = describe_redistribution(
            model.codes.cpu().numpy(), assignments, dataset.train_counts
        )
    return Diagnosis(accuracy, _by_length(lengths, gates), moved)


def _by_length(lengths: list[Any], gates: list[Any]) -> dict[str, list[float]]:
    if not lengths:
        return {}
    length, gate = np.concatenate(lengths), np.concatenate(gates)
    columns: dict[str, list[float]] = {"length": [], "mean_gate": [], "count": []}
    bins = np.searchsorted(LENGTH_EDGES, length, side="right")
    for number in np.unique(bins[length > 0]):
        chosen = (bins == number) & (length > 0)
        columns["length"].append(float(length[chosen].mean()))
        columns["mean_gate"].append(float(gate[chosen].mean()))
        columns["count"].append(int(chosen.sum()))
    return columns
