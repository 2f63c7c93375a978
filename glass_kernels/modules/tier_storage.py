"""A `TierState` as one safetensors file: written whole or not at all, checked when read."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "glass_kernels.TierState"
FORMAT_VERSION = "1"
DTYPES = {"counts": torch.int32, "events": torch.int32, "seen": torch.int64}


def _checksum(tensors: dict[str, Tensor], *words: str) -> str:
    crc = zlib.crc32(" ".join(words).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].numpy().data, crc)
    return f"{crc:08x}"


def save_state(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], *, digest: str, num_items: int
) -> None:
    """Writes counts, events and seen beside `path` under a temporary name, then renames it."""
    path = Path(path)
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "digest": digest,
        "num_items": str(num_items),
        "crc32": _checksum(held, digest, str(num_items)),
    }
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        save_file(held, temporary, metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(
    path: str | os.PathLike[str], catalogue_size: int
) -> tuple[dict[str, Tensor], str, int]:
    """Tensors, digest and number of items of the file at `path`.

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged, no state, or
    holds events of items that a catalogue of `catalogue_size` lacks.
    """
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest, num_items = _read_metadata(metadata, tensors)
        _check_tensors(tensors, catalogue_size)
    except (SafetensorError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)} is no state that this version can read: {error}; make it again "
            "with TierState.from_histories"
        ) from error
    return tensors, digest, num_items


def _read_metadata(metadata: dict[str, str], tensors: dict[str, Tensor]) -> tuple[str, int]:
    for key, wanted in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
        if metadata.get(key) != wanted:
            raise ValueError(f"its {key} is {metadata.get(key)!r}, not {wanted!r}")
    digest, num_items = metadata.get("digest", ""), metadata.get("num_items", "")
    if _checksum(tensors, digest, num_items) != metadata.get("crc32"):
        raise ValueError("its checksum does not match its content")
    return digest, int(num_items)


def _check_tensors(tensors: dict[str, Tensor], catalogue_size: int) -> None:
    if {name: tensor.dtype for name, tensor in tensors.items()} != DTYPES:
        raise ValueError(f"it holds {sorted(tensors)}, not {sorted(DTYPES)}, or other dtypes")
    counts, events, seen = tensors["counts"], tensors["events"], tensors["seen"]
    if (counts.ndim, events.ndim, seen.ndim) != (3, 2, 1) or not (
        len(counts) == len(events) == len(seen)
    ):
        raise ValueError("its tensors do not fit together")
    if events.numel() and not -1 <= int(events.min()) <= int(events.max()) < catalogue_size:
        raise ValueError(f"events must be in [-1, {catalogue_size})")
    lengths = (events >= 0).sum(1) if events.shape[1] else seen
    if counts.numel() and bool((counts.sum(2) != lengths[:, None]).any() or (counts < 0).any()):
        raise ValueError("counts do not fit its number of events")
