"""Parquet that is cut off, changed or made to fill the memory: a ValueError that names the file."""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import attempt, one_bit_changed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raw_tables import read
from reader_files import CASES, EVENTS, parquet, prepared_or_refused, write
from reader_files import settings as settings_of

from glass.config import DataConfig
from glass.data import Dataset, parquet_file, prepare
from glass.data.parquet_file import read_tables, read_whole
from glass.data.shards import Shards
from glass.data.store import FILES

Writer = Callable[..., DataConfig]
FORMATS = ("table parquet", "complete_journey", "taobao_mm")
PARQUET = [(case, name) for case in FORMATS for name in CASES[case]]
N = 300
WIDE: dict[str, Any] = {
    "user": [f"u{k % 7}" for k in range(N)],
    "number": list(range(N)),
    "list": [[k] * (k % 3) for k in range(N)],
    "bytes": [bytes([k % 256]) for k in range(N)],
}
KINDS = [
    parquet(WIDE, row_group_size=100, compression=compression, use_dictionary=dictionary)
    for compression in ("none", "zstd")
    for dictionary in (True, False)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parquet") / "x.parquet"


@pytest.mark.parametrize(("case", "name"), PARQUET)
@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(case: str, name: str, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = CASES[case][name]
        write(Path(folder), CASES[case] | {name: content[: int(share * len(content))]})
        with pytest.raises(ValueError, match=name):
            read(settings_of(case, Path(folder)))


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_changed_bytes(kind: int, path: Path) -> None:
    """Pages without checksums may hold anything: other values, or a ValueError with the file."""
    rng, content = random.Random(kind), KINDS[kind]
    for _ in range(400):
        changed = bytearray(content)
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        for _ in range(rng.choice((1, 1, 2, 5))):
            start = rng.choice((0, footer))
            place = rng.randrange(start, len(changed))
            if rng.random() < 0.8:
                changed[place] = rng.randrange(256)
            else:
                changed[place:place] = rng.randbytes(rng.randrange(1, 5))
        path.write_bytes(changed)
        tables, refusal = attempt(lambda: list(read_tables(path)))
        assert str(path) in refusal or tables is not None
        for table in tables or []:
            table.rows()  # whatever it holds, it is whole


def test_the_last_row_before_the_damage_is_named(path: Path) -> None:
    content = bytearray(KINDS[1])  # plain pages, so that the third group's are easily found
    where = pq.ParquetFile(pa.BufferReader(KINDS[1])).metadata.row_group(2).column(0)
    content[where.data_page_offset : where.data_page_offset + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.parquet: cannot be read as Parquet after row 200: "):
        list(read_tables(path, rows=100))


def test_texts_that_are_not_utf8(path: Path) -> None:
    texts: Any = pa.array([b"a", b"\xff\xfeb", None, b"\xe2\x82"]).cast(pa.binary())
    names = pa.array(texts.to_pylist(), pa.binary()).view(pa.string())
    pq.write_table(pa.table({"x": names, "d": names.dictionary_encode()}), path)
    expected = ["a", "\ufffd\ufffdb", None, "\ufffd"]
    assert read_whole(path).to_dict(as_series=False) == {"x": expected, "d": expected}
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3, 4]), names)  # no ids, no texts
    pq.write_table(pa.table({"x": lists}), path)
    with pytest.raises(ValueError, match=r"x\.parquet: cannot be read .* Invalid UTF8"):
        read_whole(path)


def test_reading_keeps_no_row_groups(path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**62, (40, 50_000))
    with pq.ParquetWriter(path, pa.schema([("x", pa.int64())]), compression="none") as writer:
        for part in numbers:
            writer.write_table(pa.table({"x": part}))
    before, held = pa.total_allocated_bytes(), []
    for place, table in enumerate(read_tables(path, rows=50_000)):
        assert table["x"].to_list()[:3] == numbers[place, :3].tolist()
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == 40
    assert held[-1] < held[4] + 2 * numbers[0].nbytes  # pyarrow would keep all 16 MB


def test_times_of_more_than_a_day(path: Path) -> None:
    times = pa.array([10**17], pa.int64()).cast(pa.time64("us"))
    pq.write_table(pa.table({"x": times}), path)
    with pytest.raises(ValueError, match=r"x\.parquet: cannot be read .* not within"):
        read_whole(path)


def test_two_columns_of_one_name(path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(ValueError, match=r"x\.parquet: 2 columns are called 'x'; rename"):
        read_whole(path)


class TestBombs:
    def test_many_rows(self, path: Path) -> None:
        rows = pa.nulls(10_000_000, pa.int64())
        pq.write_table(pa.table({"x": rows}), path, max_rows_per_page=10**9, compression="zstd")
        assert path.stat().st_size < 2000
        with pytest.raises(ValueError, match=r"x\.parquet claims 10,000,000 rows in 1,\d+ bytes"):
            read_whole(path)

    def test_a_column_of_one_value_is_none(self, path: Path) -> None:
        for values in (np.full(1_000_000, 7), ["x"] * 1_000_000, pa.nulls(1_000_000)):
            pq.write_table(pa.table({"x": values}), path)
            assert read_whole(path).height == 1_000_000
        pl.DataFrame({"x": np.full(1_000_000, 7)}).write_parquet(path)
        assert read_whole(path).height == 1_000_000

    @pytest.mark.parametrize("dictionary", [True, False])
    def test_a_long_text_repeated(
        self, dictionary: bool, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet_file, "UNJUDGED", 10_000_000)
        text = "x" * 10_000
        schema = pa.schema({"x": pa.string()})
        options = {"use_dictionary": dictionary, "compression": "zstd", "store_schema": False}
        with pq.ParquetWriter(path, schema, **options) as writer:
            writer.write_table(pa.table({"x": [text] * 2000}, schema=schema))
        assert path.stat().st_size < 20_000
        reason = "repeats long texts" if dictionary else "unpacks to"
        with pytest.raises(ValueError, match=rf"x\.parquet.* {reason}"):
            read_whole(path)

    def test_long_texts_come_in_small_tables(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet_file, "_TABLE_BYTES", 100_000)
        texts = [f"{k % 9}" * 10_000 for k in range(95)]
        for dictionary in (True, False):
            pq.write_table(pa.table({"x": texts}), path, use_dictionary=dictionary)
            tables = list(read_tables(path))
            assert pl.concat(tables)["x"].to_list() == texts
            assert max(table.height for table in tables) <= 10


class TestPreparedFolders:
    @pytest.fixture
    def folder(self, table: Writer) -> Path:
        return prepare(table(EVENTS))

    @pytest.mark.parametrize("name", [*FILES, "manifest.json"])
    def test_cut(self, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        for place in {0, 1, 4, 9, len(content) // 3, len(content) // 2, len(content) - 3}:
            (folder / name).write_bytes(content[:place])
            with pytest.raises(ValueError, match=rf"{name}.*prepare"):
                Dataset.load(folder)

    @pytest.mark.parametrize("name", FILES)
    def test_a_changed_bit_is_noticed_or_changes_nothing(self, folder: Path, name: str) -> None:
        content, expected = (folder / name).read_bytes(), Dataset.load(folder)
        rng, noticed = random.Random(0), 0
        for _ in range(150):
            (folder / name).write_bytes(one_bit_changed(content, rng))
            found, refusal = attempt(lambda: Dataset.load(folder))
            if found is None:
                noticed += 1
                assert str(folder) in refusal
                continue
            assert found.item_table.equals(expected.item_table)
            assert found.user_table.equals(expected.user_table)
            for array in ("items", "times", "groups", "split"):
                assert np.array_equal(getattr(found, array), getattr(expected, array))
        assert noticed > 50

    @pytest.mark.parametrize(
        "change",
        [
            {"config": []},
            {"config": "x"},
            {"counts": [1]},
            {"shards": "1"},
            {"vectors": [1]},
            {"time_unit": 3},
            {"dropped": None},
            {"format_version": [1]},
        ],
    )
    def test_manifest(self, folder: Path, change: dict[str, Any]) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match="prepare it again"):
            Dataset.load(folder)

    @pytest.mark.parametrize(
        "content", ["[" * 100_000, "3", "[]", "\xff", '{"format_version": 1e999}']
    )
    def test_manifest_that_is_none(self, folder: Path, content: str) -> None:
        (folder / "manifest.json").write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match=r"manifest\.json .*prepare it again"):
            Dataset.load(folder)

    def test_names_that_are_not_utf8(self, folder: Path) -> None:
        path = folder / "interactions.parquet"
        path.write_bytes(path.read_bytes().replace(b"user_id", b"\xe4ser_id"))
        for load in (Dataset.load, Shards.of):
            with pytest.raises(ValueError, match=r"interactions\.parquet.* prepare it again"):
                load(folder)

    def test_row_groups_that_are_read_alone(self, folder: Path) -> None:
        path = folder / "interactions.parquet"
        content, rng = path.read_bytes(), random.Random(0)
        expected = Dataset.load(folder)
        for _ in range(300):
            path.write_bytes(one_bit_changed(content, rng))
            found, refusal = attempt(lambda: Shards.of(folder).load([0]))
            if found is None:
                assert str(folder) in refusal
            else:
                assert np.array_equal(found.items, expected.items)
        events = pl.read_parquet(io.BytesIO(content))
        for wrong in (
            events.drop("time"),
            events.cast({"item_id": pl.Int64}),
            events.with_columns(item_id=pl.lit(99, pl.Int32)),
            events.with_columns(item_id=pl.lit(None, pl.Int32)),
        ):
            wrong.write_parquet(path)
            with pytest.raises(ValueError, match=r"interactions\.parquet has .* prepare it again"):
                Shards.of(folder).load([0])

    def test_times_that_are_too_far_apart(self, folder: Path) -> None:
        path = folder / "interactions.parquet"
        events = pl.read_parquet(path)
        for ends in ((-(2**63), 2**63 - 1), (2**63 - 1, -(2**63))):
            times = events["time"].to_list()
            times[0], times[-1] = ends
            events.with_columns(time=pl.Series(times, dtype=pl.Int64)).write_parquet(path)
            with pytest.raises(ValueError, match=r"times (are too far|run backwards)"):
                Dataset.load(folder)


@settings(max_examples=100, deadline=None)
@given(
    case=st.sampled_from(FORMATS),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    file=st.integers(0, 20),
)
@example(case="table parquet", place=0.5, bit=0, file=0)
def test_one_changed_bit_of_a_source(case: str, place: float, bit: int, file: int) -> None:
    name = sorted(CASES[case])[file % len(CASES[case])]
    changed = bytearray(CASES[case][name])
    changed[int(place * len(changed))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), CASES[case] | {name: bytes(changed)})
        prepared_or_refused(case, Path(folder))
