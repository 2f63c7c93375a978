"""Large text files line by line, plain or gzip'd, in bounded memory, and the objects in them."""

from __future__ import annotations

import ast
import gzip
import json
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from glass.data.compressed import refuse_compressed
from glass.data.raw import RowReport, Source
from glass.data.readers.item_objects import BadRows

MAX_LINE = 1 << 22
"""Bytes of a line; longer ones are malformed."""
MAX_EXPANSION = 100
"""A gzip'd file may unpack to this many times its size; texts reach about 10."""
UNJUDGED = 64 << 20
"""Bytes that any file may unpack to."""
_MAX_LITERAL = 1 << 20
# Strings, numbers, brackets and constants: no operators and no calls, which Python's parser would
# have to nest. Every branch begins with other characters, so that no text makes it go back far.
_LITERAL = re.compile(
    r"""(?:
        [uU]?'[^'\\]*(?:\\.[^'\\]*)*'
      | [uU]?"[^"\\]*(?:\\.[^"\\]*)*"
      | (?<=[\[:,])\s*-(?=\d)
      | (?<=\d)[eE][-+]?(?=\d)
      | True | False | None
      | [\s{}\[\]:,.\d]
    )*""",
    re.VERBOSE | re.DOTALL,
)


def read_lines(path: Path, setting: str) -> Iterator[bytes | None]:
    """Lines with their ends; None for one of more than `MAX_LINE` bytes.

    Raises:
        ValueError: the file cannot be read or unpacked, or unpacks to more than `MAX_EXPANSION`
            times its size and more than `UNJUDGED` bytes.
    """
    too_long = False
    for piece in _pieces(path, setting):
        if len(piece) == MAX_LINE and not piece.endswith(b"\n"):
            too_long = True
            continue
        yield None if too_long else piece
        too_long = False
    if too_long:
        yield None


def read_objects(
    source: Source, setting: str, report: RowReport
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that holds one; the others are reported.

    An object is JSON, or a Python dict of plain values, which Amazon's older files have. Nothing in
    it is executed.
    """
    report.start(source.label)
    bad = BadRows(report)
    for row, line in enumerate(read_lines(source.path, setting), 1):
        if line is not None and not line.strip():
            report.blank += 1
            continue
        report.rows += 1
        entry = None if line is None else _parse(line.decode("utf-8-sig", "replace"))
        if entry is not None:
            yield row, entry
        else:
            bad.add("line is too long" if line is None else "no object", row)
    bad.close()


def _pieces(path: Path, setting: str) -> Iterator[bytes]:
    """Lines, those of more than `MAX_LINE` bytes in several pieces."""
    done = 0
    try:
        packed = path.suffix.lower() == ".gz"
        if not packed:
            refuse_compressed(path)
        limit = max(UNJUDGED, MAX_EXPANSION * path.stat().st_size) if packed else math.inf
        with cast(IO[bytes], gzip.open(path, "rb") if packed else path.open("rb")) as file:
            while piece := file.readline(MAX_LINE):
                done += len(piece)
                if done > limit:
                    break
                yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{setting}: {path} is damaged ({error}): get it again") from error
    except OSError as error:
        raise ValueError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    if done > limit:
        raise ValueError(
            f"{setting}: {path} unpacks to more than {MAX_EXPANSION} times its size; if that is "
            f"right, unpack it yourself (gunzip) and name {path.with_suffix('').name}"
        )


def _parse(text: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = _python_literal(text)
    return entry if isinstance(entry, dict) else None


def _python_literal(text: str) -> Any:
    if len(text) > _MAX_LITERAL or not _LITERAL.fullmatch(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes such as \d in a text
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
