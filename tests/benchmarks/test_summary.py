"""`python -m benchmarks.summary`: goals against the CSVs of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import goals, summary
from benchmarks.output import Row, write_csv

RATES: Row = {"copy GB/s": 12.5, "GEMM GFLOP/s": 160.0, "clock": "wall"}


def store(folder: Path, job: str, rows: list[Row]) -> None:
    write_csv([{**row, **RATES} for row in rows], folder / f"{job}.csv")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    tier: Row = {"threads": 1, "histories": "paper", "K": 128, "N": 4, "items": 13_000}
    eager, chosen = "eager / ours, pages kept", "ours / index_select"
    rows: list[Row] = [
        {**tier, eager: 65.4, chosen: 0.6},
        {**tier, "threads": 2, eager: 77.0, chosen: 0.7},
        {**tier, "N": 20, eager: 26.0, chosen: 1.3},
        {**tier, "items": 1_000_000, eager: 12.0, chosen: 2.2},
    ]
    store(tmp_path, "sid_tier", rows)
    memory: Row = {"ours extra MiB": 4.0, "eager extra MiB": 200.0, "ours / floor": 1.0}
    store(tmp_path, "sid_tier_embeddings", [{"threads": 1, eager: 8.0, **memory}])
    static: Row = {"threads": 1, "items": 12_000, "ours / STATIC": 0.25}
    store(tmp_path, "trie_decode", [static, {**static, "ours / STATIC": 0.8}])
    return tmp_path


def line(page: str, start: str) -> list[str]:
    (found,) = [text for text in page.splitlines() if text.startswith(start)]
    return [cell.strip() for cell in found.strip("|").split("|")][2:]


def test_ranges_and_verdicts(run: Path) -> None:
    page = summary.text(summary.read(run, []))
    assert line(page, "| `sid_tier` | plain / ours, K 128, N 4 ") == [
        "at least 50", "65.4", "77", "yes",
    ]  # fmt: skip
    assert line(page, "| `sid_tier` | plain / ours, K 128, N 20 ")[1:] == ["26", "-", "**no**"]
    assert line(page, "| `sid_tier` | ours / `index_select` ") == [
        "at most 2", "0.6 to 2.2", "0.7", "**3 of 4**",
    ]  # fmt: skip
    assert line(page, "| `sid_tier_embeddings` | extra memory")[1:] == ["0.02", "-", "yes"]
    assert line(page, "| `trie_decode` | STATIC / ours, 12,000")[1:3] == ["1.25 to 4", "-"]
    assert "compile" not in page  # no row has it
    assert "hard_search" not in page  # did not run


def test_machine_and_versions_are_above_it(run: Path) -> None:
    page = summary.text(summary.read(run, []))
    for name in ("machine", "torch", "python", "clock"):
        assert f"\n- {name}: " in page
    assert "\n- copy and float32 product, 2 thread(s): 12.5 GB/s, 160 GFLOP/s" in page


def test_every_goal_is_of_a_job_and_has_one_bound() -> None:
    for goal in goals.GOALS:
        assert goal.job in program.JOBS
        assert (goal.least is None) != (goal.most is None)
    keys = [(goal.job, goal.title) for goal in goals.GOALS]
    assert len(set(keys)) == len(keys)


def test_output_and_empty_folder(run: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "page.md"
    assert summary.main([str(run), "--output", str(target)]) == 0
    assert target.read_text().startswith("# Summary of the benchmarks")
    assert summary.main([str(run / "none")]) == 2
    assert "has no results" in capsys.readouterr().err
