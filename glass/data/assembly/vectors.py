"""Vectors that came with a source, in the order of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glass.data.assembly.catalogue import Lookup
from glass.data.assembly.keys import keys_of
from glass.data.raw import RawData


def write_vectors(raw: RawData, catalogue: Lookup, path: Path, seed: int) -> dict[str, Any] | None:
    """Writes int8 [V, D] through a memory map; an item without a vector has zeros.

    Returns:
        What the manifest says of them; None where the source has none.
    """
    if raw.vectors is None:
        return None
    known = np.zeros(len(catalogue), dtype=bool)
    file: Any = None
    for names, vectors in raw.vectors():
        if file is None:
            shape = (len(catalogue), vectors.shape[1])
            file = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=shape)
        items = catalogue.find(keys_of(names, seed))
        rows = np.flatnonzero(items >= 0)
        rows = rows[~known[items[rows]]]
        _, first = np.unique(items[rows], return_index=True)
        file[items[rows[first]]] = vectors[rows[first]]
        known[items[rows]] = True
    if file is None:
        return None
    file.flush()
    return {"width": int(file.shape[1]), "items": int(known.sum())}
