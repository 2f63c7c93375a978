"""One function a quantiser: from item vectors to codes, and what assigned them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from glass.config import SidConfig
from glass.sid.assign import assign
from glass.sid.published import read_codes
from glass.sid.rkmeans import fit_residual_kmeans
from glass.sid.rqvae import fit_rqvae
from glass.sid.vqvae import fit_vqvae

if TYPE_CHECKING:
    from glass.data import Dataset

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Assigned:
    """Codes of a catalogue, before any de-duplication level."""

    codes: npt.NDArray[np.int32]
    """int32 [V, L]"""
    codebook_sizes: tuple[int, ...]
    relative_error: tuple[float, ...] = ()
    """Of the items with training events, after each level; none for published codes."""
    weights: Mapping[str, Vectors] = field(default_factory=dict)
    """Codebooks and whatever else assigned the codes."""


def _rkmeans(config: SidConfig, vectors: Vectors, dataset: Dataset) -> Assigned:
    fitted = fit_residual_kmeans(
        vectors[dataset.train_counts > 0],
        config.codebook_sizes,
        iterations=config.kmeans_iterations,
        normalize_residual=config.normalize_residual,
        seed=config.seed,
    )
    codes = assign(vectors, fitted.codebooks, normalize_residual=config.normalize_residual)
    books = _named(fitted.codebooks)
    return Assigned(codes, tuple(config.codebook_sizes), fitted.relative_error, books)


def _rqvae(config: SidConfig, vectors: Vectors, dataset: Dataset) -> Assigned:
    trained = vectors[dataset.train_counts > 0]
    model, fitted = fit_rqvae(trained, config.codebook_sizes, config.rqvae, seed=config.seed)
    with torch.no_grad():
        hidden = model.encode(torch.from_numpy(vectors)).numpy()
    weights = {f"rqvae.{name}": value.numpy() for name, value in model.state_dict().items()}
    weights |= _named(fitted.codebooks)
    codes = assign(hidden, fitted.codebooks)
    return Assigned(codes, tuple(config.codebook_sizes), fitted.relative_error, weights)


def _vqvae(config: SidConfig, vectors: Vectors, dataset: Dataset) -> Assigned:
    trained = vectors[dataset.train_counts > 0]
    fitted = fit_vqvae(trained, config.codebook_sizes, config.vqvae, seed=config.seed)
    codes = assign(vectors, fitted.codebooks, normalize_residual=True)
    books = _named(fitted.codebooks)
    return Assigned(codes, tuple(config.codebook_sizes), fitted.relative_error, books)


def _published(config: SidConfig, vectors: Vectors, dataset: Dataset) -> Assigned:
    codes = read_codes(Path(str(config.codes_path)), dataset.item_table["raw_item_id"])
    return Assigned(codes, tuple((codes.max(axis=0) + 1).tolist()))


def _named(codebooks: tuple[Vectors, ...]) -> dict[str, Vectors]:
    return {f"codebook_{level}": book for level, book in enumerate(codebooks)}


QUANTIZERS: Mapping[str, Callable[[SidConfig, Vectors, Dataset], Assigned]] = {
    "rkmeans": _rkmeans,
    "vqvae": _vqvae,
    "rqvae": _rqvae,
    "published": _published,
}
"""By `sid.quantizer`. Whatever is fitted is fitted on items with training events."""
