"""Columns of any type into ids, seconds and ratings; rows that do not fit are reported."""

from __future__ import annotations

import logging

import polars as pl
from polars.exceptions import ComputeError, PolarsError

from glass.data.raw import NUM_EXAMPLES, RowReport
from glass.data.times import MAX_EXACT, Times, within_calendar

_LOG = logging.getLogger(__name__)
MAX_ID_BYTES = 512
"""Of an id in UTF-8; longer ones are malformed."""
MAX_TEXT = 10_000
"""Characters that are kept of one value of a text column; an encoder reads far fewer."""


class Cleaner:
    """Turns the tables of one file into their inner types and leaves malformed rows out.

    Args:
        report: takes the count and the first places of every reason.
        ids: columns that become strings. Whole floats (pandas' integers with gaps) read as
            integers.
        numbers: columns that become f64.

    A column `time` becomes i64 seconds since 1970 UTC, as `glass.data.times` says: numbers are
    seconds (fractions are cut off), dates are `YYYY-MM-DD`, perhaps with a time of day and an
    offset.
    """

    def __init__(
        self, report: RowReport, ids: tuple[str, ...], numbers: tuple[str, ...] = ()
    ) -> None:
        self._report, self._ids, self._numbers = report, ids, numbers
        self._times = Times()

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that are in order; `frame` has `row` i64 and the columns, of any type.

        Raises ValueError, with the file, for a type that cannot be read.
        """
        with self._report.naming_file():
            columns = {name: id_column(frame[name]) for name in self._ids}
            columns |= {name: _number_column(frame[name]) for name in self._numbers}
            if "time" in frame.columns:
                columns["time"] = self._times(frame["time"])
        reasons: list[pl.Expr] = []
        for name, values in columns.items():
            reasons.append(pl.when(_missing(frame[name])).then(pl.lit(f"missing {name}")))
            reasons.append(pl.when(values.is_null()).then(pl.lit(f"unreadable {name}")))
            if name in self._ids:
                long = values.str.len_bytes() > MAX_ID_BYTES
                reasons.append(pl.when(long).then(pl.lit(f"too long {name}")))
                reasons.append(pl.when(_broken(values)).then(pl.lit(f"broken {name}")))
            elif name == "time":
                reasons += self._times.reasons(values)
        reason = pl.select(pl.coalesce(reasons).alias("reason")).to_series()
        bad = pl.DataFrame([frame["row"], reason]).drop_nulls()
        for (text,), rows in bad.group_by("reason", maintain_order=True):
            self._report.add(str(text), rows["row"].head(NUM_EXAMPLES).to_list(), rows.height)
        clean = frame.with_columns(values.alias(name) for name, values in columns.items())
        return clean.filter(reason.is_null())


def id_column(column: pl.Series) -> pl.Series:
    """Any column as ids: texts. Whole floats (pandas' integers with gaps) are integers.

    Raises ValueError for a type that is neither text nor number.
    """
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise ValueError(
            f"column {column.name!r} has type {column.dtype}: ids have to be texts or integers"
        )
    return _as_text(column, "an id")


def text_column(column: pl.Series) -> pl.Series:
    """Any column as text without blank runs, at most `MAX_TEXT` characters; "" where there is none.

    Raises ValueError for a type that has no text, such as a list.
    """
    text = _as_text(column, "a text").fill_null("")
    stripped: pl.Series = text.str.replace_all(r"\s+", " ").str.strip_chars()
    if num_long := int((stripped.str.len_chars() > MAX_TEXT).sum()):
        _LOG.warning(
            "%d values of column %r are longer than %d characters and are cut off there",
            num_long,
            column.name,
            MAX_TEXT,
        )
        stripped = stripped.str.slice(0, MAX_TEXT).str.strip_chars()
    return stripped


def decoded_text(column: pl.Series) -> pl.Series:
    """Bytes as text; those that are not UTF-8 become U+FFFD."""
    try:
        text: pl.Series = column.cast(pl.String)
    except ComputeError:
        texts = [None if value is None else value.decode("utf-8", "replace") for value in column]
        text = pl.Series(column.name, texts, dtype=pl.String)
    return text


def _missing(column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        blank: pl.Series = column.fill_null("").str.strip_chars() == ""
        return blank
    if column.dtype.is_float():
        return column.is_nan().fill_null(True)
    return column.is_null()


def _broken(ids: pl.Series) -> pl.Series:
    """Line breaks come from a stray quote, U+FFFD from bytes that are not UTF-8."""
    broken: pl.Series = ids.str.contains("[\r\n\x00\ufffd]").fill_null(False)
    return broken


def _as_text(column: pl.Series, what: str) -> pl.Series:
    dtype = column.dtype
    if dtype == pl.Binary:
        return decoded_text(column)
    if dtype in (pl.Date, pl.Datetime):
        column = within_calendar(column)
    try:
        texts: pl.Series = column.cast(pl.String)
    except PolarsError as error:
        raise ValueError(
            f"column {column.name!r} has type {dtype}: {what} has to be one text or number; write "
            "it as text, or leave the column out"
        ) from error
    if dtype.is_float():
        whole = column.is_finite() & (column == column.floor()) & (column.abs() < MAX_EXACT)
        as_integer = column.cast(pl.Int64, strict=False).cast(pl.String)
        texts = as_integer.zip_with(whole.fill_null(False), texts)
    return texts


def _number_column(column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        raise ValueError(
            f"column {column.name!r} has type {column.dtype}, which is not a number; write it as "
            "numbers"
        )
    value = column.cast(pl.Float64, strict=False)
    return pl.select(pl.when(value.is_finite()).then(value)).to_series().alias(column.name)
