"""Numbers and untrusted strings as people read them; one place, so that all tables agree."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
MISSING = DASH
_UNTRAINED = ("popularity", "own_frequency", "recent_frequency", "item_knn")
_TRAINED = (
    "flattened_hstu",
    "intrr_hstu",
    "flattened_transformer",
    "intrr_transformer",
    "tiger",
    "glass",
)
_SYSTEM_LABELS = {
    "glass": "GLASS",
    "tiger": "TIGER",
    "intrr_transformer": "IntRR (Transformer)",
    "intrr_hstu": "IntRR (HSTU)",
    "flattened_transformer": "Flattened (Transformer)",
    "flattened_hstu": "Flattened (HSTU)",
    "item_knn": "Item kNN",
    "own_frequency": "Own frequency",
    "recent_frequency": "Recent frequency",
    "popularity": "Popularity",
}
# Not neural: these need no training and have no beams.
BASELINES = frozenset(_UNTRAINED)


def clean(value: object, limit: int = 160) -> str:
    """One line of `value` that neither a terminal nor a page can be steered with.

    Control, bidirectional and surrogate characters are removed, white space is joined, and text
    longer than `limit` characters ends with an ellipsis. HTML is not escaped here.
    """
    # Cut before scanning: a hostile title may hold megabytes.
    text = str(value)[: 20 * limit]
    kept = (" " if c.isspace() else c for c in text if _printable(c))
    text = re.sub(" +", " ", "".join(kept)).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _printable(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"}


def as_number(value: object) -> float | None:
    """`value` as a finite float, or None where it is missing, NaN or no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def floats(values: object) -> np.ndarray:
    """float64 array [n] of an iterable of numbers; None and text become NaN, no list is empty."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64).reshape(-1)
    if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
        return np.zeros(0)
    numbers = (as_number(value) for value in values)
    return np.array([np.nan if v is None else v for v in numbers], dtype=np.float64)


def lookup(source: object, *path: object) -> Any:
    """`source[path[0]][path[1]]...`, or None as soon as a step is missing."""
    for key in path:
        if not isinstance(source, Mapping):
            return None
        source = source.get(key)
    return source


def decimal(value: object, digits: int = 4) -> str:
    """Fixed number of decimals, with a true minus sign."""
    number = as_number(value)
    return MISSING if number is None else f"{number:.{digits}f}".replace("-", MINUS)


def signed(value: object, digits: int = 4) -> str:
    """Like `decimal`, always with a sign."""
    number = as_number(value)
    return MISSING if number is None else f"{number:+.{digits}f}".replace("-", MINUS)


def interval(bounds: object) -> str:
    """[low, high] as `.1150-.1230`, short enough to stand below each number of a wide table."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return ""
    low, high = (decimal(bound) for bound in bounds)
    if MISSING in (low, high):
        return ""
    return re.sub(r"(?<!\d)0\.", ".", f"{low}{DASH}{high}")


def count(value: object) -> str:
    """Whole number with thousands separators."""
    number = as_number(value)
    return MISSING if number is None else f"{round(number):,}".replace("-", MINUS)


def percent(value: object, digits: int = 1) -> str:
    """Share as percentage."""
    number = as_number(value)
    return MISSING if number is None else f"{100 * number:.{digits}f} %".replace("-", MINUS)


def duration(seconds: object) -> str:
    """Seconds as `4.2 s`, `3 min 20 s` or `1 h 02 min`."""
    number = as_number(seconds)
    if number is None:
        return MISSING
    # 59.95 would otherwise print as 60.0 s.
    if number < 59.95:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(number / 60), 60)
    return f"{hours} h {minutes:02d} min"


def memory(megabytes: object) -> str:
    """Megabytes as MB or GB."""
    number = as_number(megabytes)
    if number is None:
        return MISSING
    return f"{number:.0f} MB" if number < 999.5 else f"{number / 1000:.1f} GB"


def plain(value: object) -> str:
    """Any scalar: whole numbers with separators, others with at most four significant decimals."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = as_number(value)
    if number is None:
        return MISSING if value is None or isinstance(value, Real) else clean(value)
    if number.is_integer():
        return count(number)
    return decimal(number, 4 if abs(number) < 1 else 1 if abs(number) >= 100 else 2)


def system_label(system: str) -> str:
    """Name of a system as printed."""
    return _SYSTEM_LABELS.get(system, clean(system, 40))


def ordered_systems(systems: Mapping[str, Any]) -> list[str]:
    """Baselines, then unknown systems as given, then the known models, GLASS last."""
    middle = len(_UNTRAINED) - 0.5
    ranks = {name: float(rank) for rank, name in enumerate((*_UNTRAINED, *_TRAINED))}
    return sorted(systems, key=lambda name: ranks.get(name, middle))


def pair_label(first: str, second: str) -> str:
    """`GLASS minus TIGER` with the sign."""
    return f"{system_label(first)} {MINUS} {system_label(second)}"


def metric_label(metric: str) -> str:
    """`item_ndcg@10` as `NDCG@10 (item)`, `split_item_ndcg@10` as `NDCG@10 (item, split)`."""
    whole = metric.removeprefix("split_")
    name = whole.removeprefix("item_")
    head, _, cutoff = name.partition("@")
    known = {"ndcg": "NDCG", "hit": "Hit", "recall": "Recall", "mrr": "MRR"}
    label = known.get(head.lower(), clean(head, 30)) + (f"@{clean(cutoff, 10)}" if cutoff else "")
    if name == whole:
        return label
    return f"{label} (item)" if whole == metric else f"{label} (item, split)"


def key_label(key: object) -> str:
    """A dictionary key as words: `num_users` -> `Num users`, `p50` -> `Median`."""
    text = clean(key, 60)
    known = {"p50": "Median", "p90": "90th percentile", "p99": "99th percentile"}
    known |= {"p10": "10th percentile", "valid": "Validation", "mean": "Mean", "max": "Maximum"}
    if text in known:
        return known[text]
    words = re.sub(r"\bsid(s?)\b", r"SID\1", text.replace("_", " ").replace("sha256", "SHA-256"))
    return words[:1].upper() + words[1:]
