"""Compressed files, told by their first bytes whatever they are called.

Text files are read as they are: what unpacks while it is read may be small and never end.
"""

from __future__ import annotations

import re
from pathlib import Path

_KINDS = {
    "gzip": rb"\x1f\x8b",
    "zip": rb"PK(\x03\x04|\x05\x06)",
    "zstd": rb"\x28\xb5\x2f\xfd",
    "xz": rb"\xfd7zXZ\x00",
    # BZh alone may be the name of a column; a block, or the end of an empty file, follows.
    "bzip2": rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)",
}
_LONGEST = 10


def refuse_compressed(path: Path) -> None:
    """Raise ValueError for a file that is compressed; unpacks nothing.

    Raises OSError when it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST)
    for kind, pattern in _KINDS.items():
        if re.match(pattern, start, re.DOTALL):
            raise ValueError(f"{path} is compressed ({kind}); unpack it first")
