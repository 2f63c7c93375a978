"""A trie as one safetensors file: written whole or not at all, checked when read."""

from __future__ import annotations

import json
import os
import zlib
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glass_kernels.trie.build import TrieArrays, check_codebook_sizes

FORMAT = "glass_kernels.SidTrie"
FORMAT_VERSION = "1"


def _named(arrays: TrieArrays) -> dict[str, Tensor]:
    named = {f"child_offsets.{i}": tensor for i, tensor in enumerate(arrays.child_offsets)}
    named |= {f"child_codes.{i}": tensor for i, tensor in enumerate(arrays.child_codes)}
    return named | {"item_offsets": arrays.item_offsets, "item_ids": arrays.item_ids}


def _checksum(tensors: dict[str, Tensor], shape: str) -> str:
    """CRC-32 of everything that makes the trie; safetensors itself has none."""
    crc = zlib.crc32(shape.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].numpy().data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def save_arrays(
    path: str | os.PathLike[str],
    arrays: TrieArrays,
    codebook_sizes: tuple[int, ...],
    catalogue_size: int,
) -> None:
    """Writes the trie beside `path` under a temporary name, then renames it."""
    path = Path(path)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _named(arrays).items()}
    shape = json.dumps({"codebook_sizes": codebook_sizes, "catalogue_size": catalogue_size})
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "trie": shape,
        "crc32": _checksum(tensors, shape),
    }
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_arrays(path: str | os.PathLike[str]) -> tuple[TrieArrays, tuple[int, ...], int]:
    """Arrays, codebook sizes and catalogue size of the file at `path`.

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or no trie.
    """
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        codebook_sizes, catalogue_size = _read_metadata(metadata)
        if _checksum(tensors, metadata["trie"]) != metadata.get("crc32"):
            raise ValueError("its checksum does not match its content")
        arrays = _read_arrays(tensors, len(codebook_sizes))
        _check_arrays(arrays, codebook_sizes, catalogue_size)
    except (SafetensorError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a trie that this version can read: {error}; "
            "build it again with SidTrie.build and save it"
        ) from error
    return arrays, codebook_sizes, catalogue_size


def _read_metadata(metadata: dict[str, str]) -> tuple[tuple[int, ...], int]:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"its format_version is {metadata.get('format_version')!r}, not {FORMAT_VERSION!r}"
        )
    shape = json.loads(metadata.get("trie", "null"))
    if not isinstance(shape, dict) or set(shape) != {"codebook_sizes", "catalogue_size"}:
        raise ValueError("its metadata lacks codebook_sizes and catalogue_size")
    sizes, catalogue_size = shape["codebook_sizes"], shape["catalogue_size"]
    if not isinstance(sizes, list) or not all(type(n) is int for n in (*sizes, catalogue_size)):
        raise ValueError("its codebook_sizes or catalogue_size are not whole numbers")
    check_codebook_sizes(tuple(sizes))
    return tuple(sizes), catalogue_size


def _read_arrays(tensors: dict[str, Tensor], num_levels: int) -> TrieArrays:
    levels = range(num_levels)
    expected = {f"child_{kind}.{level}" for level in levels for kind in ("offsets", "codes")}
    expected |= {"item_offsets", "item_ids"}
    if set(tensors) != expected:
        raise ValueError(f"it holds the tensors {sorted(tensors)}, not {sorted(expected)}")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int32 or tensor.ndim != 1 or tensor.shape[0] == 0:
            raise ValueError(f"{name} is not a non-empty int32 vector")
    return TrieArrays(
        tuple(tensors[f"child_offsets.{level}"] for level in levels),
        tuple(tensors[f"child_codes.{level}"] for level in levels),
        tensors["item_offsets"],
        tensors["item_ids"],
    )


def _check_arrays(arrays: TrieArrays, codebook_sizes: tuple[int, ...], catalogue_size: int) -> None:
    """Refuses arrays that an op would read out of bounds or that are no trie."""
    num_nodes = [1, *(codes.shape[0] for codes in arrays.child_codes)]
    for level, (parents, children) in enumerate(pairwise(num_nodes)):
        offsets, codes = arrays.child_offsets[level], arrays.child_codes[level]
        _check_ranges(f"child_offsets.{level}", offsets, parents, children)
        _check_values(f"child_codes.{level}", codes, offsets, codebook_sizes[level], -1)
        if level == 0 and int(codes[0]) < 0:
            raise ValueError("child_codes.0 holds a SID without codes")
        if level > 0:
            _check_ends(level, arrays.child_codes[level - 1], offsets, codes)
    _check_ranges("item_offsets", arrays.item_offsets, num_nodes[-1], arrays.item_ids.shape[0])
    _check_values("item_ids", arrays.item_ids, arrays.item_offsets, catalogue_size)
    ids = arrays.item_ids.sort().values
    if bool((ids[1:] == ids[:-1]).any()):
        raise ValueError("item_ids holds an item twice")


def _check_ranges(name: str, offsets: Tensor, count: int, total: int) -> None:
    """`offsets` must cut 0 : total into `count` ranges, none of them empty."""
    wrong_ends = offsets.shape[0] != count + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != total
    if wrong_ends or bool((offsets[1:] <= offsets[:-1]).any()):
        raise ValueError(f"{name} does not cut {total} entries into {count} non-empty ranges")


def _check_ends(level: int, parent_codes: Tensor, offsets: Tensor, codes: Tensor) -> None:
    """A SID that has ended above `level` must go on with -1 alone."""
    ended = parent_codes < 0
    first = codes.index_select(0, offsets[:-1])
    if bool((ended & ((first >= 0) | (offsets.diff() != 1))).any()):
        raise ValueError(f"child_codes.{level} continues a SID that has ended")


def _check_values(name: str, values: Tensor, offsets: Tensor, bound: int, low: int = 0) -> None:
    """`values` must be in [low, bound) and rise within each range of `offsets`."""
    smallest, largest = torch.aminmax(values)
    if int(smallest) < low or int(largest) >= bound:
        raise ValueError(f"{name} is not in [{low}, {bound})")
    rises = values[1:] > values[:-1]
    rises[offsets[1:-1].to(torch.int64) - 1] = True
    if not bool(rises.all()):
        raise ValueError(f"{name} does not rise within its ranges")
