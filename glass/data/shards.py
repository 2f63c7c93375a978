"""A prepared data set whose events lie in several files, read some row groups at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from glass.data.dataset import SCHEMAS, Dataset
from glass.data.order import TRAIN
from glass.data.store import again, read_manifest, table_files

_SCHEMA = pl.DataFrame(schema=SCHEMAS["interactions.parquet"]).to_arrow().schema
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)


@dataclass(frozen=True)
class Shards:
    """Row groups of the events, each of whole users (docs/data.md)."""

    folder: Path
    manifest: dict[str, Any]
    files: NDArray[np.int64]
    """int64 [G] file of each row group."""
    groups: NDArray[np.int64]
    """int64 [G] its number in the file."""
    num_events: NDArray[np.int64]
    """int64 [G]"""

    @classmethod
    def of(cls, folder: Path | str) -> Shards:
        """Reads where the row groups lie, and no events.

        Raises:
            ValueError: `folder` is no prepared data set, or a file of it is damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        place = []
        for number, path in enumerate(table_files(folder, "interactions.parquet")):
            try:
                about = pq.read_metadata(path)
            except _DAMAGE as error:
                raise ValueError(f"{path} cannot be read ({error}): {again(folder)}") from error
            rows = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
            place += [(number, k, count) for k, count in enumerate(rows) if count]
        files, groups, counts = np.array(place, dtype=np.int64).reshape(-1, 3).T
        return cls(folder, manifest, files, groups, counts)

    _no_table: pl.DataFrame = field(default_factory=pl.DataFrame)

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return int(self.manifest["counts"].get("items", 0))

    def _problem(self, table: pa.Table) -> str | None:
        if not table.schema.equals(_SCHEMA):
            return f"has the columns {table.schema.names}, or other types"
        if any(column.null_count for column in table.columns):
            return "has missing values"
        items = table["item_id"].to_numpy()
        if len(items) and not 0 <= items.min() <= items.max() < self.num_items:
            return "has item ids out of range"
        return None

    def load(self, numbers: Sequence[int] | NDArray[np.int64]) -> Dataset:
        """The users of some row groups as a data set of their own: they are numbered anew.

        What is not about events is left out: there are no tables of items and users, and
        `train_counts` counts these users' events. No polars here: a process that was forked must
        not use it.

        Raises:
            ValueError: a file is damaged.
        """
        paths = table_files(self.folder, "interactions.parquet")
        parts = []
        for number in numbers:
            path = paths[int(self.files[number])]
            try:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    table = file.read_row_group(int(self.groups[number]), use_threads=False)
                problem = self._problem(table)
            except _DAMAGE as error:
                raise ValueError(
                    f"{path} cannot be read ({error}): {again(self.folder)}"
                ) from error
            if problem:
                raise ValueError(f"{path} {problem}: {again(self.folder)}")
            parts.append(table)
        columns = {
            name: pa.chunked_array([chunk for part in parts for chunk in part[name].chunks])
            .combine_chunks()
            .to_numpy(zero_copy_only=False)
            for name in SCHEMAS["interactions.parquet"]
        }
        _, starts = np.unique(columns["user_id"], return_index=True)
        starts = np.sort(starts)
        trained = columns["item_id"][columns["split"] == TRAIN]
        return Dataset(
            name=str(self.manifest.get("config", {}).get("name", self.folder.name)),
            items=columns["item_id"],
            times=columns["time"],
            groups=columns["group"],
            split=columns["split"],
            user_offsets=np.append(starts, len(columns["user_id"])),
            train_counts=np.bincount(trained, minlength=self.num_items),
            item_table=self._no_table,
            user_table=self._no_table,
            manifest=self.manifest,
        )
