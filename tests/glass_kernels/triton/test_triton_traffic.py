"""docs/gpu_traffic.csv is what the kernels move, and the counting is right."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

if torch.cuda.is_available():
    pytest.skip("counted in the interpreter alone", allow_module_level=True)

from benchmarks import gpu_traffic


@triton.jit
def _copy_every_other(x, y, total, counts, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + 2 * place, mask=place < total, other=0.0)
    tl.store(y + place, value, mask=place < total)
    tl.atomic_add(counts, 1)


def test_bytes_sectors_and_programs_are_counted() -> None:
    x, y = torch.rand(200), torch.empty(100)
    counts = torch.zeros(1, dtype=torch.int32)
    base = [tensor.data_ptr() % gpu_traffic.SECTOR for tensor in (x, y)]
    assert base == [0, 0]
    with gpu_traffic.counting() as traffic:
        for _ in range(2):
            _copy_every_other[(4,)](x, y, 100, counts, BLOCK=32)
    (kernel,) = traffic.kernels.values()
    assert (kernel.launches, kernel.programs) == (2, 8)
    assert kernel.load == 2 * 400  # masked lanes ask for nothing
    assert kernel.store == 2 * 400
    assert kernel.atomic == 8 * 4
    # every sector of x has a number of those that are read; the last of y is half full
    read, written = 2 * 800, 2 * 416
    assert kernel.sectors == read + written + 8 * 2 * 32
    assert kernel.distinct == read + written + 2 * 2 * 32
    assert counts.item() == 8
    _copy_every_other[(4,)](x, y, 100, counts, BLOCK=32)
    assert kernel.launches == 2  # outside nothing is counted


@pytest.mark.static
@pytest.mark.parametrize(
    "name", list(dict.fromkeys(name for name, _ in gpu_traffic.cases())), ids=str
)
def test_the_table_is_what_the_kernels_move(name: str) -> None:
    """Made anew by `python -m benchmarks.gpu_traffic`; look at why a number grew."""
    counted = [row for job, case in gpu_traffic.cases() if job == name
               for row in gpu_traffic.rows_of(job, case)]  # fmt: skip
    table = gpu_traffic.read_table()
    stored = [row for row in table if row["job"].startswith(f"{name}:")]
    shown = [{key: str(row.get(key, "")) for key in table[0]} for row in counted]
    assert shown == stored


def test_streaming_kernels_stay_near_their_floors() -> None:
    """What memory must move at least; the two that gather rows of a table share what they read."""
    least = {row["job"].partition(":")[0]: float(row["distinct / floor"])
             for row in gpu_traffic.read_table() if row["kernel"] == "all"}  # fmt: skip
    for name in ("sid_tier", "sid_tier_from_embeddings", "hard_search"):
        assert least[name] <= 1.15
    forward = {row["job"].partition(":")[0]: float(row["distinct / floor"])
               for row in gpu_traffic.read_table()
               if row["kernel"] == "all" and ": pass forward" in row["job"]}  # fmt: skip
    for name in ("gated_fusion", "codebook_assign"):
        assert forward[name] <= 1.15
