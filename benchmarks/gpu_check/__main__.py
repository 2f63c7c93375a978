"""`python -m benchmarks.gpu_check`: builds, tests, sanitizes and times on the card that is here."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_check import report, settings
from benchmarks.gpu_check.card import describe, measure_ceilings
from benchmarks.gpu_check.parts import PARTS, Found, Options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description="Builds for the card that is here, runs the tests that need one, "
        "compute-sanitizer on each kernel, and the benchmarks of operations and whole models; "
        "writes gpu_check.md and gpu_check.csv. Without a card it does what it can and says so.",
    )
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all of them)"
    )
    parser.add_argument("--output", type=Path, default=Path(".gpu_check"), help="folder")
    parser.add_argument("--quick", action="store_true", help="small sizes, a tenth of the time")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="at most, of one process (default: 20)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cpu: try the program itself")
    return parser


def _ceilings(device: str) -> dict[str, str]:
    floors, rates = measure_ceilings(device)
    found = {"copy, bytes read and written": f"{floors.copy_bytes / 1e9:,.0f} GB/s"}
    return found | {
        f"product, {name}": f"{rate / 1e3:,.1f} TFLOP/s" for name, rate in rates.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a part failed; what was left out is no failure."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = Options(
        device,
        "tiny" if device == "cpu" else "quick" if given.quick else "full",
        0.02 if device == "cpu" else 0.1 if given.quick else 0.5,
        given.minutes,
        given.output.absolute(),
    )
    card = describe(device)
    print("\n".join(f"{name:<22}{value}" for name, value in card.items()), flush=True)
    ceilings: dict[str, str] = {}
    found: list[Found] = []
    for name in given.parts or PARTS:
        start = time.perf_counter()
        print(f"{name} ...", flush=True)
        if name in ("ops", "models") and not ceilings:
            ceilings = _ceilings(device)
        part = PARTS[name](options)
        parts = part if isinstance(part, list) else [part]
        found += parts
        verdicts = ", ".join(dict.fromkeys(each.verdict for each in parts))
        print(f"{name}: {verdicts} in {time.perf_counter() - start:.0f} s", flush=True)
        path = report.write(options.output, card, ceilings, found)
        fastest = settings.write(options.output, card, [part.tuned for part in found])
    print(f"report: {path}")
    if fastest is not None:
        print(f"fastest settings: {fastest} (for glass_kernels/tuning, in place of what is there)")
    if device == "cpu":
        print("No CUDA device is visible to torch: what needs one was left out, see the report.")
    return int(any(part.failed for part in found))


if __name__ == "__main__":
    sys.exit(main())
