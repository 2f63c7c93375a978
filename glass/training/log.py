"""Metric log: JSONL that survives kills and resumes, CSV beside it, TensorBoard if wanted."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, float | int]


class MetricLog:
    """One row a log step, in `<folder>/<name>.jsonl`, `.csv` and optionally TensorBoard.

    Args:
        folder: created if missing.
        name: system, e.g. "glass".
        resume_step: rows after this step are dropped (a resumed run writes them again); 0 starts
            a new log.
        tensorboard: also write event files to `<folder>/tensorboard/<name>`.

    Raises:
        ValueError: `tensorboard` without the package.
    """

    def __init__(
        self, folder: Path, name: str, *, resume_step: int = 0, tensorboard: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.jsonl = folder / f"{name}.jsonl"
        self.csv = folder / f"{name}.csv"
        self.rows: list[Row] = [r for r in read_rows(self.jsonl) if r["step"] <= resume_step]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        temporary = self.jsonl.with_suffix(".jsonl.tmp")
        temporary.write_text(text)
        os.replace(temporary, self.jsonl)
        self._board = _board(folder / "tensorboard" / name, resume_step) if tensorboard else None

    def write(self, row: Row) -> None:
        """Appends one row; it must have `step`."""
        self.rows.append(row)
        with self.jsonl.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Writes the CSV: all columns that any row has."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        temporary = self.csv.with_suffix(".csv.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.csv)
        if self._board is not None:
            self._board.close()


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSONL log; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _board(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "train.tensorboard needs the tensorboard package: pip install 'glass-rec[tensorboard]'"
        ) from error
    return SummaryWriter(folder, purge_step=resume_step + 1)
