"""`python -m benchmarks.compare`: which rows belong together, and what counts as a change."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import compare

SETUP = {"threads": "1", "B": "4", "eager form": "top-k"}
JOB = """
import sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True, exist_ok=True)
text = "B,ours ms,ours ms q1,ours ms q3\\n1,{ms},{ms},{ms}\\n"
(folder / (sys.argv[1] + ".csv")).write_text(text)
assert "--quick" in sys.argv
"""


def row(ms: float, **changes: str) -> dict[str, str]:
    times = {"ours ms": f"{ms}", "ours ms q1": f"{0.9 * ms}", "ours ms q3": f"{1.1 * ms}"}
    return {**SETUP, **times, "ours extra MiB": "10.0", "load": "0.5", **changes}


def store(folder: Path, rows: list[dict[str, str]], job: str = "sid_tier") -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / f"{job}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_rows_of_one_setup_are_compared_whatever_the_opponents_form() -> None:
    old = [row(1.0), row(5.0, B="8")]
    new = [row(2.0, **{"eager form": "nonzero"}), row(3.0, B="16")]
    times, memory = compare.changes(old, new)
    assert (times.old, times.new, times.verdict) == (1.0, 2.0, "slower")
    assert times.row()["B"] == "4"
    assert times.row()["new / old"] == 2.0
    assert (memory.column, memory.verdict) == ("ours extra MiB", "")


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (1.0, 1.3, "slower"),
        (1.3, 1.0, "faster"),
        (1.0, 1.15, ""),  # the quartiles overlap
        (1.0, 1.0, ""),
        (0.0, 0.0, ""),
    ],
)
def test_a_change_is_more_than_the_quartiles(before: float, after: float, found: str) -> None:
    assert compare.verdict("ours ms", row(before), row(after), 1.05) == found


@pytest.mark.parametrize(
    ("after", "found"), [("11", "more"), ("9", "less"), ("10.2", ""), ("", "")]
)
def test_memory_has_no_quartiles_and_small_changes_do_not_count(after: str, found: str) -> None:
    new = row(1.0, **{"ours extra MiB": after})
    assert compare.verdict("ours extra MiB", row(1.0), new, 1.05) == found


def test_folders_are_compared_and_ours_slower_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = store(tmp_path / "old", [row(1.0, **{"eager ms": "9"})])
    new = store(tmp_path / "new", [row(2.0, **{"eager ms": "1"})])
    store(tmp_path / "new", [row(2.0)], "trie_step")
    assert compare.main([str(old), str(new)]) == 1
    shown = capsys.readouterr().out
    assert "sid_tier: 2 of 3 figures changed" in shown
    assert "trie_step" not in shown
    assert compare.main([str(new), str(old)]) == 0
    assert compare.main([str(old), str(new), "trie_step"]) == 2
    assert "no job in common" in capsys.readouterr().err


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits whose job takes 1 and then 2 ms."""
    root = tmp_path / "repository"
    (root / "benchmarks").mkdir(parents=True)
    (root / "setup.py").write_text("")
    settings = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for ms in (1, 2):
        (root / "benchmarks" / "__main__.py").write_text(JOB.replace("{ms}", str(ms)))
        subprocess.run(["git", *settings, "add", "-A"], cwd=root, check=True)
        subprocess.run(["git", *settings, "commit", "-qm", f"{ms}"], cwd=root, check=True)
    monkeypatch.setattr(compare, "ROOT", root)
    return root


def test_revisions_are_checked_out_and_run(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sid_tier", "--quick", f"--output={tmp_path / 'out'}"]
    assert compare.main(["HEAD~1", ".", *given]) == 1
    assert "2  slower" in capsys.readouterr().out
    built = list((tmp_path / "out" / "revisions").glob("*/built"))
    assert len(built) == 1
    built[0].unlink()  # as if it had been killed
    assert compare.main(["HEAD", "HEAD~1", *given]) == 0
    assert len(list((tmp_path / "out" / "revisions").glob("*/built"))) == 2


def test_what_cannot_be_compared_is_named(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--output={tmp_path / 'out'}"
    assert compare.main(["no-such-revision", ".", "sid_tier", out]) == 2
    assert "no-such-revision" in capsys.readouterr().err
    (repository / "benchmarks" / "__main__.py").write_text("raise SystemExit(3)")
    assert compare.main(["HEAD", ".", "sid_tier", "--quick", out]) == 2
    assert "working tree cannot run sid_tier" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare.main(["HEAD", "."])


def test_without_a_job_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(program.JOBS)
    with pytest.raises(SystemExit):
        program.main(["all", "none"])
