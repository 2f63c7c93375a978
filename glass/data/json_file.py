"""JSON objects as the pairs that the file holds, repeated keys included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glass.data.compressed import refuse_compressed


def read_pairs(path: Path, setting: str) -> list[tuple[str, Any]]:
    """(key, value) of the outermost object, in the file's order; a repeated key is there twice.

    Raises:
        ValueError: the file cannot be read, or is no JSON object in UTF-8; the message names
            `setting`, the file and, where it can, the line.
    """
    outermost: list[tuple[str, Any]] = []

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal outermost  # objects are closed from the inside out: the last one is the outermost
        outermost = pairs
        return dict(pairs)

    try:
        refuse_compressed(path)
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=remember)
    except OSError as error:
        raise ValueError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting}: {path} is not a text file in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{setting}: {path}:{error.lineno} is not valid JSON: {error.msg}"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{setting}: {path} cannot be read: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{setting}: {path} is nested too deeply to be read") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{setting}: {path} holds a JSON {type(content).__name__}; it must be an object"
        )
    return [(_plain(key), value) for key, value in outermost]


def _plain(text: str) -> str:
    """Halves of surrogate pairs, which JSON can escape, become U+FFFD, as other bad bytes do."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def id_text(value: Any) -> str | None:
    """An id of JSON as text: texts as they are, whole numbers in digits; None for anything else."""
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) else None
