"""The folder of a trained model: weights, semantic IDs, trie, items, and how it came about."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glass.evaluation import write_json_atomic
from glass.serving.items import ItemTable
from glass.sid import SidTable
from glass.sid.files import replaced_folder
from glass.systems import Model, trained_system
from glass.training import metric
from glass_kernels import SidTrie

TRAINED = "trained.json"
"""Beside a model: the settings and data it was trained with, and its validation result."""
CANDIDATES = "candidates"
"""Entry of it: `eval.candidates`, where that is not the whole catalogue."""
_AGAIN = "delete the folder and run `glass train` with its config"


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_system(
    model: Model,
    table: SidTable,
    trie: SidTrie,
    folder: Path,
    trained: dict[str, Any],
    items: ItemTable | None = None,
) -> None:
    """Writes weights, config, SID table, trie and `trained` to a temporary folder, swapped in.

    A `Recommender` needs the `items` too.

    Raises:
        ValueError: the folder cannot be written.
    """
    with replaced_folder(folder) as temporary:
        temporary.joinpath("README.md").write_text(
            model_card(trained.get("system", folder.name), model, table, trained, trie)
        )
        model.save_pretrained(temporary)  # leaves a README.md that is there already
        table.save(temporary / "sid")
        trie.save(temporary / "trie.safetensors")
        if items is not None:
            items.save(temporary)
        write_json_atomic(temporary / TRAINED, trained)


def model_card(
    system: str, model: Model, table: SidTable, trained: dict[str, Any], trie: SidTrie
) -> str:
    """What the model is, as Markdown; the card of the hub mixin would tell of a push to the hub.

    Args:
        system: one of `RunConfig.systems`.
        trained: what `save_system` keeps beside the model.
        trie: the items that it recommends.
    """
    data = table.manifest.get("dataset", {}).get("name", "an unnamed data set")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    offered = []
    if trie.num_items < table.num_items:
        setting = f"`eval.candidates` is {trained.get(CANDIDATES, 'catalogue')}"
        offered = [f"- {trie.num_items:,} of them are candidates, the others are in histories "
                   f"alone; {setting}"]  # fmt: skip
    lines = [
        f"# {trained_system(system).title} on {data}",
        "",
        "A generative recommender trained by glass-rec, for the catalogue it was trained on.",
        "",
        f"- {table.num_items:,} items, semantic IDs of {list(table.codebook_sizes)} codes",
        *offered,
        f"- {parameters:,} parameters; the settings are in `config.json`",
        f"- weights of step {trained['best_step']} of {trained['steps']}, the best on the "
        f"validation split: {trained.get('metric', metric.DEFAULT)} {trained['best']:.4f}",
        "",
        "```python",
        "from glass import Recommender",
        "",
        'recommender = Recommender.load("this folder")',
        "```",
    ]
    return "\n".join(lines) + "\n"


def load_system(folder: Path | str) -> tuple[Model, SidTable, SidTrie]:
    """What `save_system` wrote, ready for generation.

    Raises:
        ValueError: the folder holds no model, or a file of it is missing or damaged. Weights that
            are not safetensors are never read.
    """
    folder = Path(folder)
    if not (folder / TRAINED).exists():
        raise ValueError(f"{folder} holds no trained model; run `glass train` with this config")
    # Models of older versions do not say it, and all of these are the same class.
    try:
        system = trained_system(str(_read_trained(folder).get("system", "glass")))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    try:
        trie = SidTrie.load(folder / "trie.safetensors", device())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no trie.safetensors; {_AGAIN}") from error
    table = SidTable.load(folder / "sid")
    try:
        with redirect_stdout(StringIO()):  # the hub prints; stdout is for results
            model = system.load(folder, table)
    except Exception as error:  # hub, safetensors and torch raise all kinds over damaged files
        reason = " ".join(str(error).split())[:500]
        raise ValueError(
            f"{folder}: config.json and model.safetensors cannot be loaded "
            f"({type(error).__name__}: {reason}); {_AGAIN}"
        ) from error
    codes = model.codes.cpu().numpy()
    if not np.array_equal(codes, table.codes) or trie.catalogue_size != len(codes):
        raise ValueError(f"{folder}: weights, semantic IDs and trie are not of one model; {_AGAIN}")
    return model.to(device()).eval(), table, trie


def trained_on(folder: Path | str) -> str:
    """Fingerprint of the data set that the model of `load_system` was trained on."""
    return str(_read_trained(Path(folder)).get("data"))


def trained_candidates(folder: Path | str) -> str:
    """`eval.candidates` that the model of a folder was trained with: what its trie holds."""
    return str(_read_trained(Path(folder)).get(CANDIDATES, "catalogue"))


def check_candidates(folder: Path, setting: str) -> None:
    """Raises ValueError if a model's folder was trained with another `eval.candidates`."""
    if (folder / TRAINED).exists() and trained_candidates(folder) != setting:
        raise ValueError(
            f"{folder} was trained with eval.candidates {trained_candidates(folder)!r}, the config "
            f"has {setting!r}; run `glass train` with this config"
        )


def _read_trained(folder: Path) -> dict[str, Any]:
    path = folder / TRAINED
    try:
        trained = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {_AGAIN}") from error
    if not isinstance(trained, dict):
        raise ValueError(f"{path} is not a JSON object; {_AGAIN}")
    return trained
