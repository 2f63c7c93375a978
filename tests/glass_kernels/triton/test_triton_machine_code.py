"""How machine code is read, and how many of a kernel's warps a card can hold."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
import triton

from benchmarks.gpu_builds.cards import CARDS, occupancy
from benchmarks.gpu_builds.machine_code import MachineCode, of_gcn, of_sass
from benchmarks.gpu_builds.table import Row, read_table, write_table

CALCULATOR = Path(__file__).with_name("occupancy.cpp")

SASS = """
.text._kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   HFMA2.MMA R9, -RZ, RZ, 0, 0 ;
.L_x_1:
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0030*/              @!P0 HGMMA.64x64x16.F32.BF16 R24, R8, gdesc[UR4], R24 ;
        /*0040*/                   UTCHMMA gdesc[UR8], gdesc[UR10], tmem[UR4] ;
        /*0050*/                   STL [R1+0x10], R4 ;
        /*0060*/              @P1  LDL.64 R4, [R1+0x10] ;
        /*10070*/                  EXIT ;
"""
GCN = """
_kernel:
	s_load_dwordx2 s[2:3], s[0:1], 0x0
	v_mfma_f32_32x32x8_bf16 v[2:17], v[64:65], v[66:67], v[2:17]
	v_smfmac_f32_16x16x32_bf16 v[2:5], v[6:7], v[8:11], v1
	v_accvgpr_write_b32 a0, v1
	scratch_store_dwordx2 off, v[1:2], s33
	scratch_load_dword v1, off, s33 ; 4-byte Folded Reload
	buffer_load_dword v1, v2, s[4:7], 0 offen
	ds_write_b32 v1, v2
	global_store_dword v1, v2, s[4:5]
	s_endpgm
	.amdhsa_next_free_vgpr 84
; v_not_an_instruction
  - .agpr_count:     16
    .private_segment_fixed_size: 12
    .vgpr_count:     84
    .vgpr_spill_count: 3
"""


def test_nvidia_code_is_read() -> None:
    usage = "Function _kernel:\n REG:42 STACK:16 SHARED:0 LOCAL:8 CONSTANT[0]:568"
    assert of_sass(usage, SASS) == MachineCode(42, 24, spills=2, matrix=3, instructions=8)
    with pytest.raises(RuntimeError, match="no registers"):
        of_sass("nothing", SASS)


def test_amd_code_is_read() -> None:
    assert of_gcn(GCN) == MachineCode(84, 12, spills=2, matrix=2, instructions=10)
    with pytest.raises(RuntimeError, match=r"\.vgpr_count"):
        of_gcn(GCN.replace(".vgpr_count:", ".other:"))


@pytest.mark.parametrize(
    ("card", "threads", "registers", "shared", "expected"),
    [
        # 64 registers of 32 lanes: 8 warps in each of 4 parts of 16,384 registers
        ("sm_80", 128, 64, 0, 32 / 64),
        ("sm_80", 128, 65, 0, 28 / 64),  # as 72: 7 warps a part
        ("sm_80", 256, 65, 0, 24 / 64),  # 28 warps hold 3 blocks of 8
        ("sm_90a", 128, 32, 0, 1),
        ("sm_90a", 128, 16, 0, 1),  # 64 warps at most
        ("sm_90a", 32, 16, 0, 32 / 64),  # 32 blocks at most
        ("sm_80", 128, 32, 40 << 10, 16 / 64),  # 4 of 41 KiB in 164
        ("sm_90a", 128, 32, 40 << 10, 20 / 64),  # 5 in 228
        ("sm_80", 128, 32, 163 << 10, 4 / 64),
        ("sm_80", 128, 32, (163 << 10) + 1, 0),
        ("gfx942", 256, 64, 0, 1),  # 8 waves a SIMD, of 512 registers
        ("gfx942", 256, 65, 0, 28 / 32),
        ("gfx942", 512, 84, 0, 16 / 32),  # 5 waves a SIMD: 20 hold 2 blocks of 8
        ("gfx942", 256, 512, 0, 4 / 32),
        ("gfx942", 512, 512, 0, 0),
        ("gfx942", 256, 32, 32 << 10, 8 / 32),
        ("gfx942", 256, 32, 64 << 10, 4 / 32),
        ("gfx942", 256, 32, (64 << 10) + 1, 0),
    ],
)
def test_occupancy_by_hand(
    card: str, threads: int, registers: int, shared: int, expected: float
) -> None:
    assert occupancy(CARDS[card], threads, registers, shared) == expected


def test_occupancy_is_that_of_nvidias_calculator(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    if compiler is None or not (headers / "cuda_occupancy.h").exists():
        pytest.skip("no g++, or a Triton without the header")
    command = [compiler, "-std=c++17", "-isystem", str(headers), str(CALCULATOR)]
    subprocess.run([*command, "-o", str(tmp_path / "occupancy")], check=True)
    sizes = (0, 1, 1 << 10, 12_345, 48 << 10, 73_728, 163 << 10, 166_913)
    cases = list(product((8, 9, 10), (32, 128, 256, 512, 1024), range(1, 256, 2), sizes))
    given = "\n".join(" ".join(map(str, case)) for case in cases)
    said = subprocess.run(
        [tmp_path / "occupancy"], input=given, capture_output=True, text=True, check=True
    ).stdout.split()
    cards = {8: CARDS["sm_80"], 9: CARDS["sm_90a"], 10: CARDS["sm_100a"]}
    for (major, threads, registers, shared), blocks in zip(cases, said, strict=True):
        held = occupancy(cards[major], threads, registers, shared) * 64
        assert held == int(blocks) * threads // 32, (major, threads, registers, shared)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, numbers = tmp_path / "table.csv", (128, 40, 0, 0, 1024, 8, 800)
    rows = [Row(triton.__version__, "op", "BM=1", "sm_80", *numbers, occupancy=0.1875),
            Row(triton.__version__, "op", "BM=1", "sm_90a", *numbers, occupancy=1.0)]  # fmt: skip
    other = Row("0.0", "op", "BM=1", "sm_80", *numbers, occupancy=1.0)
    write_table([*rows, other], path)
    assert list(read_table(path).values()) == rows  # those of another Triton are left out
    assert read_table(tmp_path / "none.csv") == {}
