"""Semantic IDs that were made elsewhere, read from a file."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from glass.data.array_file import read_array
from glass.data.json_file import read_pairs
from glass.data.raw import shortened

Codes = npt.NDArray[np.int32]

SETTING = "sid.codes_path"
LARGEST_CODE = (1 << 16) - 1
LARGEST_DEPTH = 8  # levels of a SidTrie
_TOKEN = re.compile(r"<([a-z]+)_([0-9]{1,40})>")
_SAME_DEPTH = "every SID must have as many codes; SIDs that end early are not supported"


def read_codes(path: Path, raw_item_ids: pl.Series) -> Codes:
    """Published codes in the order of `raw_item_ids`; those of other items are ignored.

    Args:
        path: `.json`, {raw item id: ["<a_183>", "<b_70>", ..]} (LC-Rec, LETTER; whole numbers
            instead of tokens do too); `.pt`, a GRID tensor of whole numbers [L, items] whose column
            j is the item with the raw id j; or `.npy`, [V, L] whose row i is row i of
            items.parquet.
        raw_item_ids: the V raw ids of the catalogue.

    Returns:
        int32 [V, L].

    Raises:
        ValueError: no such file or another format, an item without a SID, SIDs of different
            depths, or codes that are no codes. Nothing in the file is executed.
    """
    readers = {".json": _read_index, ".pt": _read_grid, ".npy": _read_rows}
    if not path.is_file():
        raise ValueError(f"{SETTING} {path} is not a file")
    if path.suffix not in readers:
        raise ValueError(f"{SETTING} {path} ends in {path.suffix!r}; use .json, .pt or .npy")
    codes = readers[path.suffix](path, raw_item_ids.cast(pl.String))
    depth = codes.shape[1]
    if not 1 <= depth <= LARGEST_DEPTH:
        raise ValueError(f"{SETTING} {path} has {depth} levels; they must be 1 to {LARGEST_DEPTH}")
    outside = (codes < 0) | (codes > LARGEST_CODE)
    if outside.any():
        item = int(np.flatnonzero(outside.any(axis=1))[0])
        rule = f"codes must be 0 to {LARGEST_CODE}"
        if (codes == -1).any():
            rule += f", and {_SAME_DEPTH}"
        raise ValueError(
            f"{SETTING} {path}: {int(outside.any(axis=1).sum())} items have codes out of range, "
            f"first item {raw_item_ids[item]} with {codes[item].tolist()}; {rule}"
        )
    return codes.astype(np.int32)


def _read_index(path: Path, raw_item_ids: pl.Series) -> npt.NDArray[np.int64]:
    pairs = read_pairs(path, SETTING)
    sids = dict(pairs)
    if len(sids) < len(pairs):
        count = Counter(key for key, _ in pairs)
        twice = [shortened(key) for key, times in count.items() if times > 1][:10]
        raise ValueError(f"{SETTING} {path} repeats the items {', '.join(twice)}")
    wanted = raw_item_ids.to_list()
    missing = [item for item in wanted if item not in sids]
    if missing:
        raise ValueError(
            f"{SETTING} {path} has no SID for {len(missing)} of {len(wanted)} items, first "
            f"{', '.join(missing[:10])}"
        )
    first, letters = sids[wanted[0]], None
    rows: list[list[int]] = []
    for item in wanted:
        row, found = _parse(sids[item])
        letters = letters or found
        if row is None or found != letters:
            raise ValueError(
                f"{SETTING} {path}: item {item} has {_shown(sids[item])}, the first item "
                f'{_shown(first)}; a SID must be a list such as ["<a_183>", "<b_70>"] with one '
                f"letter a level, and {_SAME_DEPTH}"
            )
        rows.append(row)
    return np.array(rows, np.int64)


def _parse(tokens: Any) -> tuple[list[int] | None, list[str]]:
    """Codes, None where `tokens` is no SID, and the letter of each level ("" for plain numbers)."""
    if not isinstance(tokens, list) or not tokens:
        return None, []
    codes, letters = [], []
    for token in tokens:
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None and (not isinstance(token, int) or isinstance(token, bool)):
            return None, []
        # A number of any length is read, so that the range check can name it.
        codes.append(max(-1, min(int(match[2]) if match else token, LARGEST_CODE + 1)))
        letters.append(match[1] if match else "")
    return codes, letters


def _shown(tokens: Any) -> str:
    try:
        return shortened(str(tokens))
    except RecursionError:
        return "lists in lists"


def _read_grid(path: Path, raw_item_ids: pl.Series) -> npt.NDArray[np.int64]:
    try:
        _check_unpacked(path)
        table = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises all kinds
        # torch's own message advises to load the file in a way that runs its code.
        raise ValueError(f"{SETTING} {path} is not a file of one tensor") from error
    if not isinstance(table, torch.Tensor):
        raise ValueError(f"{SETTING} {path} holds a {type(table).__name__}; it must be a tensor")
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise ValueError(
            f"{SETTING} {path} holds {table.dtype}; it must be whole numbers (GRID writes item "
            "vectors to a file of the same name: take that of the step after)"
        )
    if not _is_plain(table):
        raise ValueError(
            f"{SETTING} {path} holds no plain tensor; save tensor.to_dense().contiguous()"
        )
    if table.ndim != 2 or table.shape[0] > LARGEST_DEPTH:
        raise ValueError(
            f"{SETTING} {path} has the shape {list(table.shape)}; it must be [levels, items] with "
            f"at most {LARGEST_DEPTH} levels (transpose it if it is [items, levels])"
        )
    column = raw_item_ids.cast(pl.Int64, strict=False)
    outside = column.is_null() | (column < 0) | (column >= table.shape[1])
    if outside.any():
        raise ValueError(
            f"{SETTING} {path} has the items 0 to {table.shape[1] - 1}, the catalogue "
            f"{int(outside.sum())} others, first {raw_item_ids.filter(outside).head(10).to_list()}"
        )
    codes: npt.NDArray[np.int64] = table.long().numpy().T[column.to_numpy()]
    return codes


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it has a number of its own at each place: one number may claim any shape."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_unpacked(path: Path) -> None:
    """Refuses an archive that unpacks to more than itself, which torch never writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"unpacks to {size} bytes")


def _read_rows(path: Path, raw_item_ids: pl.Series) -> npt.NDArray[np.int64]:
    try:
        codes = np.asarray(read_array(path))
    except ValueError as error:
        raise ValueError(f"{SETTING} {error}") from error
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise ValueError(f"{SETTING} {path} must be an array of whole numbers [items, levels]")
    if len(codes) != len(raw_item_ids):
        raise ValueError(
            f"{SETTING} {path} has {len(codes)} rows but the catalogue has {len(raw_item_ids)} "
            "items; save one row for each row of items.parquet"
        )
    return codes.astype(np.int64)
