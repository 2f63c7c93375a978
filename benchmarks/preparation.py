"""`python -m benchmarks.preparation`: seconds and peak memory of preparing 10^6 to 10^8 events.

Each size is a Parquet table of events in the order of time, its users and items mixed: 100 events a
user, an item for every 10 events. It is prepared in a process of its own, whose peak resident
memory the system tells. Prints a table and writes it with a plot:

    python -m benchmarks.preparation --events 1e6 1e7 1e8 --output docs/preparation
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib import pyplot as plt
from tqdm import tqdm

from benchmarks.machine import describe
from benchmarks.output import Row, format_table, number, save_figure, write_csv

EVENTS_A_USER, EVENTS_AN_ITEM = 100, 10
CHUNK = 2_000_000
SECONDS_A_YEAR = 31_536_000


def write_events(path: Path, num_events: int, *, seed: int = 0) -> None:
    """Half of the events are of an item by Zipf's law, half of any item."""
    num_users = max(1, num_events // EVENTS_A_USER)
    num_items = max(1, num_events // EVENTS_AN_ITEM)
    names = ("user_id", "item_id", "timestamp")
    schema = pa.schema([(name, pa.int64()) for name in names])
    with pq.ParquetWriter(path, schema) as writer:
        for first in tqdm(range(0, num_events, CHUNK), desc=path.stem, disable=None):
            count = min(CHUNK, num_events - first)
            rng = np.random.default_rng([seed, first])
            popular = np.power(num_items + 1.0, rng.random(count)).astype(np.int64) - 1
            items = np.where(rng.random(count) < 0.5, popular, rng.integers(0, num_items, count))
            times = 1_600_000_000 + (np.arange(first, first + count) * SECONDS_A_YEAR) // num_events
            # Spread over 64 bits, as hashed ids are.
            users = rng.integers(0, num_users, count)
            columns = [users * 0x9E3779B97F4A7C1, items * 0x9E3779B97F4A7C1, times]
            writer.write_table(pa.table(columns, schema=schema))


def prepare_here(path: Path, folder: Path) -> Row:
    """Prepares the table in this process."""
    from glass.config import DataConfig
    from glass.data import prepare

    config = DataConfig(
        name="events", format="table", path=str(path), folder=str(folder), min_item_events=1
    )
    steps = seconds_of_steps()
    start = time.perf_counter()
    prepared = prepare(config)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    counts = json.loads((prepared / "manifest.json").read_text())["counts"]
    sizes: Row = {name: counts[name] for name in ("users", "items")}
    return {"seconds": seconds, "peak GiB": peak, **sizes, **steps}


def seconds_of_steps() -> Row:
    """Filled with what the preparation logs at its end."""
    found: Row = {}

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pairs = (part.rsplit(" ", 2) for part in record.getMessage().split(": ")[1].split(", "))
            found.update({f"{name} s": float(value) for name, value, _ in pairs})

    log = logging.getLogger("glass.data.assembly.steps")
    log.addHandler(Reader(logging.INFO))
    log.setLevel(logging.INFO)
    return found


def measure(num_events: int, folder: Path) -> Row:
    """Writes a table, prepares it in another process and removes both."""
    path = folder / f"events_{num_events}.parquet"
    write_events(path, num_events)
    with tempfile.TemporaryDirectory(dir=folder) as prepared:
        command = [sys.executable, "-m", "benchmarks.preparation", "--here", str(path), prepared]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        size = sum(file.stat().st_size for file in Path(prepared).rglob("*") if file.is_file())
    row: Row = json.loads(done.stdout.splitlines()[-1])
    row = {"events": num_events, **row, "us / event": 1e6 * number(row["seconds"]) / num_events}
    row |= {"source GB": path.stat().st_size / 1e9, "prepared GB": size / 1e9}
    path.unlink()
    return row


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time and memory against events, both logarithmic, beside lines of slope 1."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5))
    events = [number(row["events"]) for row in rows]
    for axes, name in zip(panels, ("seconds", "peak GiB"), strict=True):
        values = [number(row[name]) for row in rows]
        axes.loglog(events, values, "o-", label=name)
        if name == "seconds":
            line = [values[-1] * count / events[-1] for count in events]
            axes.loglog(events, line, ":", color="grey", label="linear in events")
        axes.set_xlabel("events")
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__)
    parser.add_argument("--events", type=float, nargs="+", default=[1e6, 1e7, 1e8])
    parser.add_argument("--output", type=Path, default=Path(".benchmarks/preparation"))
    parser.add_argument("--scratch", type=Path, help="folder for the tables; the system's")
    parser.add_argument("--here", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(prepare_here(*options.here)))
        return 0
    print("  ".join(f"{key} {value}" for key, value in describe().items()))
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        rows = [measure(int(count), Path(folder)) for count in options.events]
    print(format_table(rows))
    write_csv(rows, options.output.with_suffix(".csv"))
    plot(rows, options.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
