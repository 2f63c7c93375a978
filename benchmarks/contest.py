"""Ours against others on the same batches: first every result is checked, then all are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.agreement import Agree, exactly
from benchmarks.machine import pages_kept, peak_extra_mib
from benchmarks.output import Row, number
from benchmarks.timing import Side, fastest, interleaved

Run = Callable[[Any], Any]
"""The work on one batch of the job."""


def rotated(run: Run, batches: Sequence[Any], calls: int = 1) -> Side:
    def side(number: int) -> None:
        for _ in range(calls):
            run(batches[number % len(batches)])

    return side


@dataclass(frozen=True)
class Contest:
    """What is compared, and on what."""

    batches: Sequence[Any]
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
    agree: Agree = exactly
    """What a result must have in common with the reference's."""
    ours_agree: Agree = exactly
    warm_calls: int = 0
    """Calls of a side timed together, with its inputs in the caches: for what takes microseconds
    and has its inputs there in a program too. 0: one call, with empty caches."""

    def best_forms(self) -> dict[str, str]:
        """The fastest plain and the fastest compiled form, under "eager" and "compiled"."""
        found = {}
        for kind, forms in (("eager", self.plain), ("compiled", self.compiled)):
            if forms:
                runs = {name: rotated(run, self.batches) for name, run in forms.items()}
                found[kind] = fastest(runs)
        return found

    def check(self, sides: Mapping[str, Run]) -> None:
        """Every side against the reference on every batch; raises DiffersError."""
        for batch in self.batches:
            truth = self.reference(batch)
            self.ours_agree("ours", self.ours(batch), truth, batch)
            for name, run in sides.items():
                self.agree(name, run(batch), truth, batch)

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
        calls = max(self.warm_calls, 1)
        runs = {name: rotated(run, self.batches, calls) for name, run in timed.items()}
        row: Row = {f"{kind} form": name for kind, name in forms.items()}
        times = interleaved(runs, seconds=seconds, least=least, evict=not self.warm_calls)
        for name, timing in times.items():
            row |= timing.of_one(calls).columns(name)
        return row

    def memory(self, times: Row) -> Row:
        """Peak extra MiB of ours and of the forms that `times` says were the fastest."""
        batch = self.batches[0]
        row: Row = {"ours extra MiB": peak_extra_mib(partial(self.ours, batch))}
        for kind, forms in (("eager", self.plain), ("compiled", self.compiled)):
            if forms:
                form = forms[str(times[f"{kind} form"])]
                row[f"{kind} extra MiB"] = peak_extra_mib(partial(form, batch))
        return row


def _ratio(row: Row, name: str) -> float:
    return number(row[f"{name} ms"]) / number(row["ours ms"])
