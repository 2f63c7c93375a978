import json
from dataclasses import replace

import numpy as np
import pytest

from glass.sid import LevelHealth, SidTable, describe, plot
from glass.sid import health as health_module


@pytest.fixture
def by_hand(make, tmp_path):
    """Items 0 and 1 share a SID, 2 shares their first code, 3 has its own; code 1 is dead."""
    codes = np.array([[0, 0], [0, 0], [0, 1], [2, 0]], np.int32)
    manifest = {"fit": {"relative_error": [0.5, 0.25]}, "vectors": {"items_without_text": 1}}
    table = SidTable(codes, (3, 2), np.zeros((4, 2), np.float32), {}, manifest)
    # Train, train, valid, test, test of the first user; valid, test, test of the second.
    data = make([[0, 3, 2, 1, 3], [3, 3, 0]], 4, tmp_path)
    return table, data


def test_describe_by_hand(by_hand):
    health = describe(*by_hand)
    assert (health.num_items, health.num_sids) == (4, 3)
    assert health.collision_rate == 0.5
    assert health.largest_sid == 2
    assert health.levels[0].counts.tolist() == [3, 0, 1]
    assert health.levels[0].to_dict() == {
        "size": 3,
        "used": 2,
        "dead": 1,
        "perplexity": pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)), abs=1e-3),
        "largest": 3,
    }
    # User 0, target 1 after [0, 3, 2]: codes 0 2 0, bucket 0 holds 2; target 3 after [0, 3, 2, 1]:
    # one. User 1, target 3 after [3]: one; target 0 after [3, 3]: none.
    assert health.target_buckets.tolist() == [2, 1, 1, 0]
    # Non-empty buckets: (2, 1), (3, 1), (1), (2).
    assert health.bucket_histogram.tolist() == [0, 3, 2, 1]
    figures = health.to_dict()
    assert figures["target_bucket"]["mean"] == 1.0
    assert figures["target_bucket"]["empty_share"] == 0.25
    assert figures["non_empty_buckets"]["count"] == 6
    assert figures["non_empty_buckets"]["max"] == 3
    assert figures["relative_error"] == [0.5, 0.25]
    assert json.loads(json.dumps(figures)) == figures


def test_buckets_equal_brute_force_in_small_portions(dataset, monkeypatch):
    monkeypatch.setattr(health_module, "_QUERIES_AT_ONCE", 20)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (40, 1)).astype(np.int32)
    table = SidTable(codes, (6,), np.zeros((40, 1), np.float32))
    health = describe(table, dataset)
    samples = dataset.samples("test")
    targets, sizes = [], []
    for start, end, stop in zip(
        samples.history_start, samples.history_end, samples.target_end, strict=True
    ):
        counts = np.bincount(codes[dataset.items[start:end], 0], minlength=6)
        sizes += counts[counts > 0].tolist()
        targets += counts[codes[dataset.items[end:stop], 0]].tolist()
    assert health.target_buckets.tolist() == targets
    assert health.bucket_histogram.tolist() == np.bincount(sizes).tolist()


def test_perplexity():
    assert LevelHealth(np.array([5, 5, 5, 5])).perplexity == pytest.approx(4)
    assert LevelHealth(np.array([9, 0, 0])).perplexity == pytest.approx(1)


def test_text_table(by_hand):
    text = str(describe(*by_hand))
    assert "3 distinct SIDs of 4 items; 50.0% of the items share theirs" in text
    assert "items without text: 1" in text
    assert any(line.split()[:4] == ["1", "3", "2", "1"] for line in text.splitlines())
    assert any(line.split()[-3:] == ["0.250", "-", "-"] for line in text.splitlines())


def test_neighbours_and_the_deduplication_level(make, tmp_path):
    # Items 0 and 1 point alike and share the quantiser's SID, which the last level tells apart.
    codes = np.array([[0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 1, 0]], np.int32)
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    manifest = {"config": {"deduplicate": True}}
    table = SidTable(codes, (2, 2, 3), vectors, {}, manifest)
    health = describe(table, make([[0, 3, 2, 1, 3]], 4, tmp_path))
    assert health.collision_rate == 0
    assert health.agreement.num_neighbours == 3
    assert health.agreement.nearest == pytest.approx((1 / 3, 1 / 6))
    figures = health.to_dict()
    assert figures["before_deduplication"] == {
        "num_sids": 3,
        "colliding_items": 2,
        "largest_sid": 2,
    }
    assert len(figures["neighbour_agreement"]["nearest"]) == 2
    text = str(health)
    assert "before de-duplication: 3 distinct SIDs; 50.0% of the items share theirs" in text
    assert [line.split()[-2:] for line in text.splitlines()[4:7]] == [
        ["33.3%", "33.33%"],
        ["16.7%", "16.67%"],
        ["-", "-"],
    ]
    assert json.loads(json.dumps(figures)) == figures


def test_no_test_samples(by_hand, tmp_path):
    table, data = by_hand
    health = describe(table, replace(data, split=np.zeros_like(data.split)))
    assert health.to_dict()["target_bucket"] == {"count": 0}
    assert "3 distinct SIDs" in str(health)
    assert plot(health, tmp_path / "a.png").stat().st_size > 1000


def test_another_catalogue(by_hand, dataset):
    with pytest.raises(ValueError, match="are of 4 items but data set 'tiny' has 40"):
        describe(by_hand[0], dataset)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_plot(suffix, start, by_hand, tmp_path):
    path = plot(describe(*by_hand), tmp_path / "new" / f"health{suffix}")
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_plot_needs_a_known_suffix(by_hand, tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.txt'; use \.png or \.svg"):
        plot(describe(*by_hand), tmp_path / "a.txt")
