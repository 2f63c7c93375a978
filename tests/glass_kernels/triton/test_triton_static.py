"""The kernels compile for cards that are not here, without spills, as docs/gpu_static.csv says."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = (
    "sid_tier,N=4 BK=64 TILE=4096 warps=8 stages=3,sm_90a",
    "sid_tier,N=255 BK=16 TILE=2048 warps=4 stages=3,sm_80",
    ",fp32 N=20 BE=64 BK=32 BD=32 warps=8 stages=1,sm_80",
    ",bf16 N=20 BE=64 BK=32 BD=32 warps=8 stages=1,sm_90a",
    ",fp16 N=255 BE=64 BK=16 BD=32 warps=8 stages=1,sm_100a",
    "sid_tier merge,,sm_90a",
    "bucket_history,BE=64 BK=64 warps=8 stages=3,sm_100a",
    "hard_search,M=30 BQ=32 BM=32 warps=4 stages=3,sm_90a",
    "hard_search_attention bag,,sm_80",
    "hard_search_attention,bf16 BD=64 BR=64 BV=64 warps=4 stages=3,sm_90a",
    "hard_search_attention query grad,fp32 BD=128 BR=32 BV=16 warps=8 stages=1,sm_80",
    "hard_search_attention table grads,bf16 BD=128 BR=32 BV=64 warps=8 stages=2,sm_100a",
    "gated_fusion,bf16 BM=64 BN=64 BK=32 warps=4 stages=3,sm_100a",
    "beam_step candidates,W=50 C=256 filter BW=16 BC=256 warps=8 stages=3,sm_80",
    "beam_step rank,fp64 BI=64 BJ=64 warps=4 stages=3,sm_90a",
    "residual_quantize,fp32 BM=64 BK=64 BD=16 warps=8 stages=2,sm_90a",
    "codebook_assign,bf16 BM=128 BK=64 BD=64 warps=8 stages=3,sm_100a",
    "codebook_assign query grad,bf16 BD=256 BM=64 BK=32 warps=8 stages=1,sm_90a",
    "codebook_assign codebook grad,bf16 BD=128 BM=64 BK=32 warps=4 stages=2,sm_80",
)
NUMBERS = ("registers", "stack_bytes", "spills", "shared_bytes")


def gpu_static(*arguments: str) -> str:
    """A process of its own: this one interprets."""
    command = [sys.executable, "-m", "benchmarks.gpu_static", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text: str) -> dict[str, dict[str, str]]:
    found = csv.DictReader(io.StringIO(text))
    return {f"{row['kernel']},{row['setting']},{row['card']}": row for row in found}


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    return rows((ROOT / "docs" / "gpu_static.csv").read_text())


@pytest.mark.slow
@pytest.mark.static
def test_table_has_every_setting_and_no_spill(table) -> None:
    assert list(table) == gpu_static("--list").splitlines()
    for row in table.values():
        assert row["stack_bytes"] == row["spills"] == "0"


@pytest.mark.slow
@pytest.mark.static
def test_compiled_again(table) -> None:
    again = rows(gpu_static(*(word for name in SAMPLE for word in ("--only", name))))
    assert len(again) == len(SAMPLE)
    for name, row in again.items():
        if row["triton"] == version("triton") == table[name]["triton"]:
            assert [row[n] for n in NUMBERS] == [table[name][n] for n in NUMBERS], name
