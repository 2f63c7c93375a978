"""The item vectors of a run: text, collaborative, both joined, or read from a file."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from glass.config import SidConfig
from glass.data.array_file import read_array
from glass.data.cleaning import id_column
from glass.data.parquet_file import read_whole
from glass.sid.collaborative import collaborative_vectors
from glass.sid.text import encode_texts
from glass.workers import ONE_PROCESS, Workers

if TYPE_CHECKING:
    from glass.data import Dataset

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

_ROWS_AT_A_TIME = 1 << 14  # beside which the passes over all vectors need no memory


@dataclass(frozen=True)
class ItemVectors:
    """Item vectors and what is worth telling about them."""

    vectors: Vectors
    """float32 [V, D]; rows have unit length (`both`: unit parts beside each other) or are zero.
    `none`: D is 0."""
    means: dict[str, Vectors] = field(default_factory=dict)
    """The subtracted mean of each centred part, float32 [D of the part]."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts for the manifest."""


def item_vectors(
    config: SidConfig,
    dataset: Dataset,
    workers: Workers = ONE_PROCESS,
    work: Path | None = None,
) -> ItemVectors:
    """Build the vectors that `config.source` asks for, from training events only.

    Vectors of each kind are scaled to unit length, centred (`config.center`) by the plain mean
    over the catalogue items that have training events, and scaled to unit length again; items
    without text, or without co-occurrence, are zero there and count in no mean. `both` is
    [text_weight * text ; collaborative]. PPMI is positive, so that without centring collaborative
    cosines crowd at 1 as much as those of text do.

    Args:
        config: source and settings.
        dataset: the prepared data set.
        workers: encode texts.
        work: folder for what is needed in between alone, seen by all workers; None: the system's.

    Raises:
        ValueError: unknown source, missing texts, package or file, or vectors that do not fit.
    """
    trained = dataset.train_counts > 0
    if config.source == "text":
        return _text(config, dataset, trained, workers, work)
    if config.source == "collaborative":
        return _collaborative(config, dataset, trained)
    if config.source == "data":
        return _data(config, dataset, trained)
    if config.source == "file":
        return _file(config, dataset, trained)
    if config.source == "both":
        text, collaborative = (
            _text(config, dataset, trained, workers, work),
            _collaborative(config, dataset, trained),
        )
        weight = np.float32(config.text_weight)
        return ItemVectors(
            np.hstack([weight * text.vectors, collaborative.vectors]),
            {**text.means, **collaborative.means},
            {**text.facts, **collaborative.facts},
        )
    if config.source == "none":
        return ItemVectors(np.zeros((dataset.num_items, 0), np.float32))
    raise ValueError(
        f"sid.source is {config.source!r}; it must be text, collaborative, both, data, file or none"
    )


def centered_unit(
    vectors: Vectors, trained: npt.NDArray[np.bool_], *, center: bool
) -> tuple[Vectors, Vectors]:
    """Unit rows, minus their mean over `trained` items, scaled to unit length again.

    Args:
        vectors: float32 [V, D]; a zero row means "no vector": it stays zero and is not averaged.
        trained: bool [V], items that count in the mean.

    Returns:
        The vectors, float32 [V, D], and the subtracted mean, float32 [D] (zeros without `center`).
    """
    averaged = vectors.any(axis=1) & trained
    result = np.empty(vectors.shape, np.float32)
    blocks = [slice(i, i + _ROWS_AT_A_TIME) for i in range(0, len(vectors), _ROWS_AT_A_TIME)]
    total = np.zeros((1, vectors.shape[1]))
    for rows in blocks:
        result[rows] = _unit(vectors[rows])
        # One row after another, as a sum of all at once: no bit depends on the blocks.
        total = np.vstack([total, result[rows][averaged[rows]]]).sum(axis=0, keepdims=True)
    if not center or not averaged.any():
        return result, np.zeros(vectors.shape[1], np.float32)
    mean: Vectors = (total[0] / averaged.sum()).astype(np.float32)
    for rows in blocks:
        present = vectors[rows].any(axis=1, keepdims=True)
        result[rows] = _unit(np.where(present, result[rows] - mean, result[rows]))
    return result, mean


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    # What centring leaves of equal vectors is rounding, not a direction.
    known = length > 1e-6
    scaled: Vectors = np.where(known, vectors / np.where(known, length, 1.0), 0.0)
    return scaled.astype(np.float32)


def _text(
    config: SidConfig,
    dataset: Dataset,
    trained: npt.NDArray[np.bool_],
    workers: Workers,
    work: Path | None,
) -> ItemVectors:
    texts = dataset.item_table["text"].fill_null("").to_list()
    encoded = encode_texts(
        texts, config.text_model, cache_folder(dataset), workers=workers, work=work
    )
    without = int((~encoded.any(axis=1)).sum())
    if without:
        log.warning("%d of %d items have no text; their text vector is zero", without, len(texts))
    vectors, mean = centered_unit(encoded, trained, center=config.center)
    facts = {
        "distinct_texts": len({t.strip() for t in texts} - {""}),
        "items_without_text": without,
    }
    return ItemVectors(vectors, {"text_mean": mean}, facts)


def _collaborative(
    config: SidConfig, dataset: Dataset, trained: npt.NDArray[np.bool_]
) -> ItemVectors:
    users, items = dataset.train_events()
    raw = collaborative_vectors(
        users,
        items,
        dataset.num_items,
        dim=config.collaborative_dim,
        window=config.collaborative_window,
        seed=config.seed,
    )
    without = int((~raw.any(axis=1)).sum())
    if without:
        log.warning("%d items co-occur with no other; their collaborative vector is zero", without)
    vectors, mean = centered_unit(raw, trained, center=config.center)
    facts = {"items_without_cooccurrence": without}
    return ItemVectors(vectors, {"collaborative_mean": mean}, facts)


def _file(config: SidConfig, dataset: Dataset, trained: npt.NDArray[np.bool_]) -> ItemVectors:
    raw = read_vectors(Path(config.vectors_path or ""), dataset.item_table["raw_item_id"])
    vectors, mean = centered_unit(raw, trained, center=config.center)
    return ItemVectors(vectors, {"file_mean": mean})


def _data(config: SidConfig, dataset: Dataset, trained: npt.NDArray[np.bool_]) -> ItemVectors:
    if dataset.vectors is None:
        raise ValueError(
            f"sid.source is 'data' but the data set {dataset.name!r} came without vectors; use "
            "text, collaborative, both or file"
        )
    raw = dataset.vectors.astype(np.float32)
    without = int((~raw.any(axis=1)).sum())
    if without:
        log.warning("%d items have no vector; theirs is zero", without)
    vectors, mean = centered_unit(raw, trained, center=config.center)
    return ItemVectors(vectors, {"data_mean": mean}, {"items_without_vector": without})


def cache_folder(dataset: Dataset) -> Path | None:
    """`cache` of the prepared data set, or None when it is not there (any more)."""
    folder = dataset.folder  # not what the manifest says: it may name any place
    return folder / "cache" if folder and (folder / "manifest.json").is_file() else None


def read_vectors(path: Path, raw_item_ids: pl.Series) -> Vectors:
    """Ready item vectors in the order of `raw_item_ids`.

    Args:
        path: `.npy` of [V, D] whose row i belongs to row i of items.parquet, or Parquet with a
            column `raw_item_id` and one column of equally long lists of numbers; rows of items
            outside the catalogue are ignored.
        raw_item_ids: the V raw ids of the catalogue.

    Returns:
        float32 [V, D].

    Raises:
        ValueError: no such file, a wrong shape or type, missing or repeated items, or numbers
            that are not finite.
    """
    if not path.is_file():
        raise ValueError(f"sid.vectors_path {path} is not a file; name a .npy or .parquet file")
    if path.suffix == ".npy":
        try:
            vectors = np.asarray(read_array(path))
        except ValueError as error:
            raise ValueError(f"sid.vectors_path {error}") from error
    elif path.suffix == ".parquet":
        vectors = _read_parquet(path, raw_item_ids.cast(pl.String))
    else:
        raise ValueError(f"sid.vectors_path {path} ends in {path.suffix!r}; use .npy or .parquet")
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"sid.vectors_path {path} holds {vectors.dtype} {list(vectors.shape)}; "
            "it must be numbers of shape [items, dimensions]"
        )
    if len(vectors) != len(raw_item_ids):
        raise ValueError(
            f"sid.vectors_path {path} has {len(vectors)} rows but the catalogue has "
            f"{len(raw_item_ids)} items; save one row for each row of items.parquet, or Parquet "
            "with a raw_item_id column"
        )
    result: Vectors = vectors.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(result).all(axis=1))
    if len(broken):
        raise ValueError(
            f"sid.vectors_path {path} has {len(broken)} rows that are not finite, first "
            f"{broken[:10].tolist()}"
        )
    return result


def _read_parquet(path: Path, raw_item_ids: pl.Series) -> npt.NDArray[Any]:
    try:
        table = read_whole(path)
    except ValueError as error:
        raise ValueError(f"sid.vectors_path {error}") from error
    lists = [
        name
        for name, dtype in table.schema.items()
        if isinstance(dtype, (pl.List, pl.Array)) and dtype.inner.is_numeric()
    ]
    if "raw_item_id" not in table.columns or len(lists) != 1:
        raise ValueError(
            f"sid.vectors_path {path} has the columns {table.columns}; it must have raw_item_id "
            "and exactly one column of lists of numbers"
        )
    try:
        ids = id_column(table["raw_item_id"])
    except ValueError as error:
        raise ValueError(f"sid.vectors_path {path}: {error}") from error
    table = pl.DataFrame([ids, table[lists[0]].alias("vector")])
    table = table.filter(pl.col("raw_item_id").is_in(raw_item_ids.to_list()))
    if table["raw_item_id"].is_duplicated().any():
        twice = table["raw_item_id"].filter(table["raw_item_id"].is_duplicated()).unique().sort()
        raise ValueError(f"sid.vectors_path {path} repeats the items {twice.head(10).to_list()}")
    wanted = raw_item_ids.to_frame("raw_item_id")
    missing = wanted.join(table.drop_nulls("vector"), on="raw_item_id", how="anti")
    if missing.height:
        raise ValueError(
            f"sid.vectors_path {path} lacks {missing.height} of {wanted.height} items, first "
            f"{missing['raw_item_id'].head(10).to_list()}; add their vectors"
        )
    ordered = wanted.join(table, on="raw_item_id", how="left", maintain_order="left")["vector"]
    if isinstance(ordered.dtype, pl.List):
        widths = ordered.list.len().unique().to_list()
        if len(widths) != 1 or ordered.list.eval(pl.element().is_null()).list.any().any():
            raise ValueError(
                f"sid.vectors_path {path} has vectors of the widths {sorted(widths)} or with "
                "missing numbers; all must be equally wide and complete"
            )
        ordered = ordered.list.to_array(widths[0])
    result: npt.NDArray[Any] = ordered.to_numpy()
    return result
