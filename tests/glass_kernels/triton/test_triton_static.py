"""The kernels compile for cards that are not here, as docs/gpu_static.csv says: a look at the table
itself, and a sample of it compiled again."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.gpu_builds import builds
from benchmarks.gpu_builds.cards import CARDS, occupancy
from benchmarks.gpu_builds.table import COLUMNS, Row, read_table

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = (
    "sid_tier,N=4 BK=64 TILE=4096 warps=8 stages=3,sm_90a",
    "sid_tier,N=255 BK=16 TILE=2048 warps=4 stages=3,sm_80",
    "sid_tier,N=20 BK=32 TILE=4096 warps=4 stages=3,gfx942",
    "sid_tier_from_embeddings,fp32 N=20 BE=64 BK=32 BD=32 warps=8 stages=1,sm_80",
    "sid_tier_from_embeddings,bf16 N=20 BE=64 BK=32 BD=32 warps=8 stages=1,sm_90a",
    "sid_tier_from_embeddings,fp16 N=255 BE=64 BK=16 BD=32 warps=8 stages=1,sm_100a",
    "sid_tier merge,,sm_90a",
    "bucket_history,BE=64 BK=64 warps=8 stages=3,sm_100a",
    "hard_search,M=30 BQ=32 BM=32 warps=4 stages=3,sm_90a",
    "hard_search_attention bag,,sm_80",
    "hard_search_attention,bf16 BD=64 BR=64 BV=64 warps=4 stages=3,sm_90a",
    "hard_search_attention,bf16 BD=128 BR=64 BV=32 warps=4 stages=2,gfx942",
    "hard_search_attention query grad,fp32 BD=128 BR=32 BV=16 warps=8 stages=1,sm_80",
    "hard_search_attention table grads,bf16 BD=128 BR=32 BV=64 warps=8 stages=2,sm_100a",
    "hard_search_attention table grads,bf16 BD=128 BR=32 BV=32 warps=4 stages=1,gfx942",
    "gated_fusion,bf16 BM=64 BN=64 BK=32 warps=4 stages=3,sm_100a",
    "gated_fusion alone,fp16 BM=64 BN=64 BK=32 warps=4 stages=3,gfx942",
    "gated_fusion backward,fp32 BM=8 BN=128 warps=4 stages=3,sm_80",
    "beam_step candidates,W=50 C=256 filter BW=16 BC=256 warps=8 stages=3,sm_80",
    "beam_step merge,fp32 TILE=4096 warps=8 stages=3,sm_90a",
    "beam_step rank,fp64 BI=64 BJ=64 warps=4 stages=3,sm_90a",
    "residual_quantize,fp32 BM=64 BK=64 BD=16 warps=8 stages=2,sm_90a",
    "codebook_assign,bf16 BM=128 BK=64 BD=64 warps=8 stages=3,sm_100a",
    "codebook_assign query grad,bf16 BD=256 BM=64 BK=32 warps=8 stages=1,sm_90a",
    "codebook_assign codebook grad,bf16 BD=128 BM=64 BK=32 warps=4 stages=2,sm_80",
    "codebook_assign codebook grad,bf16 BD=256 BM=16 BK=32 warps=8 stages=1,gfx942",
    "codebook_assign logit grads,fp32 BM=8 BK=256 warps=4 stages=3,sm_100a",
)
LEAST_OCCUPANCY = 1 / 8
PRODUCTS = (
    "sid_tier_from_embeddings", "hard_search_attention", "hard_search_attention query grad",
    "hard_search_attention table grads", "gated_fusion", "gated_fusion alone", "residual_quantize",
    "codebook_assign", "codebook_assign query grad", "codebook_assign codebook grad",
)  # fmt: skip
"""Kernels that multiply matrices."""


STOPPED_RUN = """
import sys
from pathlib import Path
from benchmarks import gpu_static
from benchmarks.gpu_builds.table import Row, read_table

folder = Path(sys.argv[1])
gpu_static.TABLE, gpu_static.STOPPED = folder / "table.csv", folder / "stopped" / "table.csv"
wanted, asked = list(gpu_static._wanted()), []
numbers = 128, 40, 0, 0, 1024, 0, 800, 0.5

def compiled(names, jobs, most):
    asked.append(len(names))
    for name in names[:most]:
        kernel, _, rest = name.partition(",")
        setting, _, card = rest.rpartition(",")
        yield Row(gpu_static.triton.__version__, kernel, setting, card, *numbers)
    if most < len(names):
        raise KeyboardInterrupt

for arguments, most in (([], 3), (["--new"], 4), (["--new"], 10**6), (["--new"], 0)):
    gpu_static._compiled = lambda names, jobs: compiled(names, jobs, most)
    try:
        gpu_static.main(arguments)
    except KeyboardInterrupt:
        assert not gpu_static.TABLE.exists()
assert asked == [len(wanted), len(wanted) - 3, len(wanted) - 7, 0], asked
assert list(read_table(gpu_static.TABLE)) == wanted
assert not gpu_static.STOPPED.exists()
"""


def run(*arguments: str) -> str:
    """A process of its own: this one interprets."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def table() -> dict[str, Row]:
    """Rows by name; of another Triton there are none."""
    found = read_table()
    if not found:
        pytest.skip("docs/gpu_static.csv is of another Triton")
    return found


def test_every_setting_is_in_the_table(table) -> None:
    wanted = [f"{build.kernel},{build.setting},{card}" for build in builds() for card in CARDS]
    assert list(table) == wanted


def test_no_spills_on_nvidia_and_enough_warps(table) -> None:
    for name, row in table.items():
        assert row.occupancy == occupancy(
            CARDS[row.card], row.threads, row.registers, row.shared_bytes
        ), name
        if row.card != "gfx942":
            assert not row.spilled, name
            assert row.occupancy >= LEAST_OCCUPANCY, name


def test_something_to_choose_on_amd_fits_without_spills(table) -> None:
    """Its autotuner times settings that spill, and drops those that do not fit."""
    fits: dict[tuple[str, str], bool] = {}
    for build in builds():
        row = table[f"{build.kernel},{build.setting},gfx942"]
        good = row.shared_bytes <= 65_536 and not row.spilled and row.occupancy >= LEAST_OCCUPANCY
        fits[build.case] = fits.get(build.case, False) or good
    assert [case for case, good in fits.items() if not good] == []


def test_products_are_made_by_tensor_cores(table) -> None:
    """All but those that must be IEEE float32, for which only AMD has matrix instructions."""
    for name, row in table.items():
        ieee = row.setting.startswith(("fp32", "bf16 by fp32")) or row.kernel == "residual_quantize"
        wanted = row.kernel in PRODUCTS and (row.card == "gfx942" or not ieee)
        assert (row.matrix > 0) == wanted, name


def test_every_kernel_is_compiled_again(table) -> None:
    assert set(SAMPLE) <= set(table)
    assert {table[name].kernel for name in SAMPLE} == {row.kernel for row in table.values()}
    assert {table[name].card for name in SAMPLE} == set(CARDS)


@pytest.mark.slow
@pytest.mark.static
def test_compiled_again() -> None:
    """With the Triton of the table to the last instruction; see why a number grew."""
    table = read_table()
    chosen = (word for name in SAMPLE for word in ("--only", name))
    printed = run("-m", "benchmarks.gpu_static", *chosen)
    again = {f"{row['kernel']},{row['setting']},{row['card']}": row
             for row in csv.DictReader(io.StringIO(printed))}  # fmt: skip
    assert set(again) == set(SAMPLE)
    for name, row in again.items():
        assert row["triton"] == version("triton")
        assert row["card"] == "gfx942" or row["stack_bytes"] == row["spills"] == "0", name
        if name in table:
            shown = {column: str(getattr(table[name], column)) for column in COLUMNS}
            shown["occupancy"] = f"{table[name].occupancy:g}"
            assert row == shown, name


@pytest.mark.slow
@pytest.mark.static
def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    run("-c", STOPPED_RUN, str(tmp_path))
