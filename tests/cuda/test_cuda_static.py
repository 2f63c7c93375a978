"""CUDA kernels compiled for three generations of GPUs, without one: docs/gpu_static.md is true."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import shimmed

pytestmark = [pytest.mark.slow, pytest.mark.static]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu_static.md"
ARCHS = ("80", "90a", "100")
MANGLED = {
    "sid_tier_countILb1ELb1E": "`sid_tier_count`, words, N <= 4",
    "sid_tier_countILb1ELb0E": "`sid_tier_count`, words, N > 4",
    "sid_tier_countILb0ELb1E": "`sid_tier_count`, bytes, N <= 4",
    "sid_tier_countILb0ELb0E": "`sid_tier_count`, bytes, N > 4",
    "sid_tier_combine": "`sid_tier_combine`",
    "14bucket_historyE": "`bucket_history`",
    "11hard_searchE": "`hard_search`",
    "9beam_stepINS_7Image32ELi0E": "`beam_step`, float32",
    "9beam_stepINS_7Image32ELi1E": "`beam_step`, float16",
    "9beam_stepINS_7Image32ELi2E": "`beam_step`, bfloat16",
    "9beam_stepINS_7Image64ELi0E": "`beam_step`, float32 in float64",
    "9beam_stepINS_7Image64ELi1E": "`beam_step`, float16 in float64",
    "9beam_stepINS_7Image64ELi2E": "`beam_step`, bfloat16 in float64",
    "9beam_stepINS_7Image64ELi3E": "`beam_step`, float64",
    "15beam_step_mergeINS_7Image32E": "`beam_step_merge`, float32",
    "15beam_step_mergeINS_7Image64E": "`beam_step_merge`, float64",
}
USED = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s+ptxas info\s+: Used (\d+) registers(.*)"
)


def section() -> str:
    text = PAGE.read_text()
    return text[text.index("## CUDA\n") :].split("\n## ")[0]


def documented() -> dict[str, list[int]]:
    """Kernel -> registers on each architecture, from the page."""
    rows = re.findall(r"^\| (`.*?) \| (\d+) \| (\d+) \| (\d+) \|$", section(), re.MULTILINE)
    return {name: [int(x) for x in counts] for name, *counts in rows}


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = shutil.which("nvcc", path="/usr/local/cuda/bin") or shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc")
    known = subprocess.run([found, "--list-gpu-code"], capture_output=True, text=True, check=True)
    if "sm_100" not in known.stdout.split():
        pytest.skip("this nvcc does not know sm_100")
    return found


@pytest.mark.parametrize("arch", ARCHS)
def test_registers_and_no_spills(nvcc: str, arch: str, tmp_path: Path) -> None:
    flags = ["-std=c++20", "-O3", f"-arch=sm_{arch}", "-Xptxas=-v", "-cubin"]
    said = ""
    for source in sorted(shimmed.CUDA.glob("*.cu")):
        command = [nvcc, *flags, str(source), "-o", str(tmp_path / "cubin")]
        said += subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "warning" not in said
    found = {}
    for mangled, stack, stores, loads, registers, rest in USED.findall(said):
        name = next(name for part, name in MANGLED.items() if part in mangled)
        assert (stack, stores, loads) == ("0", "0", "0"), name
        assert "smem" not in rest, name  # all shared memory is dynamic
        assert int(registers) <= 64, name  # 1024 threads fit a multiprocessor
        found[name] = int(registers)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    written = documented()
    assert set(found) == set(written) == set(MANGLED.values())
    if re.search(r"nvcc (\S+)", section())[1] in version.stdout:  # another one may differ
        assert found == {name: counts[ARCHS.index(arch)] for name, counts in written.items()}


def test_shared_memory(sid_tier_shim: shimmed.SidTier) -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| (\d+) \|$", section(), re.MULTILINE)
    assert len(rows) == 5
    for tiers, shared, threads in rows:
        table = np.zeros((1, 128), dtype=np.uint8)
        ids, offsets = np.zeros(3, dtype=np.int32), np.array([0, 3])
        sid_tier_shim(ids, offsets, table, int(tiers))
        assert sid_tier_shim.shared_bytes() == int(shared.replace(",", "")), tiers
        assert int(shared.replace(",", "")) == int(threads) * (8 * int(tiers) + 8)
