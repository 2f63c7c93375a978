"""Rows and files that are wrong on purpose: counted or refused, with file, row and reason."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import json
import logging
import lzma
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from raw_tables import read
from reader_files import CASES, settings, write

from glass.config import DataConfig, RunConfig
from glass.data import Dataset, delimited, prepare
from glass.data.cleaning import MAX_ID_BYTES, MAX_TEXT, Cleaner
from glass.data.raw import RowReport
from glass.data.times import SECONDS_A_DAY
from glass.pipeline.check import check_config
from glass.sid.vectors import cache_folder

Writer = Callable[..., DataConfig]
NOW = int(time.time())
LEAST, MOST = -(2**63), 2**63 - 1


class TestTimes:
    def reasons(self, *tables: list[Any]) -> tuple[list[Any], dict[str, int]]:
        """Times that stay of the tables of one file, and why others do not."""
        report = RowReport("interactions", files=["f"])
        clean = Cleaner(report, ("item",))
        kept = []
        for values in tables:
            frame = pl.DataFrame({"row": range(len(values)), "item": "x", "time": values})
            kept += clean(frame)["time"].to_list()
        return kept, report.reasons

    def test_before_1970(self) -> None:
        assert self.reasons([-1, 0, 1]) == ([0, 1], {"time before 1970": 1})
        assert self.reasons([-0.5, 0.5]) == ([0], {"time before 1970": 1})
        assert self.reasons(["1969-12-31", "1970-01-01"]) == ([0], {"time before 1970": 1})

    def test_in_the_future(self) -> None:
        soon, later = NOW + SECONDS_A_DAY // 2, NOW + 2 * SECONDS_A_DAY
        found = self.reasons([5, NOW, soon, later, 10**13])
        assert found == ([5, NOW, soon], {"time in the future": 2})
        assert self.reasons(["2020-01-01", "2020-01-02", "2999-01-01"])[1] == {
            "time in the future": 1
        }

    def test_columns_that_are_not_seconds(self, caplog: pytest.LogCaptureFixture) -> None:
        milliseconds = [1000 * NOW, 1000 * NOW + 1, 5]
        with caplog.at_level(logging.WARNING):
            assert self.reasons(milliseconds, [MOST]) == ([*milliseconds, MOST], {})
        assert caplog.text.count("are they milliseconds?") == 1

    def test_the_first_table_decides(self) -> None:
        later = [10**13] * 5
        assert self.reasons([""], ["1", "2", "x"], list(map(str, later))) == (
            [1, 2],
            {"missing time": 1, "unreadable time": 1, "time in the future": 5},
        )

    def test_differences_never_overflow(self, table: Writer) -> None:
        times = [LEAST, LEAST + 1, MOST - 1, MOST, MOST]
        events = [("a", "x", seconds) for seconds in times]
        dataset = Dataset.load(prepare(table(events, max_malformed_share=0.5)))
        assert dataset.times.tolist() == [MOST - 1, MOST, MOST]
        assert (np.diff(dataset.times) >= 0).all()

    def test_rows_are_named(self, table: Writer) -> None:
        events = [("a", "x", 1), ("a", "y", -7), ("a", "x", 3)]
        with pytest.raises(ValueError, match=r"events\.csv:3 time before 1970"):
            prepare(table(events))


class TestLongValues:
    def test_ids(self, table: Writer) -> None:
        good, long = "é" * (MAX_ID_BYTES // 2), "é" * (MAX_ID_BYTES // 2) + "x"
        events = [(good, "x", 1), (good, "y", 2), (long, "x", 3), (good, long, 4)]
        with pytest.raises(ValueError, match=r"events\.csv:4 too long user; .*:5 too long item"):
            prepare(table(events))
        assert prepare(table(events, max_malformed_share=0.5)).is_dir()

    def test_texts_are_cut(self, table: Writer, tmp_path: Path, caplog: Any) -> None:
        path = tmp_path / "i.csv"
        path.write_text(f"item_id,name,kind\nx,{'long  ' * 2_000_000},{'k' * 99}\n")
        described = {"items_path": str(path), "title_column": "name", "text_columns": ("name",)}
        folder = prepare(table([("a", "x", 1), ("a", "x", 2)], **described))
        (row,) = Dataset.load(folder).item_table.rows()
        assert row[2] == row[3] == ("long " * 2000).strip()
        assert len(row[2]) <= MAX_TEXT
        assert "1 values of column 'name' are longer than 10000 characters" in caplog.text

    def test_texts_of_json_are_cut(self, tmp_path: Path) -> None:
        items = json.dumps({"1": {"title": "t" * 10_000_000, "description": ["d" * 9_999] * 3}})
        write(tmp_path, CASES["inter_json"] | {"S.item.json": items.encode()})
        titles = read(settings("inter_json", tmp_path)).items.filter(raw_item_id="1")
        assert titles["title"].str.len_chars().to_list() == [MAX_TEXT]
        assert titles["text"].str.len_chars().to_list() == [2 * MAX_TEXT + 2]

    def test_messages_stay_short(self, tmp_path: Path) -> None:
        users = json.dumps({"u" * 10_000_000: [None, 1], "2": [1, 2, 3]})
        write(tmp_path, CASES["inter_json"] | {"S.inter.json": users.encode()})
        config = dataclasses.replace(settings("inter_json", tmp_path), max_malformed_share=0.0)
        with pytest.raises(ValueError, match=r"user uu.*uu, event 2 too long user") as caught:
            prepare(config)
        assert len(str(caught.value)) < 1000

    def test_a_row_larger_than_what_is_read_at_a_time(
        self, table: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", 1 << 20)
        config = table([("a", "x", 1), ("a", "y" * (3 << 20), 2), ("a", "x", 2)])
        with pytest.raises(ValueError, match=r"events\.csv: .* more than 1 MB; is a quote left"):
            prepare(config)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"x" * 2_000_000, "it has more than 1,000,000 characters"),
            (b"x," * 1_000_000, "it has more than 1,000,000 characters"),
            (b"x," * 100_000, "the header repeats the columns x$"),
            (b'"' + b"x" * 200_000, "it has a name that does not end"),
            (b'a,"b', "it has a name that does not end"),
        ],
    )
    def test_headers(self, header: bytes, message: str, tmp_path: Path) -> None:
        write(tmp_path, CASES["table"] | {"e.csv": header + b"\n1,2\n"})
        with pytest.raises(ValueError, match=rf"e\.csv: .*{message}"):
            read(settings("table", tmp_path))


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("e.csv", content)
    return buffer.getvalue()


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
}
TEXT = [
    ("table", "e.csv"),
    ("table", "i.csv"),
    ("table tsv", "e.tsv"),
    ("table parquet", "e.parquet"),
    ("recbole", "some.inter"),
    ("movielens_1m", "ml-1m.item"),
    ("inter_json", "S.inter.json"),
    ("minionerec", "train/S_5.csv"),
    ("p5", "sequential_data.txt"),
    ("amazon_reviews", "r.json"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("case", "name"), TEXT)
def test_compressed_files_are_refused_at_once(
    kind: str, case: str, name: str, tmp_path: Path
) -> None:
    for content in (CASES[case][name], b"", b"0" * 10_000_000):
        write(tmp_path, CASES[case] | {name: KINDS[kind](content)})
        with pytest.raises(ValueError, match=rf"{name}.* is compressed \({kind}\); unpack it"):
            read(settings(case, tmp_path))


def test_a_column_may_be_called_as_an_archive_begins(tmp_path: Path) -> None:
    for name in ("BZh9", "PK"):
        content = CASES["table"]["e.csv"].replace(b"user_id", name.encode())
        write(tmp_path, CASES["table"] | {"e.csv": content})
        config = dataclasses.replace(settings("table", tmp_path), user_column=name)
        assert read(config).events.height > 0


class TestPaths:
    @pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", "a\0b", "a/"])
    def test_names_of_data_sets(self, name: str, table: Writer, tmp_path: Path) -> None:
        config = table([("a", "x", 1), ("a", "y", 2)], name=name)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=r"data\.name is"):
            prepare(config)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", "a\0b", "latest"])
    def test_names_of_runs(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"name is .*; it must be a folder name"):
            check_config(RunConfig(name=name))

    def test_a_manifest_names_no_other_place(self, table: Writer, tmp_path: Path) -> None:
        folder = prepare(table([("a", "x", 1), ("a", "y", 2)]))
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "manifest.json").write_text("{}")
        manifest["config"] |= {"folder": str(tmp_path), "name": "../elsewhere"}
        path.write_text(json.dumps(manifest))
        assert cache_folder(Dataset.load(folder)) == folder / "cache"

    def test_a_link_among_stale_folders_is_removed_alone(
        self, table: Writer, tmp_path: Path
    ) -> None:
        config = table([("a", "x", 1), ("a", "y", 2)])
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "thesis.txt").write_text("x")
        Path(config.folder).mkdir()
        (Path(config.folder) / "set.tmp-999999999").symlink_to(precious)
        prepare(config)
        assert (precious / "thesis.txt").read_text() == "x"
        assert [path.name for path in Path(config.folder).iterdir()] == ["set"]
