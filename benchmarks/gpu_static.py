"""`python -m benchmarks.gpu_static`: what the Triton kernels need on cards that are not here.

Compiles each kernel for each card without one, and writes registers, spills, shared memory,
instructions and the occupancy that these allow to docs/gpu_static.csv. Not a measurement of speed.
The table holds for one version of Triton. `--only TEXT` (may be repeated) prints rows that have
TEXT and writes nothing; `--new` compiles only what the table lacks (remove the rows of a changed
kernel first) and goes on where a run was stopped; `--list` compiles nothing and prints what would
be.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter and compiling exclude each other
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # later versions change the default

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from typing import Any

import triton
from tqdm import tqdm
from triton.compiler import ASTSource

from benchmarks.gpu_builds import Build, builds
from benchmarks.gpu_builds.cards import CARDS, occupancy
from benchmarks.gpu_builds.machine_code import of_cubin, of_gcn
from benchmarks.gpu_builds.table import TABLE, Row, read_table, write_rows, write_table

STOPPED = TABLE.parents[1] / ".benchmarks" / TABLE.name
"""Rows of a run that has not come to its end."""


@cache
def _wanted() -> dict[str, tuple[Build, str]]:
    """Builds with their cards, by the names of their rows."""
    return {
        f"{build.kernel},{build.setting},{card}": (build, card)
        for build in builds()
        for card in CARDS
    }


def _source(build: Build, backend: str) -> ASTSource:
    """The kernel for arguments as they ordinarily are: see `Build`."""
    names = build.function.arg_names
    signature = {n: "constexpr" if n in build.constants else build.types[n] for n in names}
    known: dict[Any, Any] = {}
    for place, name in enumerate(names):
        pointer = signature[name].startswith("*")
        if pointer or (name in build.aligned and name not in build.constants):
            known[(place,)] = [["tt.divisibility", 16]]
        if pointer and backend == "hip":  # which has short addresses for such
            known[(place,)].append(["tt.pointer_range", 32])
    return ASTSource(build.function, signature, build.constants, attrs=known)


def compile_for(build: Build, card: str) -> Row:
    """Compiles for a card that need not be here."""
    target, config = CARDS[card].target, build.config
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    kernel = triton.compile(_source(build, target.backend), target=target, options=options)
    hip = target.backend == "hip"
    code = of_gcn(kernel.asm["amdgcn"]) if hip else of_cubin(kernel.asm["cubin"])
    threads, shared = target.warp_size * config.num_warps, kernel.metadata.shared
    return Row(
        triton.__version__, build.kernel, build.setting, card, threads, code.registers,
        code.stack_bytes, code.spills, shared, code.matrix, code.instructions,
        occupancy(CARDS[card], threads, code.registers, shared),
    )  # fmt: skip


def _row_of(name: str) -> Row:
    return compile_for(*_wanted()[name])


def _leave_stops_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _compiled(names: Sequence[str], jobs: int) -> Iterator[Row]:
    """Rows in the order in which they are made, by as many processes."""
    if min(jobs, len(names)) <= 1:
        yield from map(_row_of, names)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(names)), context, _leave_stops_to_parent) as pool:
        pending = [pool.submit(_row_of, name) for name in names]
        try:
            for done in as_completed(pending):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="rows that have this text")
    parser.add_argument("--new", action="store_true", help="only what the table lacks")
    parser.add_argument("--list", action="store_true", help="print kernel, setting and card")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    only = options.only
    chosen = [name for name in _wanted() if not only or any(text in name for text in only)]
    if options.list:
        print("\n".join(chosen))
        return 0
    known = (read_table(STOPPED) or read_table(TABLE)) if options.new else {}
    rows = {name: known[name] for name in chosen if name in known}
    lacking = [name for name in chosen if name not in rows]
    STOPPED.parent.mkdir(parents=True, exist_ok=True)
    progress = tqdm(_compiled(lacking, options.jobs), total=len(lacking), unit="kernel")
    for row in progress:
        rows[row.name] = row
        if not only:  # so that a stop, however rude, loses nothing
            write_table(rows.values(), STOPPED)
    ordered = [rows[name] for name in chosen]
    if only:
        write_rows(ordered, sys.stdout)
        return 0
    write_table(ordered, TABLE)
    STOPPED.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; --new goes on")
