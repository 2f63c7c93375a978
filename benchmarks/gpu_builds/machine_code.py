"""What a kernel's machine code takes, read from what the tools of NVIDIA and of LLVM print."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/", re.MULTILINE)
SASS_SPILL = re.compile(r"\b(?:STL|LDL)\b")
# of a warp (HMMA), of four warps (HGMMA, sm_90) and of a whole block (UTCHMMA, sm_100)
SASS_MATRIX = re.compile(r"\b(?:[A-Z]MMA|[A-Z]GMMA|UTC[A-Z]*MMA)\b")
GCN = re.compile(r"^\t(?:v|s|ds|buffer|global|flat|scratch)_\w+", re.MULTILINE)
GCN_SPILL = re.compile(r"^\tscratch_(?:load|store)_\w+", re.MULTILINE)
GCN_MATRIX = re.compile(r"^\tv_s?mfma\w*", re.MULTILINE)


@dataclass(frozen=True)
class MachineCode:
    """Of one kernel. Spills are instructions; bytes of stack are a spill too."""

    registers: int
    stack_bytes: int
    spills: int
    matrix: int
    """Instructions for tensor cores, AMD's matrix cores."""
    instructions: int


def of_cubin(cubin: bytes) -> MachineCode:
    """NVIDIA's, as the tools that come with Triton disassemble it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _said("cuobjdump", "-res-usage", file.name)
        return of_sass(usage, _said("nvdisasm", "-c", file.name))


def _said(tool: str, *arguments: str) -> str:
    environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
    command = [str(TOOLS / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def of_sass(usage: str, code: str) -> MachineCode:
    """Of the resource usage and the instructions. Raises RuntimeError if the first is none."""
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump says no registers: {usage}")
    registers, stack, local = map(int, found.groups())
    spills, matrix = len(SASS_SPILL.findall(code)), len(SASS_MATRIX.findall(code))
    return MachineCode(registers, stack + local, spills, matrix, len(SASS.findall(code)))


def of_gcn(assembly: str) -> MachineCode:
    """AMD's; accumulation registers are counted with the others, of whose file they are.

    Scalar registers are left out: those for which there is no room are kept in lanes of a vector
    register, not in memory. Raises RuntimeError if the metadata are not there.
    """
    numbers = dict(re.findall(r"^\s+-? ?(\.\w+):\s+(\d+)$", assembly, re.MULTILINE))
    try:
        registers = int(numbers[".vgpr_count"])
        stack = int(numbers[".private_segment_fixed_size"])
    except KeyError as error:
        raise RuntimeError(f"the assembly does not say {error}") from None
    spills, matrix = len(GCN_SPILL.findall(assembly)), len(GCN_MATRIX.findall(assembly))
    return MachineCode(registers, stack, spills, matrix, len(GCN.findall(assembly)))
