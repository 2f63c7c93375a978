"""`python -m benchmarks [job ...]`: verify, time, print; a CSV and a plot for each job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import (
    codebook_assign,
    gated_fusion,
    generation,
    generation_growth,
    hard_search,
    hard_search_attention,
    hard_search_growth,
    intrr_generation,
    intrr_training,
    recursive_assignment,
    residual_quantize,
    serving,
    sid_tier,
    sid_tier_embeddings,
    sid_tier_growth,
    sid_tier_update,
    training_step,
    trie_build,
    trie_decode,
    trie_growth,
    trie_step,
    union,
)
from benchmarks.machine import Floors, describe, measure_floors
from benchmarks.output import Row, format_table, write_csv
from benchmarks.timing import CLOCKS, Clock


@dataclass(frozen=True)
class Job:
    run: Callable[[bool, Floors], list[Row]]
    plot: Callable[[list[Row], Path], None]
    summary: str | None


MODULES = (
    sid_tier,
    sid_tier_embeddings,
    sid_tier_growth,
    sid_tier_update,
    hard_search,
    hard_search_growth,
    hard_search_attention,
    gated_fusion,
    training_step,
    generation,
    generation_growth,
    serving,
    trie_decode,
    trie_step,
    trie_growth,
    trie_build,
    residual_quantize,
    codebook_assign,
    recursive_assignment,
    intrr_training,
    intrr_generation,
    union,
)
JOBS = {
    module.__name__.rpartition(".")[2]: Job(module.run, module.plot, module.__doc__)
    for module in MODULES
}


def make_parser() -> argparse.ArgumentParser:
    jobs = "\n".join(f"  {name:<22} {job.summary}" for name, job in JOBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n\njobs:\n{jobs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="job", help="name of a job, or all; without one they are listed"
    )
    parser.add_argument("--list", action="store_true", help="list the jobs and stop")
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes; under two minutes in all"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N",
        help="numbers of threads, one after another (default: 1 and 2; with --quick 1)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path(".benchmarks"), help="folder of the CSVs and plots"
    )
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall",
        help="cpu: time of one thread without what other processes take, for a busy machine; more "
        "threads are timed by the wall clock",
    )  # fmt: skip
    return parser


def use_threads(count: int, clock: str) -> None:
    torch.set_num_threads(count)
    Clock.use(clock, count)


def run_job(
    name: str,
    job: Job,
    threads: Sequence[int],
    floors: dict[int, Floors],
    options: argparse.Namespace,
) -> bool:
    """Whether the job ran and every side was right; if not, no number of it is printed."""
    rows: list[Row] = []
    for count in threads:
        use_threads(count, options.clock)
        try:
            found = job.run(options.quick, floors[count])
        except RuntimeError as error:
            print(f"{name}, {count} thread(s): {error}", file=sys.stderr)
            return False
        rates: Row = {"copy GB/s": floors[count].copy_bytes / 1e9}
        rates["GEMM GFLOP/s"] = floors[count].gemm_flops / 1e9
        rows += [{"threads": count, "clock": Clock.name, **row, **rates} for row in found]
    print(f"\n{name}: {job.summary}\n{format_table(rows)}", flush=True)
    write_csv(rows, options.output / f"{name}.csv")
    job.plot(rows, options.output / f"{name}.png")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 if a job could not run or was not right."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    unknown = set(options.jobs) - {"all", *JOBS}
    if unknown:
        parser.error(f"no job is called {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}")
    if options.list or not (options.jobs or options.quick):
        for name, job in JOBS.items():
            print(f"{name:<22} {job.summary}")
        return 0
    threads = options.threads or ([1] if options.quick else [1, 2])
    if min(threads) < 1:
        parser.error(f"--threads must be positive, was {threads}")
    print("  ".join(f"{key} {value}" for key, value in describe().items()))
    floors = {}
    for count in threads:
        use_threads(count, options.clock)
        floors[count] = measure_floors(5 if options.quick else 15)
        print(f"{count} thread(s): {floors[count]}", flush=True)
    if max(threads) > (os.cpu_count() or 1):
        print(f"{max(threads)} threads on {os.cpu_count()} cores: expect no gain", file=sys.stderr)
    every = "all" in options.jobs or not options.jobs
    names = list(JOBS) if every else options.jobs
    ran = [run_job(name, JOBS[name], threads, floors, options) for name in names]
    return 0 if all(ran) else 1


if __name__ == "__main__":
    sys.exit(main())
