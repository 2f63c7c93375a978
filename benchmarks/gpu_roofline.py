"""`python -m benchmarks.gpu_roofline`: the least time on an A100 and an H100, predicted.

Nothing here was measured and no card is used: bytes, products and instructions of
`benchmarks.gpu_work` over the rates that NVIDIA states, the largest of the three. Writes
docs/gpu_roofline.csv and the table of docs/gpu_roofline.md.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_work import Work, works

PAGE = Path(__file__).parent.parent / "docs" / "gpu_roofline.md"
TABLE = PAGE.with_suffix(".csv")
LAUNCH_US = 3.0
"""Of one kernel from a host that does nothing else: a usual figure, not of a data sheet."""


@dataclass(frozen=True)
class Rates:
    """What a card does a second at most, dense, at its boost clock."""

    memory_bytes: float
    fp32_flops: float
    bf16_flops: float
    """On tensor cores."""
    multiprocessors: int
    clock: float
    """Of the data sheet's float32 rate."""

    @property
    def instructions(self) -> float:
        """Of threads: four schedulers a multiprocessor issue one of a warp each cycle."""
        return 4 * 32 * self.multiprocessors * self.clock


RATES = {
    # A100 80GB SXM data sheet (2021), and the whitepaper of the architecture for the last two
    "A100": Rates(2.039e12, 19.5e12, 312e12, 108, 1.41e9),
    # H100 SXM data sheet (2022); clock from 66.9 TFLOP/s = 132 x 128 x 2 x clock
    "H100": Rates(3.35e12, 67e12, 989e12, 132, 1.98e9),
}
PER_PAIR = {"A100": {4: 137 / 16, 20: 145 / 16}, "H100": {4: 149 / 16, 20: 160 / 16}}
"""Instructions of SID-Tier's counting loop for each (event, code), by tiers: those between the
loop's label and its branch in the machine code of the setting that has the fewest, BK=16, where a
thread has 16 pairs of a tile. Counted by hand."""


@dataclass(frozen=True)
class Prediction:
    """A row of docs/gpu_roofline.csv; microseconds."""

    call: str
    dtype: str
    card: str
    megabytes: float
    gigaflops: float
    launches: int
    memory_us: float
    products_us: float
    issue_us: float
    binds: str
    least_us: float
    launch_us: float


def predict(work: Work, card: str) -> Prediction:
    """Of a call on a card of `RATES`."""
    rates = RATES[card]
    rate = rates.fp32_flops if work.dtype == "fp32" else rates.bf16_flops
    num_bytes, flops = work.num_bytes + work.plain_bytes, work.flops + work.plain_flops
    per_pair = PER_PAIR[card][work.tiers] if work.pairs else 0.0
    times = {
        "memory": 1e6 * num_bytes / rates.memory_bytes,
        "products": 1e6 * flops / rate,
        "instructions": 1e6 * work.pairs * per_pair / rates.instructions,
    }
    binds = max(times, key=lambda name: times[name])
    return Prediction(
        work.call, work.dtype, card, num_bytes / 1e6, flops / 1e9, work.launches,
        times["memory"], times["products"], times["instructions"], binds, times[binds],
        LAUNCH_US * work.launches,
    )  # fmt: skip


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def csv_rows(found: Sequence[Prediction]) -> list[dict[str, str]]:
    return [{name: _cell(value) for name, value in vars(row).items()} for row in found]


def page_table(found: Sequence[Prediction]) -> str:
    """Of docs/gpu_roofline.md: a call a line."""
    lines = [
        "| call | products in | MB | GFLOP | A100, µs | H100, µs | binds | launches, µs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for first, second in zip(found[::2], found[1::2], strict=True):
        binds = dict.fromkeys((first.binds, second.binds))
        cells = (
            first.call, first.dtype if first.gigaflops else "", first.megabytes,
            first.gigaflops or "", first.least_us, second.least_us, ", ".join(binds),
            first.launch_us,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def predictions() -> list[Prediction]:
    return [predict(work, card) for work in works() for card in RATES]


def main() -> int:
    found = predictions()
    rows = csv_rows(found)
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text, table = PAGE.read_text(encoding="utf-8"), page_table(found)
    PAGE.write_text(re.sub(r"(?m)^\| call(?:.*\n)+?(?=\n)", f"{table}\n", text), encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
