"""`python -m benchmarks.gpu_guesses`: settings of the Triton kernels for cards that are not here.

Of the settings that a launch may take, the guess is the one whose compiled code, as
docs/gpu_static.csv has it, has the fewest instructions for an element of its tile, as long as an
eighth of the warps that a multiprocessor holds can be resident. Writes sm_80.json and sm_90.json of
glass_kernels/tuning, unless a card has measured them. Nothing here is a time.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import triton

from benchmarks.gpu_builds import Build, builds
from benchmarks.gpu_builds.table import Row, read_table
from glass_kernels import triton_tuning

FILES = {"sm_80": "sm_80", "sm_90a": "sm_90"}
"""Cards of docs/gpu_static.csv, and their files."""
LEAST_OCCUPANCY = 0.125
Entry = dict[str, Any]


def _tile(config: triton.Config) -> int:
    """Elements of a tile; SID-Tier's TILE counts events and codes already."""
    sizes = config.kwargs
    return int(sizes["TILE"] if "TILE" in sizes else prod(sizes.values()))


def cost(row: Row, config: triton.Config) -> tuple[bool, float]:
    """The least is the guess."""
    instructions = row.threads * row.instructions / _tile(config)
    return row.occupancy < LEAST_OCCUPANCY, instructions


def _name(build: Build) -> str:
    return triton_tuning.name_of(build.function)


def guess(case: Sequence[Build], rows: Mapping[str, Row], card: str) -> triton.Config:
    """Among builds of which a launch takes one."""
    best = min(case, key=lambda b: cost(rows[f"{b.kernel},{b.setting},{card}"], b.config))
    return best.config


def entries(
    kernel: str, cases: Sequence[Sequence[Build]], best: Sequence[triton.Config]
) -> list[Entry]:
    """Of cases that choose from the same settings, with their guesses: the commonest, and before it
    those that differ, by the constants on which the choice may depend."""
    commonest = triton_tuning.plain(Counter(best).most_common(1)[0][0])
    keys = triton_tuning.kernels()[kernel].keys
    found: list[Entry] = []
    for case, config in zip(cases, best, strict=True):
        when = {name: case[0].constants[name] for name in keys if name in case[0].constants}
        entry = {"when": when, "use": triton_tuning.plain(config)}
        if entry["use"] != commonest and entry not in found:
            found.append(entry)
    return [*found, {"when": {}, "use": commonest}]


def choices() -> list[tuple[str, list[Build]]]:
    """Kernels, and builds among which a launch takes one: where there are several."""
    cases: dict[tuple[str, str], list[Build]] = defaultdict(list)
    for build in builds():
        cases[build.case].append(build)
    named = [(_name(case[0]), case) for case in cases.values() if len(case) > 1]
    return [(kernel, case) for kernel, case in named if kernel in triton_tuning.kernels()]


def settings(card: str) -> dict[str, list[Entry]]:
    """For one of FILES, as its file has them. KeyError where the table lacks a row."""
    rows = read_table()
    alike: dict[tuple[str, tuple[str, ...]], list[list[Build]]] = defaultdict(list)
    for kernel, case in choices():
        alike[kernel, tuple(str(build.config) for build in case)].append(case)
    found: dict[str, list[Entry]] = defaultdict(list)
    for (kernel, _), mine in alike.items():
        found[kernel] += entries(kernel, mine, [guess(case, rows, card) for case in mine])
    return {kernel: found[kernel] for kernel in sorted(found)}


def main() -> int:
    for card, name in FILES.items():
        path = triton_tuning.FOLDER / f"{name}.json"
        if triton_tuning.read(name)["measured"] is not None:
            print(f"{path.name} was measured, and stays")
            continue
        text = json.dumps({"measured": None, "settings": settings(card)}, indent=1)
        partial = path.with_suffix(".tmp")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
        print(f"{path.name}: guesses")
    return 0


if __name__ == "__main__":
    sys.exit(main())
