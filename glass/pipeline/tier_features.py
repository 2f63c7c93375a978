"""SID-Tier of every sample as one Parquet file, for other programs and for looking at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from glass.config import ModelConfig
from glass.data.batches import Collator, sequential_batches
from glass.data.order import SPLITS
from glass.models.tiers import fit_tiers
from glass.sid.files import replaced_file

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid.table import SidTable

FORMAT_VERSION = 1
"""Raise when the same settings, data and SIDs come to give another file."""
METADATA = b"glass_tier_features"
_SETTINGS = ("tier_edges", "num_tiers", "short_length", "long_history")
_REMEDY = "run `glass sid tiers` with this config"


def features_key(config: ModelConfig, table: SidTable, dataset: Dataset) -> str:
    """Hash of all that decides the counts: events, codes, vectors, edges and history settings."""
    codes, vectors = (
        hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        for array in (table.codes[:, 0], table.vectors)
    )
    settings = {name: getattr(config, name) for name in _SETTINGS}
    data = dataset.manifest.get("fingerprint")
    given = [FORMAT_VERSION, data, table.codebook_sizes[0], codes, vectors, settings]
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]


def write_tier_features(
    path: Path | str,
    config: ModelConfig,
    table: SidTable,
    dataset: Dataset,
    *,
    batch_size: int = 4096,
) -> TierFeatures:
    """Writes the counts of all samples of all splits, unless `path` holds just these already.

    One row a sample: `split` str, `sample` i64 (row of `dataset.samples(split)`), `user` i32, and
    `counts`, a fixed-size list of K * N i32: events of the searched history by code and tier, code
    by code. A row group holds `batch_size` samples of one split; no more is in memory.

    Raises:
        OSError: the file cannot be written.
    """
    path, key = Path(path), features_key(config, table, dataset)
    if (found := _stored(path)) is not None and found.get("key") == key:
        return TierFeatures.load(path, config, table, dataset)
    tiers = fit_tiers(config, table, dataset)
    shape = (tiers.num_codes, tiers.num_tiers)
    about = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "data": dataset.name,
        "num_codes": shape[0],
        "edges": tiers.edges.tolist(),
        "samples": {split: len(dataset.samples(split)) for split in SPLITS},
    }
    schema = _schema(shape[0] * shape[1]).with_metadata({METADATA: json.dumps(about).encode()})
    with (
        replaced_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        for split in SPLITS:
            samples = dataset.samples(split)
            collate = Collator(
                dataset,
                samples,
                short_length=config.short_length,
                long_history=config.long_history,
            )
            for rows in sequential_batches(len(samples), batch_size):
                batch = collate(rows)
                counts = tiers.histogram(batch.long_items, batch.long_offsets, normalize=False)
                values = pa.array(counts.numpy().astype(np.int32).reshape(-1))
                columns = [
                    pa.array([split] * len(rows)),
                    pa.array(rows.astype(np.int64)),
                    pa.array(samples.users[rows]),
                    pa.FixedSizeListArray.from_arrays(values, counts[0].numel()),
                ]
                file.write_table(pa.Table.from_arrays(columns, schema=schema))
    return TierFeatures.load(path, config, table, dataset)


@dataclass(frozen=True)
class TierFeatures:
    """What `write_tier_features` wrote; counts are read when asked for."""

    path: Path
    """The file."""
    edges: tuple[float, ...]
    """N + 1 edges of the tiers."""
    num_codes: int
    """K."""
    num_samples: dict[str, int]
    """Samples of each split."""

    @classmethod
    def load(
        cls, path: Path | str, config: ModelConfig, table: SidTable, dataset: Dataset
    ) -> TierFeatures:
        """The features of these settings, SIDs and data.

        Raises:
            ValueError: there is no such file, it is damaged, or it was made from other settings,
                SIDs or data.
        """
        path = Path(path)
        about = _stored(path)
        if about is None:
            raise ValueError(f"{path} holds no tier features; {_REMEDY}")
        if about.get("key") != features_key(config, table, dataset):
            raise ValueError(
                f"{path} was made from other settings, semantic IDs or data, or by another "
                f"version; {_REMEDY}"
            )
        return cls(path, tuple(about["edges"]), about["num_codes"], about["samples"])

    @property
    def num_tiers(self) -> int:
        """N."""
        return len(self.edges) - 1

    def batches(self, split: str) -> Iterator[tuple[slice, npt.NDArray[np.int32]]]:
        """(rows of the split, counts int32 [rows, K, N]), one row group after another.

        Raises:
            ValueError: an unknown split, or a damaged file.
        """
        if split not in self.num_samples:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(self.num_samples)}")
        skipped = sum(self.num_samples[s] for s in list(SPLITS)[: list(SPLITS).index(split)])
        try:
            with pq.ParquetFile(self.path) as file:
                seen = 0
                for group in range(file.metadata.num_row_groups):
                    first, seen = seen - skipped, seen + file.metadata.row_group(group).num_rows
                    if 0 <= first < self.num_samples[split]:
                        yield self._group(file, group, split, first)
        except (OSError, pa.ArrowException, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.path} is damaged ({reason}); delete it and {_REMEDY}"
            ) from error

    def _group(
        self, file: pq.ParquetFile, group: int, split: str, first: int
    ) -> tuple[slice, npt.NDArray[np.int32]]:
        table = file.read_row_group(group)
        rows = slice(first, first + len(table))
        wanted = np.arange(rows.start, rows.stop)
        if not np.array_equal(table["sample"].to_numpy(), wanted) or set(
            table["split"].to_pylist()
        ) != {split}:
            raise ValueError(
                f"{self.path} is damaged (samples are missing or out of order); delete it and "
                f"{_REMEDY}"
            )
        values = table["counts"].combine_chunks().flatten().to_numpy()
        return rows, values.reshape(len(table), self.num_codes, self.num_tiers)

    def counts(self, split: str) -> npt.NDArray[np.int32]:
        """Counts int32 [S, K, N] of all samples of a split, as `sid_tier(normalize=False)`."""
        shape = (self.num_samples.get(split, 0), self.num_codes, self.num_tiers)
        result = np.zeros(shape, dtype=np.int32)
        for rows, counts in self.batches(split):
            result[rows] = counts
        return result

    def fractions(self, split: str) -> npt.NDArray[np.float32]:
        """Fractions float32 [S, K, N] of all samples of a split: the very numbers of `sid_tier`."""
        shape = (self.num_samples.get(split, 0), self.num_codes, self.num_tiers)
        result = np.zeros(shape, dtype=np.float32)
        for rows, counts in self.batches(split):
            length = counts[:, :1].sum(axis=2, keepdims=True)  # of any code: all events
            result[rows] = counts / np.maximum(length, 1).astype(np.float64)
        return result


def _schema(width: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("split", pa.string(), nullable=False),
            pa.field("sample", pa.int64(), nullable=False),
            pa.field("user", pa.int32(), nullable=False),
            pa.field("counts", pa.list_(pa.int32(), width), nullable=False),
        ]
    )


def _stored(path: Path) -> dict[str, Any] | None:
    """What a file says about itself; None where there is none or it is no such file."""
    try:
        about: Any = json.loads((pq.read_schema(path).metadata or {})[METADATA])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return about if isinstance(about, dict) else None
