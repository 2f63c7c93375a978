"""Trains TIGER and GLASS, keeps them on disk, and ranks the test split with them."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

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
from glass.sid import SidTable
from glass.sid.files import replaced_folder
from glass.training import Validator, train
from glass.training.loop import METRIC
from glass_kernels import SidTrie

log = logging.getLogger(__name__)

TRAINED = "trained.json"
"""Beside a model: the settings and data it was trained with, and its validation result."""


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
    save_system(model, table, trie, folder / system, trained)


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


def save_system(
    model: Glass, table: SidTable, trie: SidTrie, folder: Path, trained: dict[str, Any]
) -> None:
    """Writes weights, config, SID table, trie and `trained` to a temporary folder, swapped in.

    Raises:
        ValueError: the folder cannot be written.
    """
    with replaced_folder(folder) as temporary:
        temporary.joinpath("README.md").write_text(model_card(folder.name, model, table, trained))
        model.save_pretrained(temporary)  # leaves a README.md that is there already
        table.save(temporary / "sid")
        trie.save(temporary / "trie.safetensors")
        write_json_atomic(temporary / TRAINED, trained)


def model_card(system: str, model: Glass, table: SidTable, trained: dict[str, Any]) -> str:
    """What the model is, as Markdown; the card of the hub mixin would tell of a push to the hub.

    Args:
        system: "glass" or "tiger".
        trained: what `save_system` keeps beside the model.
    """
    data = table.manifest.get("dataset", {}).get("name", "an unnamed data set")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"# {system.upper()} on {data}",
        "",
        "A generative recommender trained by glass-rec, for the catalogue it was trained on.",
        "",
        f"- {table.num_items:,} items, semantic IDs of {list(table.codebook_sizes)} codes",
        f"- {parameters:,} parameters; the settings are in `config.json`",
        f"- weights of step {trained['best_step']} of {trained['steps']}, the best on the "
        f"validation split: {METRIC} {trained['best']:.4f}",
        "",
        "```python",
        "from glass.pipeline.neural import load_system",
        "",
        'model, sid_table, trie = load_system("this folder")',
        "```",
    ]
    return "\n".join(lines) + "\n"


def load_system(folder: Path | str) -> tuple[Glass, SidTable, SidTrie]:
    """What `save_system` wrote, ready for generation.

    Raises:
        ValueError: the folder holds no model.
    """
    folder = Path(folder)
    if not (folder / TRAINED).exists():
        raise ValueError(f"{folder} holds no trained model; run `glass train` with this config")
    with redirect_stdout(StringIO()):  # the hub prints; stdout is for results
        model = Glass.from_pretrained(str(folder)).to(device()).eval()
    trie = SidTrie.load(folder / "trie.safetensors", device())
    table = SidTable.load(folder / "sid")
    if model.tier is not None:  # above model.tier_table_limit the weights hold no table
        model.tier.set_item_embeddings(torch.from_numpy(table.vectors))
    return model, table, trie


def trained_on(folder: Path | str) -> str:
    """Fingerprint of the data set that the model of `load_system` was trained on."""
    return str(json.loads((Path(folder) / TRAINED).read_text())["data"])


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
