"""Histories on disk: restored exactly, or refused with a reason."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from serving_cases import CONFIGS, raw, toy_recommender
from toy import NUM_ITEMS

from glass.serving import Recommender, state_file

USERS = ["u0", "u1", "u2"]


def busy(config: str, *, seed: int = 0, **options: int) -> Recommender:
    recommender = toy_recommender(CONFIGS[config], **options)
    rng = np.random.default_rng(seed)
    for call in range(30):
        items = [raw(item) for item in rng.integers(0, NUM_ITEMS, 3)]
        recommender.observe(USERS[call % 2], items, call // 4)
    return recommender


@pytest.mark.parametrize("most", [None, 11])
@pytest.mark.parametrize("config", CONFIGS)
def test_restored_as_it_was(config: str, most: int | None, tmp_path: Path) -> None:
    options = {} if most is None else {"max_history": most}
    recommender = busy(config, **options)
    path = recommender.save_state(tmp_path / "state")
    assert [file.name for file in path.parent.iterdir()] == ["histories.parquet"]
    restored = toy_recommender(CONFIGS[config], **options)
    restored.observe("gone", ["i1"], 0)
    restored.load_state(tmp_path / "state")
    assert restored.num_users == 2
    for _ in range(2):
        assert restored.recommend(USERS) == recommender.recommend(USERS)
        for one in (restored, recommender):  # and it goes on alike
            one.observe("u0", ["i5"] * 9, 1000)


def test_no_users(tmp_path: Path) -> None:
    toy_recommender().save_state(tmp_path)
    restored = busy("all")
    restored.load_state(tmp_path)
    assert restored.num_users == 0


def test_a_write_that_fails_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = busy("all").save_state(tmp_path)
    before = path.read_bytes()

    def killed(table: object, where: Path, **_: object) -> None:
        where.write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(state_file.pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        busy("all", seed=1).save_state(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_found_and_changes_nothing(tmp_path: Path) -> None:
    recommender = busy("copying")
    before = recommender.recommend(USERS)
    other = busy("copying", seed=1)
    saved = other.recommend(USERS)
    assert saved != before
    path = other.save_state(tmp_path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    untouched = 0
    for place in (*rng.integers(4, len(good), 12), None):
        if place is None:
            path.write_bytes(good[: len(good) // 2])
        else:
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with contextlib.suppress(ValueError):
            recommender.load_state(tmp_path)
            # A bit that means nothing: what was restored is what was saved.
            assert recommender.recommend(USERS) == saved
            recommender, untouched = busy("copying"), untouched + 1
        assert recommender.recommend(USERS) == before
    assert untouched < 6


def test_other_items_missing_times_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = busy("all")
    with pytest.raises(FileNotFoundError):
        recommender.load_state(tmp_path)
    path = recommender.save_state(tmp_path)
    with pytest.raises(ValueError, match="this model looks at times"):
        toy_recommender(CONFIGS["copying"]).load_state(tmp_path)
    recommender.items.__dict__["digest"] = "other"
    with pytest.raises(ValueError, match="saved with the items of another model"):
        recommender.load_state(tmp_path)
    monkeypatch.setattr(state_file, "FORMAT_VERSION", 2)
    busy("all").save_state(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format_version is 2, this version reads 1"):
        busy("all").load_state(tmp_path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="cannot be restored"):
        busy("all").load_state(tmp_path)


def test_values_that_a_correct_file_cannot_hold(tmp_path: Path) -> None:
    digest = toy_recommender().items.digest
    path = tmp_path / state_file.NAME
    ints, longs = (np.array([1, 2], kind) for kind in (np.int32, np.int64))
    falling = longs[::-1].copy()
    for events, reason in [
        ((ints + NUM_ITEMS, longs, longs), "an item is not in"),
        ((ints - 3, longs, longs), "an item is not in"),
        ((ints, falling, longs), "times or visits fall"),
        ((ints, longs, falling), "times or visits fall"),
    ]:
        state_file.write_state(path, ["a", "b"], [(ints, longs, longs), events], digest)
        with pytest.raises(ValueError, match=reason):
            toy_recommender(CONFIGS["copying"]).load_state(tmp_path)
    state_file.write_state(path, ["a", "a"], [(ints, longs, longs)] * 2, digest)
    with pytest.raises(ValueError, match="there twice"):
        toy_recommender(CONFIGS["copying"]).load_state(tmp_path)
    # Each begins anew: the second user's times may be below the first one's.
    state_file.write_state(
        path, ["a", "b"], [(ints, longs + 9, longs + 9), (ints, longs, longs)], digest
    )
    toy_recommender(CONFIGS["copying"]).load_state(tmp_path)
