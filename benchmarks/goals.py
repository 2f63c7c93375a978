"""What the jobs are to reach, judged by the rows of their CSVs: ratios of one run; higher is better
unless `most` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Cells = Mapping[str, str]
"""A row of a CSV."""
Value = Callable[[Cells], float | None]


def column(name: str) -> Value:
    """The cell of that name; None where it is empty."""

    def value(row: Cells) -> float | None:
        cell = row.get(name, "")
        return float(cell) if cell else None

    return value


def inverse(name: str) -> Value:
    """Of a ratio that is the other way round."""

    def value(row: Cells) -> float | None:
        found = column(name)(row)
        return 1 / found if found else None

    return value


def ratio(over: str, under: str) -> Value:
    """Of two cells."""

    def value(row: Cells) -> float | None:
        above, below = column(over)(row), column(under)(row)
        return above / below if above is not None and below else None

    return value


@dataclass(frozen=True)
class Goal:
    """One line of the summary. Either `least` or `most` is given."""

    job: str
    title: str
    value: Value
    least: float | None = None
    most: float | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    """Cells that the rows have which count."""

    @property
    def bound(self) -> str:
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:.3g}"

    def met(self, value: float) -> bool:
        if self.least is not None:
            return value >= self.least
        assert self.most is not None
        return value <= self.most

    def values(self, rows: Sequence[Cells]) -> list[float]:
        """Of the rows that count and have one."""
        counted = (row for row in rows if all(row.get(k) == v for k, v in self.where.items()))
        found = (self.value(row) for row in counted)
        return [value for value in found if value is not None]


_EAGER = column("eager / ours, pages kept")
_MEMORY = ratio("ours extra MiB", "eager extra MiB")
_TABLE = {"K": "128", "items": "13000", "histories": "paper"}
_SMALL, _LARGE = {"items": "12000"}, {"items": "1000000"}

GOALS = (
    Goal("sid_tier", "plain / ours, K 128, N 4", _EAGER, 50, where={**_TABLE, "N": "4"}),
    Goal("sid_tier", "plain / ours, K 128, N 20", _EAGER, 50, where={**_TABLE, "N": "20"}),
    Goal("sid_tier", "plain / ours, 1,000,000 items", _EAGER, 50, where=_LARGE),
    Goal("sid_tier", "ours / `index_select`", column("ours / index_select"), most=2),
    Goal("sid_tier_embeddings", "plain / ours", _EAGER, 5),
    Goal(
        "sid_tier_embeddings", "`torch.compile` / ours", column("compiled / ours, pages kept"), 3
    ),
    Goal("sid_tier_embeddings", "ours / product", column("ours / floor"), most=1.5),
    Goal("sid_tier_embeddings", "extra memory, ours / plain", _MEMORY, most=0.05),
    Goal("hard_search", "plain / ours", _EAGER, 50),
    Goal("hard_search_attention", "plain / ours", _EAGER, 10),
    Goal("codebook_assign", "plain / ours, both passes", _EAGER, 1.5, where={"pass": "both"}),
    Goal(
        "codebook_assign", "literal / ours, both passes", inverse("ours / literal"), 2.5,
        where={"pass": "both"},
    ),
    Goal(
        "codebook_assign", "extra memory, ours / plain", _MEMORY, most=0.5, where={"pass": "both"}
    ),
    Goal("trie_step", "STATIC / ours", inverse("ours / STATIC"), 2),
    Goal("trie_decode", "STATIC / ours, 12,000 items", inverse("ours / STATIC"), 2, where=_SMALL),
    Goal("trie_decode", "STATIC / ours, 1,000,000", inverse("ours / STATIC"), 2, where=_LARGE),
    Goal("trie_growth", "time / that of the fewest items", column("of the least"), most=1.5),
    Goal(
        "generation", "GLASS: released scheme / ours", column("plain / ours"), 10,
        where={"model": "GLASS"},
    ),
    Goal("training_step", "GLASS: plain / ours", column("plain / ours, pages kept"), 2),
    Goal(
        "intrr_training", "samples/s, IntRR / flattened, same items",
        column("ours / same items"), 2.5,
    ),
    Goal(
        "intrr_generation", "flattened, same items / IntRR, 50 beams",
        column("same items / ours"), 5, where={"W": "50"},
    ),
)  # fmt: skip
