"""What workers of semantic IDs are given in tests: a text model, and work that kills its worker."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


def die_once(marker: Path) -> None:
    """Kills this process as the kernel does when memory is short, unless `marker` is there."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def save_model(folder: Path, **settings: Any) -> Path:
    """A folder that `SentenceTransformer` of this file reads, `log` beside it."""
    folder.mkdir()
    modules = [{"idx": 0, "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = {"log": str(folder.with_name("log.txt")), **settings}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def calls(model: Path) -> list[list[str]]:
    """The texts of each call, in any process; sorted."""
    log = model.with_name("log.txt")
    lines = log.read_text().splitlines() if log.exists() else []
    return sorted(json.loads(line) for line in lines)


class SentenceTransformer:
    """A vector depends on the text alone.

    `dies_at`, a text: the worker that first has to encode it is killed; with `saving` when it has
    written a part of the vectors.
    """

    def __init__(self, folder: str, **_: Any) -> None:
        self.settings = json.loads((Path(folder) / "settings.json").read_text())

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        marker = Path(self.settings["log"]).with_name("died")
        if self.settings.get("dies_at") in texts:
            if self.settings.get("saving"):
                _die_saving(marker)
            else:
                die_once(marker)
        with open(self.settings["log"], "a") as file:
            file.write(json.dumps(sorted(texts)) + "\n")
        rows = [np.random.default_rng(list(t.encode())).normal(size=8) + 3 for t in texts]
        return np.array(rows, np.float32)


def _die_saving(marker: Path) -> None:
    import glass.sid.text as text

    whole = text.save_file

    def half(tensors: dict[str, np.ndarray], path: Path) -> None:
        whole({name: value[:1] for name, value in tensors.items()}, path)
        die_once(marker)
        whole(tensors, path)

    text.save_file = half


@dataclass(frozen=True)
class DyingEncoder:
    """What RQ-VAE's `encode` is to the assignment; the worker that gets `row` first is killed."""

    model: torch.nn.Module
    row: np.ndarray
    marker: Path

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if (x == torch.from_numpy(self.row)).all(1).any():
            die_once(self.marker)
        return self.model.encode(x)
