"""`python -m benchmarks.compare OLD NEW [job ...]`: two runs, or two git revisions, side by side.

OLD and NEW are folders with the CSVs of `python -m benchmarks`, or revisions such as `HEAD~1`. A
revision is checked out beside this one, built, and runs the jobs; of two revisions, or a revision
and `.` (the working tree), each job runs in turn, so that what slows the machine slows both.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.output import Row, format_table

ROOT = Path(__file__).parent.parent
_UNITS = (" ms", " MiB")
"""Endings of the columns that are compared; of both, less is better."""
_BY_CHANCE = (" form",)
"""Endings of columns that say how an opponent did best; they differ from run to run."""
Key = tuple[tuple[str, str], ...]


class CannotCompareError(Exception):
    """What was asked for is not there, or cannot run; the message says which."""


def key_of(row: dict[str, str]) -> Key:
    """What was measured: the columns before the first measured one."""
    key = []
    for name, value in row.items():
        if name.endswith(_UNITS):
            break
        if not name.endswith(_BY_CHANCE):
            key.append((name, value))
    return tuple(key)


@dataclass(frozen=True)
class Change:
    """One figure in both runs."""

    key: Key
    column: str
    old: float
    new: float
    verdict: str
    """"slower", "faster", "more", "less", or "" where the quartiles overlap."""

    @property
    def ratio(self) -> float:
        return self.new / self.old if self.old else float("inf")

    def row(self) -> Row:
        shown: Row = {name: value for name, value in self.key if value}
        about: Row = {"figure": self.column, "old": self.old, "new": self.new}
        return {**shown, **about, "new / old": self.ratio, "": self.verdict}


def _number(row: dict[str, str], name: str) -> float | None:
    """A cell, if it holds a number."""
    try:
        return float(row[name])
    except (KeyError, ValueError):
        return None


def verdict(column: str, old: dict[str, str], new: dict[str, str], least: float) -> str:
    """Times differ where medians do by the factor `least` and their quartiles do not overlap."""
    before, after = _number(old, column), _number(new, column)
    if before is None or after is None or before == after:
        return ""
    if max(before, after) < least * min(before, after):
        return ""
    if not column.endswith(" ms"):
        return "more" if after > before else "less"
    worse, better = (new, old) if after > before else (old, new)
    above, below = _number(worse, f"{column} q1"), _number(better, f"{column} q3")
    if above is not None and below is not None and above <= below:
        return ""
    return "slower" if after > before else "faster"


def changes(
    old: Sequence[dict[str, str]], new: Sequence[dict[str, str]], least: float = 1.05
) -> list[Change]:
    """Every figure that both runs have."""
    known = {key_of(row): row for row in old}
    found = []
    for row in new:
        match = known.get(key_of(row), {})
        for column in row:
            before, after = _number(match, column), _number(row, column)
            if column.endswith(_UNITS) and before is not None and after is not None:
                word = verdict(column, match, row, least)
                found.append(Change(key_of(row), column, before, after, word))
    return found


def read(folder: Path, jobs: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Rows of each job's CSV."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        if not jobs or path.stem in jobs:
            with path.open(newline="", encoding="utf-8") as file:
                found[path.stem] = list(csv.DictReader(file))
    return found


def _git(*command: str) -> str:
    done = subprocess.run(("git", *command), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCompareError(f"git {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Checkout:
    """A tree whose benchmarks can run."""

    name: str
    folder: Path

    @classmethod
    def of(cls, revision: str, cache: Path) -> Checkout:
        """The tree of a revision, checked out and built beside the others; "." is this one."""
        if revision == ".":
            return cls("working tree", ROOT)
        commit = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        folder = cache / commit[:12]
        if not (folder / "built").exists():
            if folder.exists():  # what a kill left
                _git("worktree", "remove", "--force", str(folder))
            folder.parent.mkdir(parents=True, exist_ok=True)
            _git("worktree", "prune")
            _git("worktree", "add", "--detach", str(folder), commit)
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            environment = {**os.environ, "GLASS_BUILD_CUDA": "0", "GLASS_BUILD_CPP": "1"}
            done = subprocess.run(build, cwd=folder, env=environment, check=False)
            if done.returncode:
                raise CannotCompareError(f"{revision} cannot be built; see above")
            (folder / "built").touch()
        return cls(f"{revision} ({commit[:9]})", folder)

    def run(self, job: str, options: Sequence[str], output: Path) -> None:
        """One job, its CSV into `output`."""
        command = [sys.executable, "-m", "benchmarks", job, "--output", str(output), *options]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(command, cwd=self.folder, env=environment, check=False)
        if done.returncode:
            raise CannotCompareError(f"{self.name} cannot run {job}; see above")


def run_both(
    revisions: Sequence[str], jobs: Sequence[str], options: Sequence[str], output: Path
) -> tuple[Path, Path]:
    """Folders of the CSVs of both revisions; each job runs in both before the next."""
    trees = [Checkout.of(revision, output / "revisions") for revision in revisions]
    folders = output / "old", output / "new"
    for folder in folders:
        for path in folder.glob("*.csv"):
            path.unlink()
    for job in jobs:
        for tree, folder in zip(trees, folders, strict=True):
            print(f"== {job}: {tree.name}", flush=True)
            tree.run(job, options, folder)
    return folders


def report(old: Path, new: Path, jobs: Sequence[str], least: float) -> tuple[str, bool]:
    """The tables, and whether anything of ours became slower."""
    before, after = read(old, jobs), read(new, jobs)
    shared = [name for name in after if name in before]
    if not shared:
        raise CannotCompareError(
            f"{old} and {new} have no job in common (there are {', '.join(before) or 'none'}; "
            f"{', '.join(after) or 'none'})"
        )
    parts, slower = [], False
    for name in shared:
        found = changes(before[name], after[name], least)
        slower |= any(c.verdict == "slower" and c.column.startswith("ours") for c in found)
        count = f"{sum(bool(c.verdict) for c in found)} of {len(found)} figures changed"
        table = format_table([change.row() for change in found])
        parts.append(f"{name}: {count}\n{table}")
    return "\n\n".join(parts), slower


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if something of ours became slower, 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", help="folder of CSVs, a git revision, or . for the working tree")
    parser.add_argument("new", help="likewise")
    parser.add_argument("jobs", nargs="*", help="all that both have; needed for revisions")
    parser.add_argument("--quick", action="store_true", help="of revisions: fewer sizes")
    parser.add_argument("--threads", nargs="+", default=["1"], help="of revisions (default: 1)")
    parser.add_argument(
        "--least", type=float, default=1.05, help="factor that counts as a change (default: 1.05)"
    )
    parser.add_argument("--output", type=Path, default=Path(".benchmarks"), help="of revisions")
    given = parser.parse_args(arguments)
    try:
        old, new = Path(given.old), Path(given.new)
        if "." in (given.old, given.new) or not (old.is_dir() and new.is_dir()):
            if not given.jobs:
                parser.error("name the jobs that the revisions are to run")
            options = ["--threads", *given.threads, *["--quick"] * given.quick]
            output = given.output.absolute()
            old, new = run_both((given.old, given.new), given.jobs, options, output)
        text, slower = report(old, new, given.jobs, given.least)
    except CannotCompareError as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
