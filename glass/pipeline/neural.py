"""Trains TIGER and GLASS, keeps them on disk, and ranks the test split with them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from glass.config import ModelConfig, RunConfig
from glass.data import Dataset, Samples
from glass.data.batches import Collator, sequential_batches
from glass.evaluation import SidCatalogue
from glass.generation import generate
from glass.models import Glass
from glass.sid import SidTable
from glass.training import TrainResult, Validator, train
from glass_kernels import SidTrie
from tqdm import tqdm


@dataclass(frozen=True)
class Decoded:
    """Beams of S samples."""

    codes: NDArray[np.int64]
    """[S, W, L] best first, -1 for no beam."""
    scores: NDArray[np.float32]
    """[S, W]"""
    prefixes: list[NDArray[np.int64]]
    """After level d: [S, W, d]."""


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def system_config(system: str, model: ModelConfig) -> ModelConfig:
    """GLASS as configured; TIGER is the same trunk without its two modules."""
    if system == "tiger":
        return replace(model, use_sid_tier=False, use_hard_search=False)
    return model


def make_collator(dataset: Dataset, samples: Samples, model: ModelConfig) -> Collator:
    """Collator with the history lengths of `model`."""
    return Collator(
        dataset,
        samples,
        short_length=model.short_length,
        long_history=model.long_history,
        pad_left=model.tier_token_last,
    )


def train_system(
    system: str,
    config: RunConfig,
    dataset: Dataset,
    table: SidTable,
    folder: Path,
    *,
    progress: bool = True,
) -> TrainResult:
    """Trains `system` into `<folder>/<system>/`; continues or skips what is already done."""
    model_config = system_config(system, config.model)
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
        data_fingerprint=str(table.manifest.get("fingerprint", "")),
        progress=progress,
    )
    save_system(model, table, trie, folder / system)
    return result


def make_trie(table: SidTable) -> SidTrie:
    """Trie of the catalogue's SIDs."""
    return SidTrie.build(torch.from_numpy(table.codes), table.codebook_sizes)


def save_system(model: Glass, table: SidTable, trie: SidTrie, folder: Path) -> None:
    """Writes weights, config, SID table and trie to a temporary folder and swaps it in."""
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary)
    table.save(temporary / "sid")
    trie.save(temporary / "trie.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load_system(folder: Path) -> tuple[Glass, SidTable, SidTrie]:
    """What `save_system` wrote, ready for generation.

    Raises:
        ValueError: the folder holds no model.
    """
    if not (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} holds no trained model; run `glass train` with this config")
    model = Glass.from_pretrained(str(folder)).to(device()).eval()
    trie = SidTrie.load(folder / "trie.safetensors", device())
    return model, SidTable.load(folder / "sid"), trie


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
