"""Arrays that several processes read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SharedArrays:
    """Named arrays in memory; those of a folder are in files too, and other processes map them.

    Args:
        arrays: by name.
        folder: new, of the files; None: this process alone reads the arrays.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]], folder: Path | None = None) -> None:
        self._arrays, self._folder = arrays, folder
        if folder is not None:
            folder.mkdir(parents=True)
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getstate__(self) -> Path:
        if self._folder is None:
            raise TypeError("arrays in memory alone cannot be read by another process")
        return self._folder

    def __setstate__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))
        }
