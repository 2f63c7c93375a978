"""`python -m benchmarks.gpu_static`: what the Triton kernels need on cards that are not here.

Compiles each kernel for each card without one, and writes registers, spills, shared memory and
instructions of the machine code to docs/gpu_static.csv. Not a measurement of speed. The table holds
for one version of Triton. `--only TEXT` (may be repeated) prints rows that have TEXT and writes
nothing; `--list` compiles nothing and prints what would be.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter and compiling exclude each other
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # later versions change the default

import argparse
import contextlib
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from glass_kernels.sid_tier import triton_common, triton_embeddings, triton_kernel

TABLE = Path(__file__).parent.parent / "docs" / "gpu_static.csv"
CARDS = {"sm_80": 80, "sm_90a": 90, "sm_100a": 100}  # as Triton names them: A100, H100, B200
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TIERS = {"sid_tier": (4, 20, 255), "sid_tier_from_embeddings": (20, 255)}
DTYPES = (("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp32"))
POINTERS = {
    "item_ids": "*i64", "offsets": "*i64", "table": "*u8", "out": "*fp32", "partial": "*i32",
    "inverse_norms": "*fp32", "edges": "*fp32",
}  # fmt: skip
SIZES = {
    "num_users": "i32", "total": "i32", "num_items": "i32", "chunk": "i32", "num_cuts": "i32",
    "K": "i32", "D": "i32", "size": "i32",
}  # fmt: skip
ALIGNED = (*POINTERS, "vectors", "prototypes", "chunk", "K", "D", "size")


@dataclass(frozen=True)
class Build:
    """One kernel, with the setting that is compiled."""

    kernel: str
    setting: str
    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    config: triton.Config


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


def _config_name(config: triton.Config) -> str:
    sizes = " ".join(f"{name}={value}" for name, value in config.kwargs.items())
    return f"{sizes} warps={config.num_warps} stages={config.num_stages}"


def _table_builds() -> Iterator[Build]:
    function = triton_kernel._sid_tier_fwd_kernel.fn
    for tiers in TIERS["sid_tier"]:
        padded = triton.next_power_of_2(tiers)
        for config in triton_kernel.configs_for(128, padded):
            constants = {"N": tiers, "NT": padded, "NORMALIZE": True, **config.kwargs}
            name = f"N={tiers} {_config_name(config)}"
            types = POINTERS | SIZES
            yield Build("sid_tier", name, function, types, constants, config)


def _embedding_builds() -> Iterator[Build]:
    function = triton_embeddings._sid_tier_from_embeddings_fwd_kernel.fn
    for tiers in TIERS["sid_tier_from_embeddings"]:
        padded = triton.next_power_of_2(tiers)
        steps = padded.bit_length() - 1
        for config in triton_embeddings.configs_for(128, padded):
            for rows, prototypes in DTYPES:
                types = POINTERS | SIZES
                types |= {"vectors": f"*{rows}", "prototypes": f"*{prototypes}"}
                constants = {"N": tiers, "NT": padded, "STEPS": steps, "NORMALIZE": True}
                constants |= config.kwargs
                dtypes = rows if rows == prototypes else f"{rows} by {prototypes}"
                name = f"{dtypes} N={tiers} {_config_name(config)}"
                kernel = "sid_tier_from_embeddings"
                yield Build(kernel, name, function, types, constants, config)


def builds() -> Iterator[Build]:
    """Every kernel with every setting that it can pick for 128 codes."""
    yield from _table_builds()
    yield from _embedding_builds()
    block = {"ROWS": triton_common.MERGE_ROWS, "BLOCK": triton_common.MERGE_BLOCK}
    function = triton_common._merge_kernel
    constants = {"NORMALIZE": True, **block}
    types = POINTERS | SIZES
    yield Build("sid_tier merge", "", function, types, constants, triton.Config({}))


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """(resource usage, machine code) as the tools that come with Triton print them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
        commands = [TOOLS / "cuobjdump", "-res-usage"], [TOOLS / "nvdisasm", "-c"]
        usage, code = (
            subprocess.run(
                [*command, file.name], capture_output=True, text=True, check=True, env=environment
            ).stdout
            for command in commands
        )
    return usage, code


def compile_for(build: Build, card: str) -> Row:
    """Compiles for a card that need not be here."""
    names = build.function.arg_names
    signature = {name: build.types.get(name, "constexpr") for name in names}
    signature |= dict.fromkeys(build.constants, "constexpr")
    aligned = [i for i, n in enumerate(names) if n in ALIGNED and n not in build.constants]
    divisible = {(i,): [["tt.divisibility", 16]] for i in aligned}
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="rows that have this text")
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
    rows = [compile_for(*pair) for pair in chosen.values()]
    partial = TABLE.with_suffix(".partial")
    with contextlib.nullcontext(sys.stdout) if options.only else partial.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([getattr(row, field.name) for field in fields(Row)] for row in rows)
    if not options.only:
        partial.replace(TABLE)
    return int(any(row.stack_bytes or row.spills for row in rows))


if __name__ == "__main__":
    sys.exit(main())
