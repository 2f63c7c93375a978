"""The items of a saved model: ids and titles that people know, and settings of the ranking."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from glass.sid.files import replaced_file

if TYPE_CHECKING:
    from glass.config import RunConfig
    from glass.data import Dataset

NAME = "items.parquet"
"""The file's name in a model's folder."""
FORMAT_VERSION = 1
_METADATA = b"glass_items"
_UNFIT = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class ServingSettings:
    """What a run decides about recommendations beside the model."""

    beam_width: int = 20
    """Beams of the search."""
    constrained: bool = True
    """Generate only SIDs of the catalogue."""
    item_prior: float = 1.0
    """Items that share a SID: weight of their popularity, in events of the user's own."""
    target_group: Literal["timestamp", "event"] = "timestamp"
    """Events of one time are one visit, or every event is one."""
    time_unit: str = "seconds"
    """"seconds", or "ordinal" for times that only order events."""


@dataclass(frozen=True)
class ItemTable:
    """Items of a catalogue; row i is item i."""

    raw_ids: tuple[str, ...]
    """Distinct."""
    titles: tuple[str, ...]
    train_counts: NDArray[np.int64]
    """int64 [V] training events."""
    settings: ServingSettings = ServingSettings()

    @classmethod
    def of(cls, dataset: Dataset, config: RunConfig) -> ItemTable:
        """Of a data set and the run over it."""
        raw = tuple(dataset.item_table["raw_item_id"].to_list())
        titles = tuple(dataset.item_table["title"].to_list())
        settings = ServingSettings(
            beam_width=config.eval.beam_width,
            constrained=config.eval.constrained,
            item_prior=config.eval.item_prior,
            target_group=config.data.target_group,
            time_unit=str(dataset.manifest.get("time_unit", "seconds")),
        )
        return cls(raw, titles, np.asarray(dataset.train_counts, np.int64), settings)

    def __len__(self) -> int:
        return len(self.raw_ids)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Item of each raw id."""
        return {raw: item for item, raw in enumerate(self.raw_ids)}

    @cached_property
    def digest(self) -> str:
        """Hash of the raw ids and their order: what dense item ids mean."""
        return hashlib.sha256(json.dumps(self.raw_ids).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Writes `items.parquet` into a model's folder."""
        about = {"format_version": FORMAT_VERSION, "settings": asdict(self.settings)}
        table = pa.table(
            {
                "raw_item_id": pa.array(self.raw_ids, pa.string()),
                "title": pa.array(self.titles, pa.string()),
                "train_count": pa.array(self.train_counts),
            }
        ).replace_schema_metadata({_METADATA: json.dumps(about).encode()})
        with replaced_file(folder / NAME) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> ItemTable:
        """Reads what `save` wrote.

        Raises:
            ValueError: there is no such file, or it is damaged or of another version.
        """
        path = folder / NAME
        if not path.exists():
            raise ValueError(
                f"{folder} holds a model but no {NAME}; run `glass train` with its config, which "
                "adds the file and trains nothing anew"
            )
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[_METADATA])
            if about["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {about['format_version']}")
            found = cls(
                tuple(table["raw_item_id"].to_pylist()),
                tuple(table["title"].to_pylist()),
                table["train_count"].to_numpy(),
                ServingSettings(**about["settings"]),
            )
            if len(found.rows) != len(found):
                raise ValueError("raw item ids are repeated")
        except (OSError, pa.ArrowException, *_UNFIT) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}: {reason}); delete it and run "
                "`glass train` with its config"
            ) from error
        return found
