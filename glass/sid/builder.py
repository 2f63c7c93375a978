"""From a data set to semantic IDs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glass.config import RqVaeConfig, SidConfig
from glass.sid.assign import number_duplicates
from glass.sid.files import sha256, work_folder
from glass.sid.quantizers import QUANTIZERS, Assigned, fitted_items
from glass.sid.rkmeans import check_enough_items
from glass.sid.table import FORMAT_VERSION, SidTable, check_replaceable
from glass.sid.vectors import ItemVectors, item_vectors
from glass.workers import ONE_PROCESS, Workers

if TYPE_CHECKING:
    from glass.data import Dataset

log = logging.getLogger(__name__)

ALGORITHM_VERSION = 1
"""Raise when the same settings and data come to give other vectors or codes: a change of a text or
collaborative vector, of centring, a quantiser or the assignment. The SIDs are then built anew, and
models too if codes or vectors are other ones. Encoded texts are cached by model and text alone."""


def build(
    config: SidConfig,
    dataset: Dataset,
    folder: Path | str,
    *,
    vectors: Callable[[], ItemVectors] | None = None,
    workers: Workers = ONE_PROCESS,
) -> SidTable:
    """Item vectors, quantiser and SIDs of a catalogue, kept in `folder`.

    Vectors' means, co-occurrence and codebooks are fitted on training events and the items they
    hold; every item of the catalogue then gets a SID. A folder that was built from the same
    settings and data is loaded instead; any other is replaced once the new one is complete.

    Args:
        config: item vectors and quantiser.
        dataset: the prepared data set, with a `fingerprint` in its manifest.
        folder: where the table is saved, see `SidTable.save`.
        vectors: gives `item_vectors(config, dataset)` where several builds share them.
        workers: encode texts and assign codes; those of several processes see the files of
            `dataset` and the folder that `folder` lies in.

    Raises:
        ValueError: settings, texts or files do not do, or the folder holds something else; the
            message names the remedy.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    table = load_built(config, dataset, folder)
    if table is not None:
        log.info("semantic IDs in %s are up to date", folder)
        return table
    check_replaceable(folder)
    with work_folder(folder) as work:
        item = item_vectors(config, dataset, workers, work) if vectors is None else vectors()
        fingerprint = _fingerprint(config, dataset)
        assigned = QUANTIZERS[config.quantizer](config, item.vectors, dataset, workers, work)
    table = _table(config, dataset, item, assigned, fingerprint)
    table.save(folder)
    return table


def load_built(config: SidConfig, dataset: Dataset, folder: Path | str) -> SidTable | None:
    """What `build` made in `folder` from the same settings and data, or None; writes nothing.

    Raises:
        ValueError: settings that do not do.
    """
    _check_config(config, dataset)
    return _load_built(Path(folder), _fingerprint(config, dataset))


def _check_config(config: SidConfig, dataset: Dataset) -> None:
    """Refuse settings before any work is done."""
    check_sid_config(config)
    for setting, path in _files(config).items():
        if not Path(path).is_file():
            raise ValueError(f"{setting} {path} is not a file")
    if config.quantizer != "published":
        check_enough_items(len(fitted_items(config, dataset)), config.codebook_sizes)


def check_sid_config(config: SidConfig) -> None:
    """Refuse settings that suit no data set.

    Raises:
        ValueError: a setting out of range, or one that another needs; the message names it.
    """
    if config.quantizer not in QUANTIZERS:
        raise ValueError(
            f"sid.quantizer is {config.quantizer!r}; it must be {', '.join(QUANTIZERS)}"
        )
    for setting, path in _files(config).items():
        if not path:
            raise ValueError(f"{setting} is empty, but these settings read it; name the file")
    if config.source == "none" and config.quantizer != "published":
        raise ValueError(
            f"sid.source is 'none' but sid.quantizer {config.quantizer!r} needs item vectors; set "
            "sid.source, or take published codes"
        )
    if config.source == "both" and not config.text_weight > 0:
        raise ValueError(
            f"sid.text_weight is {config.text_weight}; it must be above 0 (set sid.source to "
            "'collaborative' to leave the text out)"
        )
    positive = {
        "sid.kmeans_iterations": config.kmeans_iterations,
        "sid.vqvae.epochs": config.vqvae.epochs,
        "sid.vqvae.batch_size": config.vqvae.batch_size,
        "sid.rqvae.epochs": config.rqvae.epochs,
        "sid.rqvae.batch_size": config.rqvae.batch_size,
        "sid.rqvae.code_dim": config.rqvae.code_dim,
        "sid.collaborative_window": config.collaborative_window,
        "sid.collaborative_dim": config.collaborative_dim,
    }
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if config.fit_items is not None and config.fit_items < 1:
        raise ValueError(
            f"sid.fit_items is {config.fit_items}; it must be at least 1, or empty for all items"
        )
    if config.seed < 0:
        raise ValueError(f"sid.seed is {config.seed}; it must not be negative")


def _files(config: SidConfig) -> dict[str, str]:
    """{setting: path} of the files that these settings read."""
    files = {}
    if config.source == "file":
        files["sid.vectors_path"] = config.vectors_path or ""
    if config.quantizer == "published":
        files["sid.codes_path"] = config.codes_path or ""
    return files


def _fingerprint(config: SidConfig, dataset: Dataset) -> str:
    settings = asdict(config)
    if config.source == "file":  # the content counts, wherever it lies
        settings["vectors_path"] = sha256(Path(str(config.vectors_path)))
    # Settings of one quantiser alone count for it alone: those of others, and what is added for
    # them, leave the SIDs as they are.
    del settings["codes_path"]
    if config.quantizer == "published":
        settings["codes"] = sha256(Path(str(config.codes_path)))
    if config.quantizer != "vqvae":
        del settings["vqvae"]
    if config.quantizer != "rqvae":
        settings["rqvae"] = asdict(RqVaeConfig())  # as it was when every setting counted
    if config.fit_items is None or config.quantizer == "published":
        del settings["fit_items"]  # as it was when there was none
    parts = [FORMAT_VERSION, ALGORITHM_VERSION, settings, dataset.manifest.get("fingerprint")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _load_built(folder: Path, fingerprint: str) -> SidTable | None:
    if not (folder / "manifest.json").is_file():
        return None
    try:
        table = SidTable.load(folder)
    except ValueError as error:
        log.warning("building the semantic IDs anew: %s", error)
        return None
    return table if table.manifest.get("fingerprint") == fingerprint else None


def _table(
    config: SidConfig, dataset: Dataset, item: ItemVectors, assigned: Assigned, fingerprint: str
) -> SidTable:
    codes, sizes = assigned.codes, assigned.codebook_sizes
    if config.deduplicate:
        number = number_duplicates(codes)
        codes = np.column_stack([codes, number]).astype(np.int32)
        sizes = (*sizes, int(number.max()) + 1)
    manifest = _manifest(config, dataset, item, assigned, fingerprint)
    return SidTable(codes, sizes, item.vectors, {**assigned.weights, **item.means}, manifest)


def _manifest(
    config: SidConfig, dataset: Dataset, item: ItemVectors, assigned: Assigned, fingerprint: str
) -> dict[str, Any]:
    return {
        "config": asdict(config),
        "fingerprint": fingerprint,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.manifest.get("fingerprint"),
        },
        "vectors": item.facts,
        "fit": {
            "quantizer": config.quantizer,
            "relative_error": [round(error, 6) for error in assigned.relative_error],
        },
    }
