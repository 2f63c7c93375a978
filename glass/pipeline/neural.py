"""Trains TIGER and GLASS, keeps them on disk, and ranks the test split with them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from glass.config import ModelConfig, RunConfig
from glass.data import Dataset, Samples
from glass.data.batches import Collator, sequential_batches
from glass.evaluation import SidCatalogue, write_json_atomic
from glass.generation import generate
from glass.memory import keep_freed_memory
from glass.models import Glass
from glass.pipeline.keys import KEY, stored_key, system_config, training_key
from glass.serving.folder import TRAINED, device, load_system, save_system, trained_on
from glass.serving.items import NAME, ItemTable
from glass.sid import SidTable
from glass.training import Validator, train
from glass_kernels import SidTrie

__all__ = ["load_system", "save_system", "trained_on"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """Beams of S samples."""

    codes: NDArray[np.int64]
    """[S, W, L] best first, -1 for no beam."""
    scores: NDArray[np.float32]
    """[S, W]"""
    prefixes: list[NDArray[np.int64]]
    """After level d: [S, W, d]."""


def make_collator(dataset: Dataset, samples: Samples, model: ModelConfig) -> Collator:
    """Collator with the history lengths of `model`."""
    return Collator(
        dataset,
        samples,
        short_length=model.short_length,
        long_history=model.long_history,
        pad_left=model.tier_token_last,
    )


def is_trained(
    system: str, config: RunConfig, dataset: Dataset, table: SidTable, folder: Path
) -> bool:
    """Whether `<folder>/<system>/` holds the model of just these settings, data and SIDs."""
    return stored_key(folder / system / TRAINED) == training_key(system, config, dataset, table)


def train_system(
    system: str,
    config: RunConfig,
    dataset: Dataset,
    table: SidTable,
    folder: Path,
    *,
    progress: bool = True,
) -> None:
    """Trains `system` into `<folder>/<system>/`; continues or skips what is already done.

    A training that was begun with other settings, data or SIDs starts anew.
    """
    key = training_key(system, config, dataset, table)
    if stored_key(folder / system / TRAINED) == key:
        return
    _start_anew_unless(folder / "training" / system, key)
    model_config = system_config(system, config.model)
    if device().type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.train.seed)
    model = Glass.from_data(model_config, table, dataset).to(device())
    trie = make_trie(table)
    samples = dataset.samples("train")
    validator = Validator(
        dataset,
        "valid",
        model_config,
        config.eval,
        num_groups=config.train.num_valid_groups,
        catalogue=SidCatalogue(table.codes),
        trie=trie.to(device()),
    )
    result = train(
        model,
        samples,
        make_collator(dataset, samples, model_config),
        validator,
        config.train,
        folder / "training" / system,
        name=system,
        log_folder=folder / "logs",
        data_fingerprint=key,
        progress=progress,
    )
    trained = {
        KEY: key,
        "data": dataset.manifest.get("fingerprint"),
        "steps": result.steps,
        "best_step": result.best_step,
        "best": result.best,
    }
    save_system(model, table, trie, folder / system, trained, ItemTable.of(dataset, config))


def add_items(system: str, config: RunConfig, dataset: Dataset, folder: Path) -> None:
    """Gives a model of `<folder>/<system>/` that an older version trained its table of items."""
    if not (folder / system / NAME).exists():
        ItemTable.of(dataset, config).save(folder / system)


def _start_anew_unless(folder: Path, key: str) -> None:
    """Empties a training folder of other settings: its best weights must never be taken for ours,
    not even when the settings are changed back later."""
    mark = folder / "made_with.json"
    if stored_key(mark) != key:
        if folder.exists():
            log.info("%s was made with other settings or data; training starts anew", folder)
            shutil.rmtree(folder)
        write_json_atomic(mark, {KEY: key})


def make_trie(table: SidTable) -> SidTrie:
    """Trie of the catalogue's SIDs."""
    return SidTrie.build(torch.from_numpy(table.codes), table.codebook_sizes)


def decode_samples(
    model: Glass,
    trie: SidTrie,
    dataset: Dataset,
    samples: Samples,
    config: RunConfig,
    *,
    name: str,
    progress: bool = True,
) -> Decoded:
    """Beam search for every sample."""
    collate = make_collator(dataset, samples, model.config)
    batches = list(sequential_batches(len(samples), config.eval.batch_size))
    codes, scores, prefixes = [], [], []
    for rows in tqdm(batches, desc=f"decode {name}", unit="batch", disable=not progress):
        beams = generate(
            model,
            collate(rows).to(device()),
            trie,
            beam_width=config.eval.beam_width,
            constrained=config.eval.constrained,
        )
        codes.append(beams.codes.cpu().numpy())
        scores.append(beams.scores.float().cpu().numpy())
        prefixes.append([part.cpu().numpy() for part in beams.prefixes])
    return Decoded(
        np.concatenate(codes),
        np.concatenate(scores),
        [np.concatenate(parts) for parts in zip(*prefixes, strict=True)],
    )
