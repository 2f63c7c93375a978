"""Times of any type as seconds since 1970, and which of them cannot be."""

from __future__ import annotations

import logging
import time

import polars as pl

_LOG = logging.getLogger(__name__)
MAX_EXACT = 2**53
"""The largest range in which a float is still exact to the whole number."""
SECONDS_A_DAY = 86_400
_CALENDAR_DAYS = 90_000_000
"""Days around 1970 that polars turns into dates and seconds; beyond it panics."""
_DATE_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
)
_ZONED_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%dT%H:%M:%S%.f%z")


class Times:
    """Seconds of the time columns of one file's tables.

    A text column holds numbers or dates, whichever at least half of the values of the first table
    are. Times later than a day from now are malformed, unless most of the first table are: then the
    column counts something else than seconds, such as milliseconds, and orders events as well.
    """

    def __init__(self) -> None:
        self._numeric: bool | None = None
        self._latest = int(time.time()) + SECONDS_A_DAY
        self._judged = self._is_clock = False

    def __call__(self, column: pl.Series) -> pl.Series:
        """i64 seconds, null where a value is no time."""
        seconds = self._seconds(column)
        readable = len(seconds) - seconds.null_count()
        if readable and not self._judged:
            self._judged = True
            self._is_clock = 2 * int((seconds > self._latest).sum()) <= readable
            if not self._is_clock:
                _LOG.warning(
                    "most times lie in the future, up to %s as seconds; are they milliseconds? "
                    "The order of events is right, the time spans are not",
                    seconds.max(),
                )
        return seconds.alias(column.name)

    def reasons(self, seconds: pl.Series) -> list[pl.Expr]:
        """Why times are malformed, null where they are not.

        None is below 0, so that the difference of two never overflows.
        """
        found: list[pl.Expr] = [pl.when(seconds < 0).then(pl.lit("time before 1970"))]
        if self._is_clock:
            found.append(pl.when(seconds > self._latest).then(pl.lit("time in the future")))
        return found

    def _seconds(self, column: pl.Series) -> pl.Series:
        name, dtype = column.name, column.dtype
        seconds: pl.Series
        if dtype.is_integer():
            seconds = column.cast(pl.Int64, strict=False)
        elif dtype.is_float() or dtype == pl.Decimal:
            seconds = _floor_seconds(column.cast(pl.Float64))
        elif dtype in (pl.Date, pl.Datetime):
            moment = within_calendar(column)
            seconds = moment.cast(pl.Datetime("us")).dt.epoch("us") // 1_000_000
            if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
                seconds = moment.dt.convert_time_zone("UTC").dt.epoch("us") // 1_000_000
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


def within_calendar(column: pl.Series) -> pl.Series:
    """A column of dates or moments, null where no calendar has a day for the number."""
    days = column.to_physical()
    if isinstance(column.dtype, pl.Datetime):
        second = {"ms": 10**3, "us": 10**6, "ns": 10**9}[column.dtype.time_unit]
        days = days // (SECONDS_A_DAY * second)
    inside = days.is_between(-_CALENDAR_DAYS, _CALENDAR_DAYS)
    return pl.select(pl.when(inside).then(column)).to_series().alias(column.name)


def _floor_seconds(value: pl.Series) -> pl.Series:
    inside = (value.is_finite() & (value.abs() < MAX_EXACT)).fill_null(False)
    floored = value.floor().cast(pl.Int64, strict=False)
    return pl.select(pl.when(inside).then(floored)).to_series()


def _parse_numbers(text: pl.Series) -> pl.Series:
    integers = text.cast(pl.Int64, strict=False)
    floats = _floor_seconds(text.cast(pl.Float64, strict=False))
    return pl.select(pl.coalesce(integers, floats)).to_series()


def _parse_dates(text: pl.Series) -> pl.Series:
    dates = text.str.replace(r"[zZ]$", "+0000")
    date_only = dates.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    naive = [dates.str.to_datetime(f, time_unit="us", strict=False) for f in _DATE_FORMATS]
    zoned = [
        dates.str.to_datetime(
            f, time_unit="us", strict=False, time_zone="UTC"
        ).dt.replace_time_zone(None)
        for f in _ZONED_FORMATS
    ]
    moment = pl.select(pl.coalesce(date_only, *naive, *zoned)).to_series()
    seconds: pl.Series = moment.dt.epoch("us") // 1_000_000
    return seconds
