"""KuaiRec 2.0 as released: views with their watch ratio, and captions of the videos (CSV).

Rows without a time are counted and left out: the small matrix has 3.9 % of them, and they have no
place in a sequence. The matrices are plain CSV. The captions are not: some hold stray quotes or
bare carriage returns, and a plain parser swallows the records that follow. What is sure of a record
is its first value, the number of the video, and its last six, the categories with their numbers.
So records are told apart by these, and one that is no valid CSV is split from both ends.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from glass.config import DataConfig
from glass.data.cleaning import Cleaner
from glass.data.delimited import WRONG_COLUMNS, read_delimited, read_header
from glass.data.raw import RawData, RowReport, Source, existing_file, require_columns
from glass.data.readers.columns import make_items

_LOG = logging.getLogger(__name__)
CAPTIONS = "kuairec_caption_category.csv"
FOLDERS = ("", "data", "KuaiRec 2.0/data")
"""Where below `data.path` the files may be."""
EVENT_COLUMNS = {
    "user": "user_id",
    "item": "video_id",
    "time": "timestamp",
    "watch_ratio": "watch_ratio",
}
CATEGORIES = [f"{level}_level_category" for level in ("first", "second", "third")]
ITEM_COLUMNS = [
    *("video_id", "manual_cover_text", "caption", "topic_tag"),
    *(f"{category}_{part}" for category in CATEGORIES for part in ("id", "name")),
]
TEXT_COLUMNS = ("caption", "topic_tag", *(f"{category}_name" for category in CATEGORIES))
"""Columns that make an item's text where `data.text_columns` names none."""
_VIDEO = re.compile("[0-9]+,")
_NUMBER = re.compile(r"-?[0-9]+(\.0)?")
"""A category's number; pandas writes 8.0 where the column has gaps."""


def find(config: DataConfig) -> list[Source]:
    """The matrix that the settings name, and the captions."""
    if not config.path:
        raise ValueError("data.path is empty: format 'kuairec' needs the folder of the release")
    if config.min_rating is not None or config.rating_column:
        raise ValueError(
            "data.min_rating and data.rating_column do nothing in format 'kuairec': remove them "
            "and set data.kuairec.watch_ratio"
        )
    root, sources = Path(config.path), []
    for role, name in (
        ("interactions", f"{config.kuairec.matrix}_matrix.csv"),
        ("items", CAPTIONS),
    ):
        places = [root / folder / name for folder in FOLDERS]
        found = [path for path in places if path.exists()]
        if not found:
            raise ValueError(
                f"data.path: {root} has no {name}, and no folder {' or '.join(FOLDERS[1:])} with it"
            )
        sources.append(Source(role, existing_file(found[0], "data.path"), name))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read the views above `data.kuairec.watch_ratio`, and titles and texts of the videos."""
    matrix, captions = sources
    names = read_header(matrix.path, ",", quoted=True)
    settings = [("a column of kuairec", column) for column in EVENT_COLUMNS.values()]
    require_columns(str(matrix.path), names, settings)
    # Recovery counts values from both ends, so here the order matters too.
    if read_header(captions.path, ",", quoted=True) != ITEM_COLUMNS:
        raise ValueError(
            f"{captions.path}: the first line has to be {','.join(ITEM_COLUMNS)}; is this another "
            "file, or has it been saved in another form?"
        )
    texts = [("data.text_columns", column) for column in config.text_columns]
    titles = [("data.title_column", config.title_column)] if config.title_column else []
    require_columns(str(captions.path), ITEM_COLUMNS, texts + titles)
    reports = (RowReport("interactions"), RowReport("items"))
    dropped = {"without_time": 0, "watched_too_little": 0}
    events = _events(config, matrix, names, reports[0], dropped)
    return RawData(events, _items(config, captions, reports[1]), reports, dropped)


def _events(
    config: DataConfig, source: Source, names: list[str], report: RowReport, dropped: dict[str, int]
) -> Iterator[pl.DataFrame]:
    report.start(source.label)
    clean_rows = Cleaner(report, ("user", "item"), ("watch_ratio",))
    columns = list(EVENT_COLUMNS.values())
    for frame in read_delimited(
        source.path, columns, report, names=names, delimiter=",", quoted=True
    ):
        views = frame.select("row", **{new: pl.col(name) for new, name in EVENT_COLUMNS.items()})
        timed = views.filter(pl.col("time").str.strip_chars() != "")
        dropped["without_time"] += views.height - timed.height
        clean = clean_rows(timed)
        watched = clean.filter(pl.col("watch_ratio") > config.kuairec.watch_ratio)
        dropped["watched_too_little"] += clean.height - watched.height
        yield watched.select("time", "row", raw_user_id="user", raw_item_id="item")


def _items(config: DataConfig, source: Source, report: RowReport) -> Iterator[pl.DataFrame]:
    report.start(source.label)
    schema = {"row": pl.Int64(), **{name: pl.String() for name in ITEM_COLUMNS}}
    records = pl.DataFrame(list(_records(source.path, report)), schema=schema, orient="row")
    caption = pl.col("caption")
    table = records.with_columns(
        title=pl.when(caption != "").then(caption).otherwise("manual_cover_text")
    )
    texts = list(config.text_columns or TEXT_COLUMNS)
    yield from make_items([table], ("video_id", config.title_column or "title", texts), report)


def _records(path: Path, report: RowReport) -> Iterator[tuple[int | str, ...]]:
    """Line and values of each record; the others go to `report`."""
    bad, repaired = [], 0
    for line, lines in _blocks(path):
        if found := _as_csv("\n".join(lines)):
            report.rows += len(found)
            for values in found:
                yield (line, *_plain(values))
            continue
        # Not CSV: here every line that starts with a number and a comma starts a record.
        starts = [k for k, text in enumerate(lines) if k == 0 or _VIDEO.match(text)]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            report.rows += 1
            record = "\n".join(lines[start:end])
            if one := _as_csv(record):
                yield (line + start, *_plain(one[0]))
            elif ends := _from_both_ends(record):
                repaired += 1
                yield (line + start, *_plain(ends))
            else:
                bad.append(line + start)
    report.add(WRONG_COLUMNS, bad, len(bad))
    if repaired:
        _LOG.info("%s: %d badly quoted records were repaired", path, repaired)


def _blocks(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and lines up to one that ends as a record does.

    A quoted line break stays within a block. A quote that is never closed does not.
    """
    text = path.read_bytes().decode(errors="replace")
    block: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", " ").split("\n"), 1):
        if number == 1 or not (block or line.strip()):
            continue
        block.append(line)
        if _categories(line):
            yield number - len(block) + 1, block
            block = []
    if block:
        yield number - len(block) + 1, block


def _categories(text: str) -> list[str]:
    """The last six values, three times number and name; [] when they are something else."""
    last = text.rsplit(",", 2 * len(CATEGORIES))[1:]
    # A list of numbers in a caption has numbers in the places of the names.
    good = len(last) == 2 * len(CATEGORIES) and all(map(_NUMBER.fullmatch, last[::2]))
    return last if good and not any(map(_NUMBER.fullmatch, last[1::2])) else []


def _as_csv(text: str) -> list[list[str]]:
    """The records of `text`; [] when it is no valid CSV with KuaiRec's columns."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error:
        return []
    good = all(
        len(row) == len(ITEM_COLUMNS)
        and re.fullmatch("[0-9]+", row[0])
        and all(number == "" or _NUMBER.fullmatch(number) for number in row[4::2])
        for row in rows
    )
    return rows if good else []


def _from_both_ends(text: str) -> list[str]:
    """Values of one record whose cover text, caption or tags are badly quoted; [] for none."""
    categories = _categories(text)
    if not categories or not _VIDEO.match(text):
        return []
    video, _, middle = text.rsplit(",", len(categories))[0].partition(",")
    # Tags are one value in brackets, so they begin at the last bracket that begins a value.
    tagged = middle.rstrip('"').endswith("]")
    at = max(middle.rfind(",["), middle.rfind(',"[')) if tagged else middle.rfind(",")
    cover, comma, caption = middle[: max(at, 0)].partition(",")
    if not comma:
        return []
    return [video, *(_unquoted(value) for value in (cover, caption, middle[at + 1 :], *categories))]


def _unquoted(value: str) -> str:
    return value.strip('"').replace('""', '"')


def _plain(values: list[str]) -> list[str]:
    """Values without placeholders, and tags without their brackets."""
    plain = ["" if value.strip() == "UNKNOWN" else value.strip() for value in values]
    tags = plain[3].removeprefix("[").removesuffix("]").split(",")
    plain[3] = ", ".join(tag.strip() for tag in tags if tag.strip())
    plain[4::2] = ["" if value == "-124" else value for value in plain[4::2]]
    return plain
