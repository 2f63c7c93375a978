"""The fastest settings of the Triton kernels on a card, in the form in which they are shipped.

The processes that time operations run under GLASS_AUTOTUNE=1, and print what was fastest as a JSON
line. Together that is a file for glass_kernels/tuning, in place of its guesses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.output import Row

COLUMN = "settings"
Settings = dict[str, list[dict[str, Any]]]
"""By kernel: `when` and `use` of glass_kernels.triton_tuning."""


def show() -> None:
    """Prints this process's settings, if any kernel ran."""
    tuning = sys.modules.get("glass_kernels.triton_tuning")
    found = tuning.measured() if tuning is not None else {}
    if found:
        print(json.dumps({COLUMN: found}), flush=True)


def split(rows: Sequence[dict[str, Any]]) -> tuple[list[Row], Settings]:
    """The rows of a process's output, and the settings among them."""
    found = merged([row[COLUMN] for row in rows if COLUMN in row])
    return [row for row in rows if COLUMN not in row], found


def merged(parts: Sequence[Settings]) -> Settings:
    """Of two outcomes for one kind of launch the first counts."""
    found: Settings = {}
    for part in parts:
        for kernel, entries in part.items():
            known = found.setdefault(kernel, [])
            known += [new for new in entries if all(new["when"] != old["when"] for old in known)]
    return found


def write(folder: Path, card: Mapping[str, str], parts: Sequence[Settings]) -> Path | None:
    """`sm_90.json` or the like in `folder`; None if there is nothing to write."""
    name, found = card["card"].rpartition(", ")[2], merged(parts)
    if not found or not name.startswith("sm_"):
        return None
    about = {key: card[key] for key in ("card", "driver, highest clocks", "triton") if key in card}
    path = folder / f"{name}.json"
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps({"measured": about, "settings": found}, indent=1) + "\n")
    partial.replace(path)
    return path
