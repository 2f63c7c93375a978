"""Columns of any type into ids, seconds and ratings; rows that do not fit are reported."""

from __future__ import annotations

import logging

import polars as pl

from glass.data.raw import NUM_EXAMPLES, RowReport

_LOG = logging.getLogger(__name__)
_MAX_SECONDS = 2**53  # the largest range in which a float time is still exact to the second
_PLAUSIBLE_SECONDS = 10**11  # year 5138
DATE_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
)
ZONED_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%dT%H:%M:%S%.f%z")


class Cleaner:
    """Turns the tables of one file into their inner types and leaves malformed rows out.

    Args:
        report: takes the count and the first places of every reason.
        ids: columns that become strings. Whole floats (pandas' integers with gaps) read as
            integers.
        numbers: columns that become f64.

    A column `time` becomes i64 seconds since 1970 UTC: numbers are seconds (fractions are cut off),
    dates are `YYYY-MM-DD`, perhaps with a time of day and an offset. A text column is one or the
    other, whichever at least half of the values of the first table are.
    """

    def __init__(
        self, report: RowReport, ids: tuple[str, ...], numbers: tuple[str, ...] = ()
    ) -> None:
        self._report, self._ids, self._numbers = report, ids, numbers
        self._times = _Times()

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that are in order; `frame` has `row` i64 and the columns, of any type."""
        columns = {name: _id_column(frame[name]) for name in self._ids}
        columns |= {name: _number_column(frame[name]) for name in self._numbers}
        if "time" in frame.columns:
            columns["time"] = self._times(frame["time"])
        reasons: list[pl.Expr] = []
        for name, values in columns.items():
            reasons.append(pl.when(_missing(frame[name])).then(pl.lit(f"missing {name}")))
            reasons.append(pl.when(values.is_null()).then(pl.lit(f"unreadable {name}")))
            if name in self._ids:
                reasons.append(pl.when(_broken(values)).then(pl.lit(f"broken {name}")))
        reason = pl.select(pl.coalesce(reasons).alias("reason")).to_series()
        bad = pl.DataFrame([frame["row"], reason]).drop_nulls()
        for (text,), rows in bad.group_by("reason", maintain_order=True):
            self._report.add(str(text), rows["row"].head(NUM_EXAMPLES).to_list(), rows.height)
        clean = frame.with_columns(values.alias(name) for name, values in columns.items())
        return clean.filter(reason.is_null())


def text_column(column: pl.Series) -> pl.Series:
    """Any column as text without blank runs; "" where there is none."""
    if column.dtype.is_float():
        column = _id_column(column)
    text = column.cast(pl.String).fill_null("")
    stripped: pl.Series = text.str.replace_all(r"\s+", " ").str.strip_chars()
    return stripped


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


def _id_column(column: pl.Series) -> pl.Series:
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise ValueError(
            f"column {column.name!r} has type {column.dtype}: ids have to be texts or integers"
        )
    texts: pl.Series = column.cast(pl.String)
    if column.dtype.is_float():
        whole = column.is_finite() & (column == column.floor()) & (column.abs() < _MAX_SECONDS)
        as_integer = column.cast(pl.Int64, strict=False).cast(pl.String)
        texts = as_integer.zip_with(whole.fill_null(False), texts)
    return texts


def _number_column(column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        raise ValueError(f"column {column.name!r} has type {column.dtype}, which is not a number")
    value = column.cast(pl.Float64, strict=False)
    return pl.select(pl.when(value.is_finite()).then(value)).to_series().alias(column.name)


class _Times:
    """Seconds of the time columns of one file's tables."""

    def __init__(self) -> None:
        self._numeric: bool | None = None
        self._warned = False

    def __call__(self, column: pl.Series) -> pl.Series:
        seconds = self._seconds(column)
        newest = seconds.max()
        if isinstance(newest, int) and newest > _PLAUSIBLE_SECONDS and not self._warned:
            self._warned = True
            _LOG.warning(
                "times reach %d, which as seconds is far in the future; are they milliseconds? "
                "The order of events is right, the time spans are not",
                newest,
            )
        return seconds.alias(column.name)

    def _seconds(self, column: pl.Series) -> pl.Series:
        name, dtype = column.name, column.dtype
        seconds: pl.Series
        if dtype.is_integer():
            seconds = column.cast(pl.Int64, strict=False)
        elif dtype.is_float() or dtype == pl.Decimal:
            seconds = _floor_seconds(column.cast(pl.Float64))
        elif dtype in (pl.Date, pl.Datetime):
            seconds = column.cast(pl.Datetime("us")).dt.epoch("us") // 1_000_000
            if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
                seconds = column.dt.convert_time_zone("UTC").dt.epoch("us") // 1_000_000
        elif dtype == pl.String:
            seconds = self._parsed(column.str.strip_chars())
        else:
            raise ValueError(
                f"column {name!r} has type {dtype}: a time has to be seconds or a date "
                "(YYYY-MM-DD, perhaps with HH:MM:SS)"
            )
        return seconds

    def _parsed(self, text: pl.Series) -> pl.Series:
        numbers = _parse_numbers(text)
        filled = int((text.fill_null("") != "").sum())
        if self._numeric is None and filled:
            self._numeric = 2 * (numbers.len() - numbers.null_count()) >= filled
        return numbers if self._numeric is not False else _parse_dates(text)


def _floor_seconds(value: pl.Series) -> pl.Series:
    inside = (value.is_finite() & (value.abs() < _MAX_SECONDS)).fill_null(False)
    floored = value.floor().cast(pl.Int64, strict=False)
    return pl.select(pl.when(inside).then(floored)).to_series()


def _parse_numbers(text: pl.Series) -> pl.Series:
    integers = text.cast(pl.Int64, strict=False)
    floats = _floor_seconds(text.cast(pl.Float64, strict=False))
    return pl.select(pl.coalesce(integers, floats)).to_series()


def _parse_dates(text: pl.Series) -> pl.Series:
    dates = text.str.replace(r"[zZ]$", "+0000")
    date_only = dates.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    naive = [dates.str.to_datetime(f, time_unit="us", strict=False) for f in DATE_FORMATS]
    zoned = [
        dates.str.to_datetime(
            f, time_unit="us", strict=False, time_zone="UTC"
        ).dt.replace_time_zone(None)
        for f in ZONED_FORMATS
    ]
    moment = pl.select(pl.coalesce(date_only, *naive, *zoned)).to_series()
    seconds: pl.Series = moment.dt.epoch("us") // 1_000_000
    return seconds
