"""Arrays of numbers in `.npy` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_array(path: Path) -> NDArray[Any]:
    """The array, on disk until it is used. Nothing in the file is executed.

    Raises ValueError for a file that is cut off, an archive or a pickle.
    """
    try:
        # A map, so that a header that claims more than there is takes no memory.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is parsed as Python, which raises all kinds
        # numpy's own message advises to load a pickle in a way that runs its code.
        raise ValueError(f"{path} is not an array of numbers, or is cut off") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError(f"{path} is not an array of numbers but an archive of arrays")
    return found
