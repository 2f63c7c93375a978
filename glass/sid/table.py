"""Semantic IDs of a catalogue, and their folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from glass.data.parquet_file import read_whole
from glass.sid.files import replaced_folder

FORMAT_VERSION = 1

_DAMAGE = (OSError, KeyError, TypeError, ValueError, OverflowError, PolarsError, SafetensorError)


@dataclass(frozen=True)
class SidTable:
    """Codes and vectors of every item; row i is item i.

    Raises:
        ValueError: shapes or dtypes that disagree, codes outside their codebook, or vectors that
            are not finite.
    """

    codes: npt.NDArray[np.int32]
    """int32 [V, L], 0 <= codes[:, l] < codebook_sizes[l]."""
    codebook_sizes: tuple[int, ...]
    """Codes of each level."""
    vectors: npt.NDArray[np.float32]
    """float32 [V, D] item vectors (centred), for prototypes and tiers; D is 0 without vectors."""
    quantizer: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """What assigned the codes: `codebook_<level>` [K, D], means, RQ-VAE weights."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """`config`, `fingerprint`, `fit`, `vectors`: how the table came about."""

    def __post_init__(self) -> None:
        _check(self.codes, self.codebook_sizes, self.vectors)

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        """L, the de-duplication level included."""
        return len(self.codebook_sizes)

    def require_vectors(self, what: str) -> None:
        """Refuse a part of a model that reads `vectors` where there are none.

        Raises:
            ValueError: the message names `what` and the remedy.
        """
        if self.vectors.shape[1] == 0:
            raise ValueError(
                f"{what} needs item vectors, but these semantic IDs have none (sid.source is "
                "'none'); set sid.source to text, collaborative, both or file"
            )

    def save(self, folder: Path | str) -> None:
        """Write sids.parquet, vectors.safetensors, quantizer.safetensors and manifest.json.

        An existing folder is replaced once the new one is complete.

        Raises:
            ValueError: the folder holds something else.
            OSError: the folder cannot be written.
        """
        check_replaceable(Path(folder))
        columns = {"item_id": np.arange(self.num_items, dtype=np.int32)}
        for level in range(self.num_levels):
            columns[f"sid_{level + 1}"] = np.ascontiguousarray(self.codes[:, level])
        manifest = {
            **self.manifest,
            "format_version": FORMAT_VERSION,
            "num_items": self.num_items,
            "codebook_sizes": list(self.codebook_sizes),
            "dim": self.vectors.shape[1],
        }
        with replaced_folder(Path(folder)) as temporary:
            pl.DataFrame(columns).write_parquet(temporary / "sids.parquet")
            _save_tensors({"vectors": self.vectors}, temporary / "vectors.safetensors")
            _save_tensors(self.quantizer, temporary / "quantizer.safetensors")
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> SidTable:
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            ValueError: a file is missing or damaged, or the files do not fit together.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{folder} has format_version {manifest.get('format_version')}; this version "
                f"reads {FORMAT_VERSION}: build the semantic IDs anew"
            )
        try:
            sids = read_whole(folder / "sids.parquet")
            vectors = load_file(folder / "vectors.safetensors")["vectors"]
            quantizer = load_file(folder / "quantizer.safetensors")
            sizes = tuple(int(size) for size in manifest["codebook_sizes"])
            levels = [sids[f"sid_{level + 1}"].to_numpy() for level in range(len(sizes))]
            if sids.width != 1 + len(sizes):
                raise ValueError(f"{sids.columns} are not the columns of {len(sizes)} levels")
            item_ids = sids["item_id"].to_numpy()
            num_items = int(manifest["num_items"])
        except _DAMAGE as error:
            raise ValueError(
                f"{folder} is not a complete folder of semantic IDs "
                f"({type(error).__name__}: {error}); delete it and build them anew"
            ) from error
        if not np.array_equal(item_ids, np.arange(num_items)):
            raise ValueError(
                f"{folder / 'sids.parquet'} does not list the items 0 to "
                f"{num_items - 1} in order; delete the folder and build it anew"
            )
        try:
            return cls(np.stack(levels, axis=1), sizes, vectors, quantizer, manifest)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}; delete it and build it anew") from error


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but semantic IDs.

    Raises:
        ValueError: `folder` is a file, or a folder that holds something else.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name a folder for the semantic IDs")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not held & {"sids.parquet", "quantizer.safetensors"}:  # one may have got lost
        raise ValueError(
            f"{folder} holds {', '.join(sorted(held)[:5])} and no semantic IDs, and would be "
            "replaced; name another folder"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of semantic IDs.

    Raises:
        ValueError: there is none, or it is not JSON.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no semantic IDs (no manifest.json); build them first"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}; delete the folder") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is not a JSON object; delete the folder")
    return manifest


def _save_tensors(tensors: Mapping[str, npt.NDArray[np.float32]], path: Path) -> None:
    # Contiguous: safetensors writes the buffer, not the view.
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)


def _check(
    codes: npt.NDArray[np.int32], sizes: tuple[int, ...], vectors: npt.NDArray[np.float32]
) -> None:
    if codes.dtype != np.int32 or codes.ndim != 2 or codes.shape[1] != len(sizes) or not sizes:
        raise ValueError(
            f"codes are {codes.dtype} {list(codes.shape)}; they must be int32 [V, {len(sizes)}] "
            f"for the codebook sizes {list(sizes)}"
        )
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(codes):
        raise ValueError(
            f"vectors are {vectors.dtype} {list(vectors.shape)}; they must be float32 "
            f"[{len(codes)}, D]"
        )
    outside = np.flatnonzero((codes < 0).any(axis=1) | (codes >= np.array(sizes)).any(axis=1))
    if len(outside):
        raise ValueError(
            f"{len(outside)} items have codes outside the codebook sizes {list(sizes)}, first item "
            f"{outside[0]}: {codes[outside[0]].tolist()}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("vectors are not all finite")
