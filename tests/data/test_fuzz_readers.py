"""Every reader over files that are damaged at random: a whole data set, or a ValueError."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_files import CASES, Files, prepared_or_refused, write

from glass.data.readers import READERS

ELSEWHERE = {"kuairec"}
"""Formats that have a test of this kind of their own."""
few = settings(max_examples=40, deadline=None)
many = settings(max_examples=150, deadline=None)
signs = st.text("0123456789,\"'\t\n\r{}[]:-.eE \x00\ufeffé", max_size=200)
noise = st.binary(max_size=200) | signs.map(str.encode)


@pytest.fixture(autouse=True, scope="module")
def _without_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def outcome(case: str, files: Files) -> bool:
    """Whether the files are a data set; anything but that or a ValueError fails."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), files)
        return prepared_or_refused(case, Path(folder)) is not None


@pytest.mark.parametrize("case", CASES)
def test_undamaged_files_are_read(case: str) -> None:
    assert outcome(case, CASES[case])


def test_every_format_is_here() -> None:
    assert {case.split()[0] for case in CASES} | ELSEWHERE == set(READERS)


@pytest.mark.parametrize("case", CASES)
def test_arbitrary_bytes(case: str) -> None:
    @few
    @given(st.data())
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(CASES[case])))
        content = data.draw(noise)
        if data.draw(st.booleans()):  # after a header that is in order
            content = CASES[case][name].split(b"\n")[0] + b"\n" + content
        outcome(case, CASES[case] | {name: content})

    check()


@pytest.mark.parametrize("case", CASES)
def test_mutated_files(case: str) -> None:
    @many
    @given(st.data())
    def check(data: st.DataObject) -> None:
        files = dict(CASES[case])
        for _ in range(data.draw(st.integers(1, 3))):
            name = data.draw(st.sampled_from(sorted(files)))
            files[name] = mutated(data, files[name])
        outcome(case, files)

    check()


def mutated(data: st.DataObject, content: bytes) -> bytes:
    """The content with one thing wrong."""
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    rows = content.splitlines(keepends=True)
    row = data.draw(st.integers(0, max(len(rows) - 1, 0)))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "repeat", "swap", "rename"]))
    if kind == "flip":
        return content[:place] + data.draw(st.binary(min_size=1, max_size=4)) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + data.draw(noise) + content[place:]
    if kind == "drop":
        return b"".join(rows[:row] + rows[row + 1 :])
    if kind == "repeat":
        return b"".join(rows[:row] + rows[row : row + 1] * 3 + rows[row + 1 :])
    if kind == "swap":
        return b"".join(rows[row:] + rows[:row])
    if content[:4] == b"PAR1":
        return renamed(data, content)
    header, _, rest = content.partition(b"\n")
    return header.replace(b"i", data.draw(noise), 1) + b"\n" + rest


def renamed(data: st.DataObject, content: bytes) -> bytes:
    """Parquet with another name or type of a column."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError, ValueError):
        return content[::-1]
    names = table.column_names
    column = data.draw(st.integers(0, len(names) - 1))
    if data.draw(st.booleans()):
        other = data.draw(st.sampled_from([*names, "", "é"]))
        table = table.rename_columns([*names[:column], other, *names[column + 1 :]])
    else:
        kind = data.draw(st.sampled_from([pa.string(), pa.null(), pa.float32(), pa.date32()]))
        empty = pa.nulls(table.num_rows, kind)
        table = table.set_column(column, names[column], empty)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


cell = st.text(st.characters(codec="utf-8", exclude_characters='",\r\n'), max_size=3)


row = st.lists(cell | st.sampled_from(["u1", "i1", "5", "-1"]), max_size=4)


@many
@given(rows=st.lists(row, max_size=15))
def test_every_line_of_a_csv_is_accounted_for(rows: list[list[str]]) -> None:
    valid = [["u1", f"i{k}", str(k)] for k in range(4)]
    text = "".join(",".join(row) + "\n" for row in [*valid, *rows])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, CASES["table"] | {"e.csv": b"user_id,item_id,timestamp\n" + text.encode()})
        dataset = prepared_or_refused("table", folder)
    assert dataset is not None
    report = dataset.manifest["malformed"]["interactions"]
    assert report["rows"] + report["blank"] == len(valid) + len(rows)
