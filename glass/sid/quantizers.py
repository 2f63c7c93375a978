"""One function a quantiser: from item vectors to codes, and what assigned them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glass.config import SidConfig
from glass.sid.assign import assign_parts
from glass.sid.published import read_codes
from glass.sid.rkmeans import fit_residual_kmeans
from glass.sid.rqvae import fit_rqvae
from glass.sid.vqvae import fit_vqvae
from glass.workers import Workers

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
    """Of the items that codebooks are fitted on, after each level; none for published codes."""
    weights: Mapping[str, Vectors] = field(default_factory=dict)
    """Codebooks and whatever else assigned the codes."""


def _rkmeans(
    config: SidConfig, vectors: Vectors, dataset: Dataset, workers: Workers, work: Path
) -> Assigned:
    fitted = fit_residual_kmeans(
        vectors[fitted_items(config, dataset)],
        config.codebook_sizes,
        iterations=config.kmeans_iterations,
        normalize_residual=config.normalize_residual,
        seed=config.seed,
    )
    codes = assign_parts(
        vectors,
        fitted.codebooks,
        normalize_residual=config.normalize_residual,
        workers=workers,
        work=work,
    )
    books = _named(fitted.codebooks)
    return Assigned(codes, tuple(config.codebook_sizes), fitted.relative_error, books)


def _rqvae(
    config: SidConfig, vectors: Vectors, dataset: Dataset, workers: Workers, work: Path
) -> Assigned:
    chosen = vectors[fitted_items(config, dataset)]
    model, fitted = fit_rqvae(chosen, config.codebook_sizes, config.rqvae, seed=config.seed)
    weights = {f"rqvae.{name}": value.numpy() for name, value in model.state_dict().items()}
    weights |= _named(fitted.codebooks)
    codes = assign_parts(vectors, fitted.codebooks, encode=model.encode, workers=workers, work=work)
    return Assigned(codes, tuple(config.codebook_sizes), fitted.relative_error, weights)


def _vqvae(
    config: SidConfig, vectors: Vectors, dataset: Dataset, workers: Workers, work: Path
) -> Assigned:
    chosen = vectors[fitted_items(config, dataset)]
    fitted = fit_vqvae(chosen, config.codebook_sizes, config.vqvae, seed=config.seed)
    codes = assign_parts(
        vectors, fitted.codebooks, normalize_residual=True, workers=workers, work=work
    )
    books = _named(fitted.codebooks)
    return Assigned(codes, tuple(config.codebook_sizes), fitted.relative_error, books)


def _published(
    config: SidConfig, vectors: Vectors, dataset: Dataset, workers: Workers, work: Path
) -> Assigned:
    codes = read_codes(Path(str(config.codes_path)), dataset.item_table["raw_item_id"])
    return Assigned(codes, tuple((codes.max(axis=0) + 1).tolist()))


def fitted_items(config: SidConfig, dataset: Dataset) -> npt.NDArray[np.int64]:
    """Items [N] with training events that codebooks are fitted on: all, or those drawn."""
    trained = np.flatnonzero(dataset.train_counts > 0)
    if config.fit_items is None or config.fit_items >= len(trained):
        return trained
    drawn = np.random.default_rng(config.seed).choice(trained, config.fit_items, replace=False)
    return np.sort(drawn)


def _named(codebooks: tuple[Vectors, ...]) -> dict[str, Vectors]:
    return {f"codebook_{level}": book for level, book in enumerate(codebooks)}


QUANTIZERS: Mapping[str, Callable[[SidConfig, Vectors, Dataset, Workers, Path], Assigned]] = {
    "rkmeans": _rkmeans,
    "vqvae": _vqvae,
    "rqvae": _rqvae,
    "published": _published,
}
"""By `sid.quantizer`. Whatever is fitted is fitted on items with training events; workers assign
the codes, with a folder for what they need in between alone."""
