from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glass.data import delimited
from glass.data.delimited import read_delimited, read_header
from glass.data.raw import RowReport


def read(path: Path, *, delimiter: str = ",", quoted: bool = True) -> tuple[list, RowReport]:
    report = RowReport("interactions")
    report.start(path.name)
    names = read_header(path, delimiter, quoted=quoted)
    frames = read_delimited(
        path, names[:2], report, names=names, delimiter=delimiter, quoted=quoted
    )
    return [row for frame in frames for row in frame.rows()], report


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_rows_are_numbered_as_in_an_editor(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"u,i,t\r\n1,2,3\r\n4,5\r\n\r\n6,7,8,9\r\n10,,12\r\n\r\n")
    rows, report = read(path)
    assert rows == [("1", "2", 2), ("10", "", 6)]
    assert report.to_dict() == {
        "rows": 4,
        "blank": 2,
        "count": 2,
        "share": 0.5,
        "reasons": {"wrong number of columns": 2},
        "first": [
            {"file": "a.csv", "row": 3, "reason": "wrong number of columns"},
            {"file": "a.csv", "row": 5, "reason": "wrong number of columns"},
        ],
    }


def test_numbers_go_on_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 64)
    lines = [f"{k},{k},{k}" if k % 7 else f"{k},{k}" for k in range(2, 500)]
    rows, report = read(write(tmp_path / "a.csv", "\n".join(["u,i,t", *lines]).encode()))
    assert all(int(user) == row for user, _, row in rows)
    assert report.malformed == len([k for k in range(2, 500) if k % 7 == 0])
    assert [place["row"] for place in report.first()] == [7 * k for k in range(1, 11)]


def test_quotes_are_read_in_csv_only(tmp_path: Path) -> None:
    rows, _ = read(write(tmp_path / "a.csv", b'u,i,t\n"a,""b""",2,3\n'))
    assert rows == [('a,"b"', "2", 2)]
    rows, _ = read(
        write(tmp_path / "a.inter", b'u\ti\tt\n"a\t2\t3\nb"\t2\t3\n'), delimiter="\t", quoted=False
    )
    assert rows == [('"a', "2", 2), ('b"', "2", 3)]


def test_lines_swallowed_by_a_stray_quote_are_all_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'u,i,t\n1,2,3\n"4,2,3\n5,2,3\n6,2,3\n')
    rows, report = read(path)
    assert rows == [("1", "2", 2)]
    assert report.malformed == report.rows - 1 >= 3


def test_bytes_that_are_not_utf8_spoil_their_row_only(tmp_path: Path) -> None:
    rows, _ = read(write(tmp_path / "a.csv", b"u,i,t\n1,2,3\n\xff\xfe,2,3\n4,5,6\n"))
    assert rows == [("1", "2", 2), ("\ufffd\ufffd", "2", 3), ("4", "5", 4)]


def test_byte_order_mark_and_missing_last_line_break(tmp_path: Path) -> None:
    rows, _ = read(write(tmp_path / "a.csv", b"\xef\xbb\xbfu,i,t\n1,2,3"))
    assert rows == [("1", "2", 2)]


def test_header_alone_has_no_rows(tmp_path: Path) -> None:
    rows, report = read(write(tmp_path / "a.csv", b"u,i,t\n"))
    assert rows == []
    assert report.rows == 0


@pytest.mark.parametrize(
    ("content", "message"), [(b"\nu,i\n", "first line"), (b"u,i,u\n1,2,3\n", "repeats .* u$")]
)
def test_bad_headers(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "a.csv", content))


cell = st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0'), max_size=4)
line = st.one_of(st.lists(cell, min_size=3, max_size=3), st.lists(cell, max_size=5))
ONLY_PYTHONS = "\x1c\x1d\x1e\x1f"
"""Separators that are blank to Python, and to Unicode and the reader are not."""


def is_blank(text: str) -> bool:
    return all(char.isspace() and char not in ONLY_PYTHONS for char in text)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(line, max_size=12))
@example(lines=[["", "\x1f", ""], ["", "\x85 ", ""]])
def test_every_line_is_a_row_malformed_or_blank(lines: list[list[str]], tmp_path: Path) -> None:
    text = "\n".join(["u,i,t", *(",".join(cells) for cells in lines)]) + "\n"
    rows, report = read(write(tmp_path / "fuzz.csv", text.encode()))
    assert len(rows) + report.malformed + report.blank == len(lines)
    good = [(*cells[:2], k + 2) for k, cells in enumerate(lines) if len(cells) == 3]
    assert rows == [row for row in good if not (is_blank(row[0]) and is_blank(row[1]))]
