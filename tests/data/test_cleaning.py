from __future__ import annotations

import logging
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import polars as pl
import pytest

from glass.data.cleaning import Cleaner, text_column
from glass.data.raw import RowReport


def times(values: list, dtype: pl.DataType | None = None) -> dict[int, int]:
    """{position: seconds} of the values that were readable."""
    report = RowReport("interactions", files=["f"])
    column = pl.Series("time", values, dtype=dtype)
    frame = pl.DataFrame({"row": range(len(values)), "item": ["x"] * len(values), "time": column})
    clean = Cleaner(report, ("item",))(frame)
    return dict(zip(clean["row"], clean["time"], strict=True))


def test_numeric_times_are_seconds() -> None:
    assert times([5, 3, None]) == {0: 5, 1: 3}
    assert times([1.9, 0.5, float("nan"), float("inf"), 1e300]) == {0: 1, 1: 0}
    assert times(["7", " 8 ", "881250949.0", "9.9", "x", "nan", "1e400"]) == {
        0: 7,
        1: 8,
        2: 881250949,
        3: 9,
    }
    assert times([2**64 - 1, 4], pl.UInt64()) == {1: 4}
    assert times([Decimal("3.5")], pl.Decimal(10, 2)) == {0: 3}


def test_dates_are_seconds_since_1970_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    assert times([date(1970, 1, 2)]) == {0: 86400}
    assert times([datetime(1970, 1, 1, 0, 0, 1, 500_000)]) == {0: 1}
    assert times([datetime(1970, 1, 1, 2, 0, 5, tzinfo=zone)]) == {0: 5}
    written = [
        "1970-01-02",
        "1970-01-01 00:00:01",
        "1970-01-01T00:00:02",
        "1970-01-01T00:00:03Z",
        "1970-01-01T02:00:04+02:00",
        "1970-01-01 00:00:05.900",
        "1970-01-01 00:01",
        "01/02/1970",
        "1970-13-01",
    ]
    assert times(written) == {0: 86400, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 60}


def test_a_text_column_holds_numbers_or_dates_not_both() -> None:
    assert times(["1970-01-02", "1970-01-03", "17"]) == {0: 86400, 1: 172800}
    assert times(["1970-01-02", "16", "17"]) == {1: 16, 2: 17}


def test_milliseconds_are_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        times([1_700_000_000])
        assert not caplog.records
        times([1_700_000_000_000])
    assert "milliseconds" in caplog.text


def test_each_malformed_row_has_one_reason() -> None:
    report = RowReport("interactions", rows=7, files=["f.csv"])
    frame = pl.DataFrame(
        {
            "row": [2, 3, 4, 5, 6, 7, 8],
            "user": ["a", "", None, "b\nc", "d", "e", " "],
            "item": ["x", "x", "x", "x", "\ufffd", "x", ""],
            "rating": ["1", "1", "1", "1", "1", "good", ""],
        }
    )
    clean = Cleaner(report, ("user", "item"), ("rating",))(frame)
    assert clean.rows() == [(2, "a", "x", 1.0)]
    assert report.reasons == {
        "missing user": 3,
        "broken user": 1,
        "broken item": 1,
        "unreadable rating": 1,
    }
    assert [(e["row"], e["reason"]) for e in report.first()][:3] == [
        (3, "missing user"),
        (4, "missing user"),
        (5, "broken user"),
    ]


def test_ids_are_texts_whatever_their_type() -> None:
    report = RowReport("items", files=["f"])
    for values, expected in (
        ([3, 4], ["3", "4"]),
        ([3.0, 4.5], ["3", "4.5"]),
        (["03", " 4"], ["03", " 4"]),
    ):
        frame = pl.DataFrame({"row": [1, 2], "item": values})
        assert Cleaner(report, ("item",))(frame)["item"].to_list() == expected
    categories = pl.Series("item", ["a", "b"], dtype=pl.Categorical)
    frame = pl.DataFrame([pl.Series("row", [1, 2]), categories])
    assert Cleaner(report, ("item",))(frame)["item"].to_list() == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("item", [[1], [2]], "ids have to be"),
        ("time", [True, False], "seconds or a date"),
        ("rating", [date(2020, 1, 1)] * 2, "not a number"),
    ],
)
def test_types_that_cannot_be_used(name: str, values: list, message: str) -> None:
    frame = pl.DataFrame({"row": [1, 2], "item": ["a", "b"]}).with_columns(pl.Series(name, values))
    numbers = ("rating",) if name == "rating" else ()
    with pytest.raises(ValueError, match=message):
        Cleaner(RowReport("x", files=["f"]), ("item",), numbers)(frame)


def test_texts_have_single_blanks() -> None:
    assert text_column(pl.Series(["  a \t b\n", None, ""])).to_list() == ["a b", "", ""]
    assert text_column(pl.Series([1995.0, None, 2.5])).to_list() == ["1995", "", "2.5"]


def test_report_refuses_above_the_share() -> None:
    report = RowReport("interactions", rows=100, files=["f.csv"])
    report.add("missing user", range(5, 7), 2)
    report.check(0.02)
    with pytest.raises(ValueError, match=r"2 of 100 .*missing user.*f\.csv:5.*max_malformed_share"):
        report.check(0.019)
