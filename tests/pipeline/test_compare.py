"""`glass compare`: seeds are averaged, other settings are rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glass.cli import main


@pytest.fixture
def runs(three_runs: Path) -> list[str]:
    """Seeds 0 and 1, and seed 0 with another lambda."""
    return [str(three_runs / name) for name in ("tiny", "seed_1", "other")]


def _metric(run: str, system: str, name: str = "hit@10") -> float:
    content = json.loads((Path(run) / "metrics.json").read_text())
    return float(content["systems"][system]["all"][name])


def test_seeds_are_averaged_and_settings_are_rows(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "compare",
                runs[0],
                "--with",
                *runs[1:],
                "--metrics",
                "hit@10",
                "--to",
                str(tmp_path / "found"),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "sequence.alignment" in text
    found = json.loads((tmp_path / "found.json").read_text())
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    assert found["settings"] == ["sequence.alignment"]
    rows = {(row["system"], *row["settings"]): row for row in found["rows"]}
    assert list(rows) == [
        ("popularity", "0.1"),
        ("flattened_transformer", "0.1"),
        ("intrr_transformer", "0.1"),
        ("intrr_transformer", "1.0"),
    ]
    assert [row["seeds"] for row in rows.values()] == [1, 2, 2, 1]
    system = "intrr_transformer"
    each = [_metric(run, system) for run in runs[:2]]
    mine = rows[system, "0.1"]["metrics"]["hit@10"]
    assert mine["per_seed"] == pytest.approx(each)
    assert mine["mean"] == pytest.approx(np.mean(each))
    assert mine["low"] <= mine["mean"] <= mine["high"]
    differences = {row["system"]: row for row in found["differences"]}
    pair = differences["intrr_transformer - flattened_transformer"]
    assert pair["seeds"] == 2
    flattened = np.mean([_metric(run, "flattened_transformer") for run in runs[:2]])
    assert pair["metrics"]["hit@10"]["mean"] == pytest.approx(np.mean(each) - flattened)
    swept = differences["intrr_transformer - with 0.1"]
    assert swept["settings"] == ["1.0"]
    assert swept["metrics"]["hit@10"]["mean"] == pytest.approx(_metric(runs[2], system) - each[0])


def test_one_run_has_neither_settings_nor_spread(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", runs[0]]) == 0
    text = capsys.readouterr().out
    assert "+-" not in text
    assert "Hit@5" in text
    assert "NDCG@10" in text


def test_the_same_seed_twice_is_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    assert main(["compare", runs[0], "--with", str(copy)]) == 1
    assert "give each seed once" in capsys.readouterr().err


def test_other_data_and_unfinished_runs_are_refused(
    runs: list[str], make_sequence_shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(make_sequence_shop(systems=["popularity"], data={"num_test_events": 2}))
    assert main(["compare", runs[0], "--with", config]) == 1
    assert "run `glass evaluate`" in capsys.readouterr().err
    assert main(["run", config]) == 0
    assert main(["compare", runs[0], "--with", config]) == 1
    assert "other test targets" in capsys.readouterr().err
