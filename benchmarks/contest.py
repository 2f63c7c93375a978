"""Ours against others on the same batches: first every result is checked, then all are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.histories import Batch
from benchmarks.machine import pages_kept
from benchmarks.output import Row, number
from benchmarks.timing import Side, fastest, interleaved

Run = Callable[[Batch], Tensor]


class DiffersError(RuntimeError):
    """A side's result is not the reference's: its time would mean nothing."""


def check_equal(name: str, got: Tensor, truth: Tensor) -> None:
    if got.shape != truth.shape or not torch.equal(got, truth):
        raise DiffersError(f"{name} differs from the reference")


def check_close(name: str, got: Tensor, truth: Tensor, lengths: Tensor, share: float) -> None:
    """At most `share` of all (event, code) pairs may be in another tier than in the reference."""
    if got.shape != truth.shape:
        raise DiffersError(f"{name}: shape {list(got.shape)}, the reference {list(truth.shape)}")
    moved = float((got.double() - truth.double()).abs_().sum((1, 2)) @ lengths.double()) / 2
    pairs = int(lengths.sum()) * truth.shape[1]
    if not moved <= share * pairs:  # also where it is not a number
        raise DiffersError(f"{name}: {moved:.0f} of {pairs} pairs differ from the reference")


def rotated(run: Run, batches: Sequence[Batch]) -> Side:
    return lambda number: run(batches[number % len(batches)])


@dataclass(frozen=True)
class Contest:
    """What is compared, and on what."""

    batches: Sequence[Batch]
    reference: Run
    ours: Run
    plain: Mapping[str, Run]
    """Ways to write it in plain PyTorch; the fastest is timed."""
    compiled: Mapping[str, Run] = field(default_factory=dict)
    """The same of compiled ways."""
    others: Mapping[str, Run] = field(default_factory=dict)
    """Timed beside: they give the same result."""
    yardsticks: Mapping[str, Run] = field(default_factory=dict)
    """Timed beside: they do less, and give something else."""
    share: float = 0.0
    """Part of the pairs that plain float32 may put into the next tier."""

    def best_forms(self) -> dict[str, str]:
        """The fastest plain and the fastest compiled form, under "eager" and "compiled"."""
        found = {}
        for kind, forms in (("eager", self.plain), ("compiled", self.compiled)):
            if forms:
                runs = {name: rotated(run, self.batches) for name, run in forms.items()}
                found[kind] = fastest(runs)
        return found

    def check(self, sides: Mapping[str, Run]) -> None:
        """Every side against the reference on every batch: ours bit for bit.

        Raises DiffersError. The others divide in float32, which rounds once more.
        """
        for batch in self.batches:
            truth = self.reference(batch)
            check_equal("ours", self.ours(batch), truth)
            for name, run in sides.items():
                check_close(name, run(batch), truth, batch.lengths, self.share + 1e-6)

    def run(self, seconds: float, least: int = 5) -> Row:
        """Columns of the row: times as memory is by default, then with pages kept, and ratios.

        Raises DiffersError before anything is timed.
        """
        with pages_kept():
            forms = self.best_forms()
            self.check({**self.others, **self._sides(forms)})
            kept = self._times(forms, seconds, least)
        row = self._times(forms, seconds, least)
        names = [name for name in ("ours", "eager", "compiled") if f"{name} ms" in row]
        for name in names:
            row |= {f"{name} ms, pages kept{q}": kept[f"{name} ms{q}"] for q in ("", " q1", " q3")}
        for name in names[1:]:
            row[f"{name} / ours"] = _ratio(row, name)
            row[f"{name} / ours, pages kept"] = _ratio(kept, name)
        for name in (*self.others, *self.yardsticks):
            row[f"ours / {name}"] = 1 / _ratio(row, name)
        return row

    def times(self, seconds: float, least: int = 5) -> Row:
        """Columns of the times alone, with pages kept; raises DiffersError."""
        with pages_kept():
            forms = self.best_forms()
            self.check({**self.others, **self._sides(forms)})
            return self._times(forms, seconds, least)

    def _sides(self, forms: Mapping[str, str]) -> dict[str, Run]:
        """Names that say which form it is."""
        every = {"eager": self.plain, "compiled": self.compiled}
        return {f"{kind} {name}": every[kind][name] for kind, name in forms.items()}

    def _times(self, forms: Mapping[str, str], seconds: float, least: int) -> Row:
        every = {"eager": self.plain, "compiled": self.compiled}
        timed = {"ours": self.ours, **self.others}
        timed |= {kind: every[kind][name] for kind, name in forms.items()}
        timed |= self.yardsticks
        runs = {name: rotated(run, self.batches) for name, run in timed.items()}
        row: Row = {f"{kind} form": name for kind, name in forms.items()}
        for name, timing in interleaved(runs, seconds=seconds, least=least).items():
            row |= timing.columns(name)
        return row


def _ratio(row: Row, name: str) -> float:
    return number(row[f"{name} ms"]) / number(row["ours ms"])
