"""Trains systems, keeps them on disk, and ranks the test split with them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from glass import distributed
from glass.config import RunConfig
from glass.data import Dataset, Samples
from glass.data.batches import sequential_batches
from glass.data.shards import Shards
from glass.evaluation import SidCatalogue, candidate_items, write_json_atomic
from glass.evaluation.arrays import BoolArray
from glass.generation import generate
from glass.memory import keep_freed_memory
from glass.pipeline.keys import KEY, stored_key, training_key
from glass.serving.folder import (
    CANDIDATES,
    TRAINED,
    device,
    load_system,
    save_system,
    trained_on,
)
from glass.serving.items import NAME, ItemTable
from glass.sid import SidTable
from glass.systems import TRAINED as SYSTEMS
from glass.systems import Model, TrainingRows
from glass.training import Validator, train
from glass.training.feed import Feed, ShardFeed
from glass.training.metric import score_name
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
    with distributed.first_before_others():
        _start_anew_unless(folder / "training" / system, key)
    chosen = SYSTEMS[system]
    settings = chosen.settings(config)
    if device().type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.train.seed)
    model = chosen.make(config, table, dataset).to(device())
    candidates = candidate_items(dataset, config.eval.candidates)
    trie = make_trie(table, candidates)
    validator = Validator(
        dataset,
        "valid",
        partial(chosen.collator, settings),
        config.eval,
        num_groups=config.train.num_valid_groups,
        catalogue=SidCatalogue(table.codes, candidates),
        trie=trie.to(device()),
    )
    result = train(
        model,
        _feed(partial(chosen.training_rows, settings), config, dataset, progress=progress),
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
        "system": system,
        "data": dataset.manifest.get("fingerprint"),
        "steps": result.steps,
        "best_step": result.best_step,
        "best": result.best,
        "metric": score_name(config.train.metric),
    }
    if candidates is not None:
        trained[CANDIDATES] = config.eval.candidates
    with distributed.first_before_others():
        if distributed.is_first():
            items = ItemTable.of(dataset, config)
            save_system(model, table, trie, folder / system, trained, items)


def _feed(
    rows_of: Callable[[Dataset], TrainingRows],
    config: RunConfig,
    dataset: Dataset,
    *,
    progress: bool,
) -> TrainingRows | Feed:
    """Training rows: of a data set in several files some of the files at a time."""
    if dataset.manifest.get("shards", 1) == 1:
        return rows_of(dataset)
    shards = Shards.of(Path(config.data.folder) / config.data.name)
    return ShardFeed(shards, rows_of, config.train, progress=progress)


def add_items(system: str, config: RunConfig, dataset: Dataset, folder: Path) -> None:
    """Gives a model of `<folder>/<system>/` that an older version trained its table of items."""
    if distributed.is_first() and not (folder / system / NAME).exists():
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


def make_trie(table: SidTable, candidates: BoolArray | None = None) -> SidTrie:
    """Trie of the SIDs of the items that may be recommended, bool [V]; None: all."""
    trie = SidTrie.build(torch.from_numpy(table.codes), table.codebook_sizes)
    return trie if candidates is None else trie.restrict(torch.from_numpy(candidates))


def decode_samples(
    system: str,
    model: Model,
    trie: SidTrie,
    dataset: Dataset,
    samples: Samples,
    config: RunConfig,
    *,
    progress: bool = True,
) -> Decoded:
    """Beam search of `system` for every sample; several processes decode a part each."""
    collate = SYSTEMS[system].collator(model.config, dataset, samples)
    mine = distributed.own_part(np.arange(len(samples)))
    batches = list(sequential_batches(len(mine), config.eval.batch_size)) or [mine[:0]]
    codes, scores, prefixes = [], [], []
    for rows in tqdm(batches, desc=f"decode {system}", unit="batch", disable=not progress):
        beams = generate(
            model,
            collate(mine[rows]).to(device()),
            trie,
            beam_width=config.eval.beam_width,
            constrained=config.eval.constrained,
        )
        codes.append(beams.codes.cpu().numpy())
        scores.append(beams.scores.float().cpu().numpy())
        prefixes.append([part.cpu().numpy() for part in beams.prefixes])
    whole = distributed.interleaved
    return Decoded(
        whole(np.concatenate(codes)),
        whole(np.concatenate(scores)),
        [whole(np.concatenate(parts)) for parts in zip(*prefixes, strict=True)],
    )
