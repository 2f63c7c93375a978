"""`python -m benchmarks.gpu_traffic`: what the Triton kernels move, counted without a card.

Triton's interpreter runs each kernel on the CPU; every load, store and atomic is counted where it
happens. Writes docs/gpu_traffic.csv, which tests compare with what they count themselves. Nothing
here is a time. `--only TEXT` prints the rows of jobs that have TEXT and writes nothing.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

from benchmarks import (
    codebook_assign,
    gated_fusion,
    hard_search,
    hard_search_attention,
    residual_quantize,
    sid_tier,
    sid_tier_embeddings,
    trie_step,
)
from benchmarks.contest import Contest
from benchmarks.gpu_check.jobs import (
    Job,
    of_attention,
    of_embeddings,
    of_fusion,
    of_quantize,
    of_search,
    of_sid_tier,
    of_step,
)
from benchmarks.gpu_check.ops import under
from benchmarks.machine import Floors
from benchmarks.output import Row, format_table

TABLE = Path(__file__).parent.parent / "docs" / "gpu_traffic.csv"
SECTOR = 32
"""Bytes that a GPU's memory moves at least."""


@dataclass
class Kernel:
    """Counts of all launches of one kernel."""

    launches: int = 0
    programs: int = 0
    load: int = 0
    """Bytes that programs ask for."""
    store: int = 0
    atomic: int = 0
    sectors: int = 0
    """Bytes of the sectors that each instruction touches: what the L2 cache delivers."""
    distinct: int = 0
    """Bytes of different sectors that a launch reads, and that it writes: what memory must move."""
    flops: int = 0
    """Of matrix products."""
    _touched: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def record(self, kind: str, pointers: Any, mask: Any, size: int) -> None:
        """One instruction: `pointers` with their `mask`, elements of `size` bytes."""
        chosen = np.broadcast_to(np.asarray(mask, dtype=bool), np.shape(pointers))
        first = np.asarray(pointers)[chosen].ravel().astype(np.int64)
        if not first.size:
            return
        setattr(self, kind, getattr(self, kind) + first.size * size)
        sectors = np.unique(np.concatenate((first // SECTOR, (first + size - 1) // SECTOR)))
        self.sectors += SECTOR * sectors.size * (2 if kind == "atomic" else 1)
        for way in {"load": ("read",), "store": ("write",), "atomic": ("read", "write")}[kind]:
            self._touched.setdefault(way, []).append(sectors)

    def end(self) -> None:
        """After a launch."""
        for parts in self._touched.values():
            self.distinct += SECTOR * np.unique(np.concatenate(parts)).size
        self._touched.clear()

    def counts(self) -> dict[str, int]:
        """By name, as in the table."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


@dataclass
class Traffic:
    """Kernels by name, in the order of their first launch."""

    kernels: dict[str, Kernel] = field(default_factory=dict)
    running: Kernel | None = None


def _element_bytes(pointers: Any) -> int:
    return max(1, int(pointers.get_element_ty().primitive_bitwidth) // 8)


@contextmanager
def counting() -> Iterator[Traffic]:
    """Counts what kernels do inside; only where Triton interprets."""
    builder, grid = interpreter.InterpreterBuilder, interpreter.GridExecutor
    traffic = Traffic()
    names = (
        "create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas",
        "create_dot", "set_grid_idx",
    )  # fmt: skip
    stock = {name: getattr(builder, name) for name in names}
    call = grid.__call__

    def counted(name: str, note: Callable[..., None]) -> Callable[..., Any]:
        def run(self: Any, *given: Any) -> Any:
            if traffic.running is not None:
                note(traffic.running, *given)
            return stock[name](self, *given)

        return run

    def load(kernel: Kernel, pointers: Any, mask: Any, *_: Any) -> None:
        kernel.record("load", pointers.data, mask.data, _element_bytes(pointers))

    def store(kernel: Kernel, pointers: Any, _: Any, mask: Any, *__: Any) -> None:
        kernel.record("store", pointers.data, mask.data, _element_bytes(pointers))

    def add(kernel: Kernel, _: Any, pointers: Any, __: Any, mask: Any, *___: Any) -> None:
        kernel.record("atomic", pointers.data, mask.data, _element_bytes(pointers))

    def swap(kernel: Kernel, pointers: Any, *_: Any) -> None:
        kernel.record("atomic", pointers.data, True, _element_bytes(pointers))

    def dot(kernel: Kernel, a: Any, b: Any, *_: Any) -> None:
        kernel.flops += 2 * int(np.prod(a.data.shape)) * int(b.data.shape[-1])

    def program(kernel: Kernel, *_: Any) -> None:
        kernel.programs += 1

    def launch(self: Any, *given: Any, **named: Any) -> Any:
        kernel = traffic.kernels.setdefault(self.fn.__name__, Kernel())
        traffic.running = kernel
        kernel.launches += 1
        try:
            return call(self, *given, **named)
        finally:
            kernel.end()
            traffic.running = None

    notes: tuple[Callable[..., None], ...] = (load, store, add, swap, dot, program)
    for name, note in zip(names, notes, strict=True):
        setattr(builder, name, counted(name, note))
    grid.__call__ = launch
    try:
        yield traffic
    finally:
        for name, method in stock.items():
            setattr(builder, name, method)
        grid.__call__ = call


def _title(name: str, job: Job) -> str:
    shown = ", ".join(f"{key} {value}" for key, value in job.columns.items() if value != "")
    return f"{name}: {shown}"


def rows_of(name: str, job: Job) -> list[Row]:
    """A row a kernel of one call; the last one's is their sum, beside the floor of the call."""
    contest = job.make("cpu")
    run = under("triton", contest.ours)
    with counting() as traffic:
        run(contest.batches[0])
    floor = job.floor(Floors(1e3, float("inf")), contest)  # milliseconds at 1,000 bytes a second
    title = _title(name, job)
    rows: list[Row] = []
    total = Counter[str]()
    for kernel, found in traffic.kernels.items():
        rows.append({"job": title, "kernel": kernel, **found.counts()})
        total.update(found.counts())
    ratios: Row = {"floor": round(floor)}
    for kind in ("distinct", "sectors"):
        ratios[f"{kind} / floor"] = round(total[kind] / floor, 3)
    rows.append({"job": title, "kernel": "all", **total, **ratios})
    return rows


def of_half_assign(setup: codebook_assign.Setup) -> Job:
    """`codebook_assign` in float16: in float32 most of its traffic is cuBLAS's."""

    def make(device: str) -> Contest:
        contest = codebook_assign.make_contest(setup, 1, device=device)
        return replace(contest, batches=[batch.to(torch.float16) for batch in contest.batches])

    def floor(floors: Floors, contest: Contest) -> float:
        rows, book = setup.rows, setup.codes * setup.width
        moved = 2 * (2 * rows * setup.width + book) + (8 + 8 + 4) * rows
        if setup.backward:
            moved += 2 * (3 * rows * setup.width + 2 * book) + (8 + 4) * rows
        return floors.ms(num_bytes=moved)

    columns: Row = {**setup.columns(), "dtype": "float16"}
    return Job(("codebook_assign",), columns, make, floor)


def cases() -> list[tuple[str, Job]]:
    """Jobs whose kernels are all Triton's, as small as whole tiles allow."""
    found = [("sid_tier", of_sid_tier(sid_tier.Setup(users=4, tiers=tiers))) for tiers in (4, 20)]
    embeddings = sid_tier_embeddings.Setup(20, users=4)
    found.append(("sid_tier_from_embeddings", of_embeddings(embeddings, compiled=False)))
    found.append(("hard_search", of_search(hard_search.Setup(users=4))))
    for backward in (False, True):
        layer = hard_search_attention.Setup(4, max_items=30, backward=backward)
        found.append(("hard_search_attention", of_attention(layer)))
    for backward in (False, True):
        fusion = gated_fusion.Setup(backward, rows=2_048, absent=0.0, compiled=False)
        found.append(("gated_fusion", of_fusion(fusion)))
    for backward in (False, True):
        assign = codebook_assign.Setup(backward, 2_048, 128, compiled=False)
        found.append(("codebook_assign", of_half_assign(assign)))
    quantize = residual_quantize.Setup(2_048, dim=64, compiled=False)
    found.append(("residual_quantize", of_quantize(quantize)))
    for level in (1, 2):
        found.append(("trie_beam_step", of_step(trie_step.Setup(12_000, level))))
    return found


def read_table() -> list[dict[str, str]]:
    """Rows of docs/gpu_traffic.csv."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="jobs that have this text")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, job in cases():
        if not given.only or any(text in _title(name, job) for text in given.only):
            rows += rows_of(name, job)
    print(format_table(rows))
    if not given.only:
        names = list(dict.fromkeys(name for row in rows for name in row))
        partial = TABLE.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
