"""Files of partitions are whole or absent, whoever writes them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from glass.data.assembly.parts import Parts, renamed
from glass.data.shared_arrays import SharedArrays


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "to" / "a"
    with renamed(path, tmp_path / "work") as one, renamed(path, tmp_path / "work") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
        assert not path.exists()
    assert path.read_text() == "1"  # the outer one ended last
    assert list((tmp_path / "work").iterdir()) == []


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")

    def write() -> None:
        with renamed(path, tmp_path) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "before"


def test_a_table_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    def broken(*given: object) -> None:
        Path(str(given[0])).write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr(pa.ipc, "new_file", broken)
    with pytest.raises(OSError, match="full"):
        Parts(tmp_path).put(3, pl.DataFrame({"a": [1]}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_files", [False, True])
def test_tables_come_back(in_files: bool, tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts" if in_files else None)
    table = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    parts.put(7, table)
    other = pickle.loads(pickle.dumps(parts)) if in_files else parts
    assert other.get(7).equals(table)
    parts.drop(7)
    with pytest.raises((FileNotFoundError, KeyError)):
        other.get(7)


def test_shared_arrays(tmp_path: Path) -> None:
    arrays = {"one": np.arange(3), "two": np.zeros((2, 0), np.int8)}
    shared = SharedArrays(arrays, tmp_path / "shared")
    sent = pickle.dumps(shared)
    assert len(sent) < 300  # the place, not the values
    other = pickle.loads(sent)
    for name, array in arrays.items():
        assert np.array_equal(other[name], array)
        assert other[name].dtype == array.dtype
    assert "one" in other
    assert "three" not in other
    with pytest.raises(TypeError, match="in memory alone"):
        pickle.dumps(SharedArrays(arrays))
