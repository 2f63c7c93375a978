"""Round trip and refusals of the predictions file."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from glass.evaluation import read_predictions, write_predictions

USERS = np.array([7, 7, 2], np.int32)
SIDS = np.array([[3, 1], [0, -1], [2, 2]], np.int32)


def test_round_trip(tmp_path):
    path = tmp_path / "predictions" / "glass.parquet"
    scores = np.array([[0.5, -1.25], [0.0, -np.inf], [1.0, 0.5]], np.float32)
    items = np.arange(9, dtype=np.int32).reshape(3, 3)
    write_predictions(path, USERS, SIDS, scores, items)
    back = read_predictions(path)
    assert np.array_equal(back.users, USERS)
    assert np.array_equal(back.sids, SIDS)
    assert np.array_equal(back.scores, scores)
    assert np.array_equal(back.items, items)
    assert [a.dtype for a in (back.users, back.sids, back.scores, back.items)] == [
        np.int32,
        np.int32,
        np.float32,
        np.int32,
    ]
    assert [p.name for p in path.parent.iterdir()] == ["glass.parquet"]
    table = pl.read_parquet(path)
    assert table.columns == ["sample", "user", "sids", "scores", "items"]
    assert table["sids"].to_list() == SIDS.tolist()


@pytest.mark.parametrize("num_samples", [0, 1, 3])
def test_scores_and_items_may_be_missing(tmp_path, num_samples):
    path = tmp_path / "popularity.parquet"
    write_predictions(path, USERS[:num_samples], SIDS[:num_samples])
    back = read_predictions(path)
    assert np.array_equal(back.users, USERS[:num_samples])
    if not num_samples:  # the width is lost with the last row
        assert back.sids.shape == (0, 0)
        return
    assert np.array_equal(back.sids, SIDS[:num_samples])
    assert back.scores is None
    assert back.items is None


def test_refuses_shapes(tmp_path):
    path = tmp_path / "p.parquet"
    with pytest.raises(ValueError, match="sids"):
        write_predictions(path, USERS[:2], SIDS)
    with pytest.raises(ValueError, match="scores"):
        write_predictions(path, USERS, SIDS, np.zeros((3, 1)))
    with pytest.raises(ValueError, match="items"):
        write_predictions(path, USERS, SIDS, None, SIDS[:2])
    assert not path.exists()


def test_refuses_files_that_are_something_else(tmp_path):
    path = tmp_path / "p.parquet"
    with pytest.raises(ValueError, match="does not exist"):
        read_predictions(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        read_predictions(path)
    pl.DataFrame({"user": [1]}).write_parquet(path)
    with pytest.raises(ValueError, match="columns"):
        read_predictions(path)
    write_predictions(path, USERS, SIDS)
    whole = pl.read_parquet(path)
    whole.sort("sample", descending=True).write_parquet(path)
    with pytest.raises(ValueError, match="in order"):
        read_predictions(path)
    ragged = pl.Series("sids", [[1], [1, 2], [3]], dtype=pl.List(pl.Int32))
    whole.with_columns(ragged).write_parquet(path)
    with pytest.raises(ValueError, match="differ in length"):
        read_predictions(path)
    nulls = pl.Series("sids", [None] * 3, dtype=pl.List(pl.Int32))
    whole.with_columns(nulls).write_parquet(path)
    with pytest.raises(ValueError, match="empty rows"):
        read_predictions(path)
