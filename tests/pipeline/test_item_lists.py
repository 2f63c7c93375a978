"""One rule makes item lists everywhere: in predictions, metrics, report and `glass recommend`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from glass.cli import main
from glass.cli_parser import make_parser, parse
from glass.evaluation import read_predictions
from glass.pipeline import recommend
from glass.pipeline.run import Run


def run_of(config: Path) -> Run:
    settings, _ = parse(make_parser("glass run", ""), str(config), [])
    return Run(settings, progress=False)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """Config of a copy of the finished run that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.parent, folder, symlinks=True)
    config = folder / "shop.yaml"
    config.write_text(config.read_text().replace(str(finished.parent), str(folder)))
    return config


def test_item_metrics_are_those_of_the_lists_of_every_system(finished: Path) -> None:
    run = run_of(finished)
    metrics = run.metrics()["systems"]
    targets = run.targets
    for system in run.config.systems:
        stored = read_predictions(run.folder / "predictions" / f"{system}.parquet")
        assert stored.items is not None, system
        assert stored.items.shape == (len(run.samples), run.config.eval.beam_width)
        assert np.array_equal(stored.items, run.ranked_items(system))
        hit = (stored.items[targets.sample, :5] == targets.item[:, None]).any(axis=1)
        assert metrics[system]["all"]["item_hit@5"] == pytest.approx(hit.mean()), system
        assert {"split_item_hit@5", "split_item_ndcg@20"} <= set(metrics[system]["all"])
    # 30 items on at most 64 SIDs: some share theirs, and so the two ways of counting differ.
    glass = metrics["glass"]["all"]
    assert glass["item_ndcg@20"] != glass["split_item_ndcg@20"]


@pytest.mark.parametrize("system", ["tiger", "glass"])
def test_recommend_shows_what_evaluate_judged(finished: Path, system: str) -> None:
    run = run_of(finished)
    samples, dataset = run.samples, run.dataset
    last = np.flatnonzero(np.append(samples.users[1:] != samples.users[:-1], True))
    judged = run.ranked_items(system)[last]
    # The same users as they were just before their last test basket.
    kept = np.ones(dataset.num_events, bool)
    lengths = np.zeros(dataset.num_users, np.int64)
    for row in last:
        kept[samples.history_end[row] : samples.target_end[row]] = False
        lengths[samples.users[row]] = samples.history_end[row] - samples.history_start[row]
    assert (lengths > 0).all()
    earlier = replace(
        dataset,
        **{name: getattr(dataset, name)[kept] for name in ("items", "times", "groups", "split")},
        user_offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )
    run.__dict__["dataset"] = earlier
    users = [str(dataset.user_table["raw_user_id"][int(samples.users[row])]) for row in last]
    found = recommend(run, users, num_items=judged.shape[1], system=system)
    raw = dataset.item_table["raw_item_id"].to_list()
    for user, items in zip(users, judged, strict=True):
        shown = [item.raw_item_id for item in found[user]]
        assert shown == [raw[item] for item in items if item >= 0]
        chances = np.exp([item.score for item in found[user]])
        assert chances.sum() <= 1 + 1e-6  # of distinct items


def test_another_prior_is_another_result(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = copy.parent / "runs" / "tiny" / "metrics.json"
    before = json.loads(metrics.read_text())
    assert main(["report", str(copy), "--eval.item_prior=50"]) == 1
    assert "run `glass evaluate` with this config first" in capsys.readouterr().err
    assert main(["evaluate", str(copy), "--eval.item_prior=50"]) == 0
    after = json.loads(metrics.read_text())
    assert after["fingerprint"] != before["fingerprint"]
    for system in ("popularity", "own_frequency", "item_knn"):
        assert after["systems"][system] == before["systems"][system]
    old, new = (content["systems"]["glass"]["all"] for content in (before, after))
    assert {name for name in old if old[name] != new[name]}
    assert all(old[name] == new[name] for name in old if not name.startswith("item_"))


def test_refuses_a_prior_of_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(copy), "--eval.item_prior=0"]) == 1
    assert "eval.item_prior is 0.0; it must be a number above 0" in capsys.readouterr().err


def test_results_of_the_older_rule_are_made_anew(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy.parent / "runs" / "tiny"
    fresh = json.loads((folder / "metrics.json").read_text())
    # As an older version left it: item_* was split credit, and models had no item lists.
    monkeypatch.setattr("glass.pipeline.keys.FORMAT_VERSION", 1)
    run = run_of(copy)
    from glass.pipeline.keys import evaluation_key

    key = evaluation_key(run.config, run.dataset, run.sid_table)
    monkeypatch.undo()
    old = fresh | {"format_version": 1, "fingerprint": key}
    (folder / "metrics.json").write_text(json.dumps(old))
    for system in ("tiger", "glass"):
        path = folder / "predictions" / f"{system}.parquet"
        nothing = pl.lit(None, dtype=pl.List(pl.Int32())).alias("items")
        pl.read_parquet(path).with_columns(nothing).write_parquet(path)
    assert main(["report", str(copy)]) == 1
    error = capsys.readouterr().err
    assert "by another version; run `glass evaluate` with this config first" in error
    assert "Traceback" not in error
    with pytest.raises(ValueError, match="holds no items; run `glass evaluate`"):
        run.ranked_items("glass")
    assert main(["evaluate", str(copy)]) == 0
    assert json.loads((folder / "metrics.json").read_text()) == fresh
    assert main(["report", str(copy)]) == 0
    assert "credit split" in (folder / "report.html").read_text()
