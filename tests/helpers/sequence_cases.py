"""Small sequence models and batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from toy import random_dataset, toy_sids

from glass.config import SequenceConfig
from glass.data import Dataset
from glass.data.sequences import SequenceBatch, WindowCollator, Windows
from glass.models.sequence import SYSTEMS, SequenceModel, model_class
from glass.sid import SidTable

TINY = SequenceConfig(
    d_model=8,
    num_layers=2,
    num_heads=2,
    head_dim=4,
    d_ff=12,
    dropout=0.0,
    max_items=5,
    uid_dim=10,
)
KINDS = [
    *((system, "canonical") for system in SYSTEMS),
    *((system, "released") for system in SYSTEMS if system.endswith("hstu")),
]
"""Every system with each form of its backbone."""
NUM_ITEMS = 43
DATASET = random_dataset(10, seed=5, num_items=NUM_ITEMS)
SIDS = toy_sids(NUM_ITEMS)
ITEMS = np.unique(DATASET.items[DATASET.split == 0]).tolist()
"""Items that training knows; the data have no event of the last three."""


def sequence_model(
    system: str,
    hstu: Any = "canonical",
    *,
    dataset: Dataset = DATASET,
    sids: SidTable | None = None,
    seed: int = 0,
    **settings: Any,
) -> SequenceModel:
    """A float64 model whose states differ clearly, in eval mode."""
    torch.manual_seed(seed)
    config = dataclasses.replace(TINY, hstu=hstu, **settings)
    model = model_class(system).from_data(system, config, sids or SIDS, dataset)
    for name, parameter in model.named_parameters():
        if name.endswith(".time") or "position" in name:
            torch.nn.init.normal_(parameter)
    return model.double().eval()


def windows_batch(
    max_items: int = 5,
    *,
    rows: Sequence[int] | None = None,
    dataset: Dataset = DATASET,
    **draw: Any,
) -> SequenceBatch:
    """Training windows of the data set; all of them by default."""
    windows = Windows.of(dataset, max_items)
    chosen = np.arange(len(windows)) if rows is None else np.array(rows)
    return WindowCollator(dataset, windows)(chosen, **draw)


def histories_batch(
    histories: Sequence[Sequence[int]], times: Sequence[Sequence[int]] | None = None
) -> SequenceBatch:
    """A batch for serving; times grow irregularly by default."""
    lengths = [len(history) for history in histories]
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    items = torch.tensor([i for history in histories for i in history], dtype=torch.int64)
    if times is None:
        times = [[int(100 * 1.7**j) + 10 * b for j in range(n)] for b, n in enumerate(lengths)]
    seconds = torch.tensor([t for row in times for t in row], dtype=torch.int64)
    return SequenceBatch.of_histories(items, offsets, seconds)
