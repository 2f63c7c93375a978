"""metrics.json, the breakdown by history, the terminal table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glass.evaluation import (
    SidCatalogue,
    bootstrap_ci,
    build_metrics,
    by_history_length,
    format_table,
    paired_bootstrap,
    rank_metrics,
    write_json_atomic,
)

CATALOGUE = SidCatalogue(np.arange(30)[:, None])
KS = (1, 10)


@pytest.fixture
def targets(targets_of):
    rng = np.random.default_rng(0)
    sample = np.repeat(np.arange(20), 3)
    return targets_of(
        rng.integers(0, 30, 60),
        sample,
        repeat=rng.random(60) < 0.4,
        users=sample // 2,
        history_length=1 + 10 * sample,
    )


@pytest.fixture
def systems(targets):
    rng = np.random.default_rng(1)
    return {
        name: rank_metrics(
            np.stack([rng.permutation(30)[:12] for _ in range(20)]), targets, CATALOGUE, KS
        )
        for name in ("popularity", "tiger", "glass")
    }


def test_structure_and_numbers(systems, targets):
    generation = {"glass": {"invalid_rate": 0.0, "acc_1": 0.2}}
    result = build_metrics(
        systems, targets, num_samples=20, resamples=50, seed=3, generation=generation
    )
    assert list(result) == ["format_version", "systems", "differences", "counts"]
    assert result["format_version"] == 2
    repeat = int(targets.repeat.sum())
    assert result["counts"] == {
        "samples": 20,
        "targets": 60,
        "repeat": repeat,
        "first_time": 60 - repeat,
    }
    glass = result["systems"]["glass"]
    assert list(glass) == ["all", "repeat", "first_time", "ci", "generation"]
    assert glass["generation"] == generation["glass"]
    assert result["systems"]["tiger"]["generation"] == {}
    value = systems["glass"].per_target("ndcg@10")
    assert glass["all"]["ndcg@10"] == pytest.approx(value.mean())
    assert glass["repeat"]["ndcg@10"] == pytest.approx(value[targets.repeat].mean())
    assert glass["first_time"]["ndcg@10"] == pytest.approx(value[~targets.repeat].mean())
    assert glass["ci"]["ndcg@10"] == pytest.approx(bootstrap_ci(value, targets.user, 50, 3)[1:])
    assert list(result["differences"]) == ["glass - popularity", "glass - tiger"]
    tiger = systems["tiger"].per_target("ndcg@10")
    assert result["differences"]["glass - tiger"]["ndcg@10"] == pytest.approx(
        paired_bootstrap(value, tiger, targets.user, 50, 3)
    )
    json.dumps(result, allow_nan=False)


def test_chosen_differences(systems, targets):
    result = build_metrics(
        systems,
        targets,
        num_samples=20,
        resamples=20,
        pairs=[("tiger", "popularity")],
        difference_metrics=["hit@1"],
    )
    assert list(result["differences"]) == ["tiger - popularity"]
    assert list(result["differences"]["tiger - popularity"]) == ["hit@1"]


def test_without_glass_or_resamples(systems, targets):
    del systems["glass"]
    result = build_metrics(systems, targets, num_samples=20, resamples=10)
    assert list(result["differences"]) == ["tiger - popularity"]
    plain = build_metrics(systems, targets, num_samples=20, resamples=0)
    assert plain["differences"] == {}
    assert plain["systems"]["tiger"]["ci"] == {}


def test_no_targets_at_all(targets_of):
    targets = targets_of([])
    metrics = rank_metrics(np.zeros((0, 12), int), targets, CATALOGUE, KS)
    result = build_metrics({"glass": metrics}, targets, num_samples=0)
    assert result["systems"]["glass"]["all"] == {}
    assert "0 targets" in format_table(result)


def test_refuses_what_does_not_fit(systems, targets, targets_of):
    other = rank_metrics(np.zeros((1, 12), int), targets_of([0]), CATALOGUE, KS)
    with pytest.raises(ValueError, match="other"):
        build_metrics(systems | {"other": other}, targets, num_samples=20)
    with pytest.raises(ValueError, match="empty"):
        build_metrics({}, targets, num_samples=20)
    with pytest.raises(ValueError, match="sasrec"):
        build_metrics(systems, targets, num_samples=20, pairs=[("glass", "sasrec")])
    with pytest.raises(ValueError, match="sasrec"):
        build_metrics(systems, targets, num_samples=20, generation={"sasrec": {}})
    with pytest.raises(ValueError, match="hit@7"):
        build_metrics(systems, targets, num_samples=20, difference_metrics=["hit@7"])


def test_by_history_length(systems, targets):
    table = by_history_length(systems, targets, "hit@10", edges=(51, 100, 5000), resamples=20)
    # Lengths 1, 11, .., 191, three targets each: 51 is in the second bin.
    assert table["bins"] == ["< 51", "51-99", "100-4999"]
    assert table["count"] == [15, 15, 30]
    assert table["metric"] == "hit@10"
    value = systems["tiger"].per_target("hit@10")
    assert table["systems"]["tiger"] == pytest.approx(
        [value[:15].mean(), value[15:30].mean(), value[30:].mean()]
    )
    assert np.shape(table["ci"]["glass"]) == (3, 2)
    low, high = table["ci"]["tiger"][2]
    assert low <= value[30:].mean() <= high
    with pytest.raises(ValueError, match="edges"):
        by_history_length(systems, targets, edges=(100, 50))


def test_table_is_aligned(systems, targets):
    result = build_metrics(systems, targets, num_samples=20, resamples=20)
    text = format_table(result)
    lines = text.splitlines()
    assert "60 targets" in lines[0]
    header, *rows = lines[1:5]
    assert header.split()[0] == "system"
    assert [row.split()[0] for row in rows] == list(systems)
    assert len({len(line) for line in lines[1:5]}) == 1
    assert f"{result['systems']['glass']['all']['ndcg@10']:.4f} [" in rows[2]
    assert "glass - tiger" in text
    mean, low, high = result["differences"]["glass - tiger"]["hit@10"]
    assert f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" in text


def test_table_falls_back_to_the_largest_cut_off(targets):
    ranked = np.tile(np.arange(12), (20, 1))
    systems = {"tiger": rank_metrics(ranked, targets, CATALOGUE, (1, 5), items=ranked)}
    result = build_metrics(systems, targets, num_samples=20, resamples=5)
    assert "  item NDCG@5" in format_table(result)
    assert "split" not in format_table(result)
    assert "split item NDCG@5" in format_table(result, ["split_item_ndcg@5"])
    assert "Hit@1 " in format_table(result, ["hit@1", "ndcg@1"])
    with pytest.raises(ValueError, match="hit@3"):
        format_table(result, ["hit@3"])


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    write_json_atomic(path, {"a": 1.5})
    assert json.loads(path.read_text()) == {"a": 1.5}
    with pytest.raises(ValueError, match=r"metrics\.json"):
        write_json_atomic(path, {"a": float("nan")})
    with pytest.raises(ValueError, match=r"metrics\.json"):
        write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1.5}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
