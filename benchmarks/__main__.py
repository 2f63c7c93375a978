"""`python -m benchmarks [name ...] [--quick]`: verify, time, print, write CSV."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import sid_tier
from benchmarks.timing import machine, print_table, write_csv

JOBS = {"sid_tier": sid_tier.run}


def main() -> int:
    """Exit status: 1 if a job could not run or was not correct; then it prints no number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join(JOBS)}")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(".benchmarks"))
    options = parser.parse_args()
    unknown = set(options.names) - set(JOBS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; try {', '.join(JOBS)}")
    torch.set_num_threads(options.threads)
    print(machine())
    failed = False
    for name in options.names or JOBS:
        try:
            rows = JOBS[name](options.quick)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        print_table(rows)
        write_csv(rows, options.output / f"{name}.csv")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
