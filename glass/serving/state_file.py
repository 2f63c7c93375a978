"""Histories of all users as one Parquet file: written whole or not at all, checked when read.

Events are all there is to it; counts and indexes follow from them and are made again, so a file
stays good when the model is trained anew for the same items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from glass.serving.histories import Histories
from glass.serving.history import Ints, Longs
from glass.sid.files import replaced_file

NAME = "histories.parquet"
FORMAT_VERSION = 1
_METADATA = b"glass_histories"
_USERS_A_GROUP = 16_384
_UNFIT = (AttributeError, KeyError, RecursionError, TypeError, ValueError)

Events = tuple[Ints, Longs | None, Longs | None]


def write_state(path: Path, users: Sequence[str], events: Sequence[Events], digest: str) -> None:
    """Writes the events of `users`, oldest first.

    Args:
        path: file to replace once the new one is complete.
        users: U distinct names.
        events: items, times and visits of each; all with times and visits, or none.
        digest: of the items that the numbers stand for.

    Raises:
        OSError: the file cannot be written.
    """
    timed = bool(events) and events[0][1] is not None
    about = {"format_version": FORMAT_VERSION, "items": digest, "timed": timed}
    offsets = pa.array(np.cumsum([0, *(len(items) for items, _, _ in events)]))
    columns = {
        "user": pa.array(users, pa.string()),
        "items": _joined(offsets, [items for items, _, _ in events], np.int32),
    }
    if timed:
        columns["times"] = _joined(offsets, [times for _, times, _ in events], np.int64)
        columns["visits"] = _joined(offsets, [visits for *_, visits in events], np.int64)
    table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(about).encode()})
    with replaced_file(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            row_group_size=_USERS_A_GROUP,
            write_page_checksum=True,
        )


def _joined(offsets: pa.Array, parts: Sequence[Any], dtype: type[np.integer[Any]]) -> pa.Array:
    values = np.concatenate([np.zeros(0, dtype), *parts])
    return pa.LargeListArray.from_arrays(offsets, pa.array(values))


def read_state(path: Path, histories: Histories, num_items: int, digest: str) -> dict[str, int]:
    """Adds all users of a file to `histories`, which has none; row of each.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another version or other items, or lacks the times that the
            model reads.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = json.loads((file.schema_arrow.metadata or {})[_METADATA])
            _check_about(about, digest, histories.reads.timed)
            timed = histories.reads.timed
            wanted = ["user", "items", *(("times", "visits") if timed else ())]
            rows: dict[str, int] = {}
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=wanted)
                columns = [_lists(table[name]) for name in wanted[1:]]
                _check_values(columns, num_items)
                offsets, items = columns[0]
                for at, user in enumerate(table["user"].to_pylist()):
                    part = slice(offsets[at], offsets[at + 1])
                    rows[user] = histories.add_user()
                    more = [values[part] for _, values in columns[1:]]
                    histories.observe(rows[user], items[part], *more)
            if len(rows) != file.metadata.num_rows or None in rows:
                raise ValueError("a user is missing or there twice")
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, *_UNFIT) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be restored ({type(error).__name__}: {reason}); delete it and observe "
            "the histories again"
        ) from error
    return rows


def _check_about(about: dict[str, object], digest: str, needs_times: bool) -> None:
    if about["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"its format_version is {about['format_version']}, this version reads {FORMAT_VERSION}"
        )
    if about["items"] != digest:
        raise ValueError("it was saved with the items of another model")
    if needs_times and not about["timed"]:
        raise ValueError("this model looks at times and the file holds none")


def _lists(column: pa.ChunkedArray) -> tuple[Longs, NDArray[Any]]:
    lists = column.combine_chunks()
    return lists.offsets.to_numpy(), lists.values.to_numpy()


def _check_values(columns: list[tuple[Longs, NDArray[Any]]], num_items: int) -> None:
    offsets, items = columns[0]
    if items.dtype != np.int32 or (
        len(items) and not 0 <= int(items.min()) <= int(items.max()) < num_items
    ):
        raise ValueError(f"an item is not in [0, {num_items})")
    starts = np.zeros(len(items) + 1, bool)
    starts[offsets] = True
    for other, values in columns[1:]:
        rises = values[1:] >= values[:-1]
        if not np.array_equal(other, offsets) or not (rises | starts[1 : len(values)]).all():
            raise ValueError("times or visits fall, or do not fit the items")
