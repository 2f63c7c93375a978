"""`python -m benchmarks.gpu_static`: what the Triton kernels need on cards that are not here.

Compiles each kernel for each card without one, and writes registers, spills, shared memory and
instructions of the machine code to docs/gpu_static.csv. Not a measurement of speed. The table holds
for one version of Triton. `--only TEXT` (may be repeated) prints rows that have TEXT and writes
nothing; `--new` compiles only what the table lacks (remove the rows of a changed kernel first);
`--list` compiles nothing and prints what would be.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter and compiling exclude each other
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # later versions change the default

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gpu_builds import Build, builds

TABLE = Path(__file__).parent.parent / "docs" / "gpu_static.csv"
CARDS = {"sm_80": 80, "sm_90a": 90, "sm_100a": 100}  # as Triton names them: A100, H100, B200
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Row:
    """A row of docs/gpu_static.csv. Spills are instructions; bytes of stack are a spill too."""

    triton: str
    kernel: str
    setting: str
    card: str
    threads: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    instructions: int


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """(resource usage, machine code) as the tools that come with Triton print them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
        commands = ("cuobjdump", "-res-usage"), ("nvdisasm", "-c")
        usage, code = (
            subprocess.run(
                [str(TOOLS / tool), option, file.name],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            ).stdout
            for tool, option in commands
        )
    return usage, code


def compile_for(build: Build, card: str) -> Row:
    """Compiles for a card that need not be here."""
    names = build.function.arg_names
    signature = {n: "constexpr" if n in build.constants else build.types[n] for n in names}
    aligned = {n for n in build.aligned if n not in build.constants}
    aligned |= {n for n, kind in signature.items() if kind.startswith("*")}
    divisible = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n in aligned}
    source = ASTSource(build.function, signature, build.constants, attrs=divisible)
    target = GPUTarget("cuda", CARDS[card], 32)
    config = build.config
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    kernel = triton.compile(source, target=target, options=options)
    usage, code = _disassemble(kernel.asm["cubin"])
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump says no registers for {build.kernel}: {usage}")
    registers, stack, local = map(int, found.groups())
    return Row(
        triton.__version__, build.kernel, build.setting, card, 32 * config.num_warps, registers,
        stack + local, len(re.findall(r"\b(?:STL|LDL)\b", code)), kernel.metadata.shared,
        len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
    )  # fmt: skip


def _write(rows: Iterable[Row], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows([getattr(row, field.name) for field in fields(Row)] for row in rows)


def read_table() -> dict[str, Row]:
    """Rows of docs/gpu_static.csv for this Triton, by kernel, setting and card."""
    with TABLE.open() as file:
        rows = [(text[:4], map(int, text[4:])) for text in list(csv.reader(file))[1:]]
    return {
        f"{kernel},{setting},{card}": Row(version, kernel, setting, card, *numbers)
        for (version, kernel, setting, card), numbers in rows
        if version == triton.__version__
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="rows that have this text")
    parser.add_argument("--new", action="store_true", help="only what the table lacks")
    parser.add_argument("--list", action="store_true", help="print kernel, setting and card")
    options = parser.parse_args(arguments)
    chosen = {
        name: (build, card)
        for build in builds()
        for card in CARDS
        for name in [f"{build.kernel},{build.setting},{card}"]
        if not options.only or any(text in name for text in options.only)
    }
    if options.list:
        print("\n".join(chosen))
        return 0
    known = read_table() if options.new else {}
    rows = [known.get(name) or compile_for(*pair) for name, pair in chosen.items()]
    if options.only:
        _write(rows, sys.stdout)
    else:
        partial = TABLE.with_suffix(".partial")
        with partial.open("w") as file:
            _write(rows, file)
        partial.replace(TABLE)
    return int(any(row.stack_bytes or row.spills for row in rows))


if __name__ == "__main__":
    sys.exit(main())
