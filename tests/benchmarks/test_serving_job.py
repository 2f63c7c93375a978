"""The serving benchmark compares before it times."""

from __future__ import annotations

import pytest

from benchmarks import serving
from benchmarks.agreement import DiffersError


def test_beams_of_other_histories_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "USERS", 4)
    recommender, histories = serving.make_recommender(copying=False), serving.make_histories(80)
    for user, history in enumerate(histories):
        recommender.observe(str(user), history, 0)
    serving.check(recommender, recommender.searcher, histories)
    recommender.observe("3", histories[0][:1], 0)
    with pytest.raises(DiffersError, match="serving"):
        serving.check(recommender, recommender.searcher, histories)
