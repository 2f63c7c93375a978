from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import glass.sid.vectors as vectors_module
from glass.config import SidConfig
from glass.sid.vectors import cache_folder, centered_unit, item_vectors, read_vectors

IDS = pl.Series("raw_item_id", ["r0", "r1", "r2"])


def test_centered_unit_by_hand():
    vectors = np.array([[2, 0], [0, 5], [0, 0], [-3, 0]], np.float32)
    trained = np.array([True, True, True, False])
    result, mean = centered_unit(vectors, trained, center=True)
    # Mean of the unit rows 0 and 1 only: row 2 has no vector, row 3 no training event.
    np.testing.assert_allclose(mean, [0.5, 0.5])
    half = np.sqrt(0.5)
    expected = [[half, -half], [-half, half], [0, 0], np.array([-1.5, -0.5]) / np.sqrt(2.5)]
    np.testing.assert_allclose(result, expected, atol=1e-6)
    plain, mean = centered_unit(vectors, trained, center=False)
    assert not mean.any()
    np.testing.assert_allclose(plain, [[1, 0], [0, 1], [0, 0], [-1, 0]])


@pytest.mark.parametrize("size", [1, 7, 99, 100])
def test_centering_in_blocks_is_that_of_all_at_once(size, monkeypatch):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(100, 6)).astype(np.float32) + 2
    raw[::9] = 0
    trained = rng.random(100) < 0.7
    monkeypatch.setattr(vectors_module, "_ROWS_AT_A_TIME", size)
    result, mean = centered_unit(raw, trained, center=True)
    unit = vectors_module._unit(raw)
    present = raw.any(axis=1)
    wanted = unit[present & trained].mean(axis=0, dtype=np.float64).astype(np.float32)
    assert np.array_equal(mean, wanted)
    unit[present] -= wanted
    assert np.array_equal(result, vectors_module._unit(unit))


def test_equal_vectors_become_zero():
    vectors = np.full((5, 3), 0.1, np.float32)
    assert not centered_unit(vectors, np.ones(5, bool), center=True)[0].any()


def test_both_joins_weighted_parts(dataset, encoder):
    config = SidConfig(collaborative_dim=4, text_weight=0.5)
    text = item_vectors(replace(config, source="text"), dataset)
    collaborative = item_vectors(replace(config, source="collaborative"), dataset)
    both = item_vectors(config, dataset)
    assert text.vectors.shape == (40, 8)
    assert collaborative.vectors.shape == (40, 4)
    assert np.array_equal(both.vectors, np.hstack([0.5 * text.vectors, collaborative.vectors]))
    assert both.vectors.dtype == np.float32
    for part in (text, collaborative):
        np.testing.assert_allclose(np.linalg.norm(part.vectors, axis=1), 1, atol=1e-5)
    assert both.facts == {
        "distinct_texts": 27,
        "items_without_text": 0,
        "items_without_cooccurrence": 0,
    }
    assert set(both.means) == {"text_mean", "collaborative_mean"}


def test_items_without_text_are_zero_and_counted(dataset, encoder, caplog):
    texts = ["", None, *dataset.item_table["text"][2:].to_list()]
    table = dataset.item_table.with_columns(text=pl.Series(texts, dtype=pl.String))
    result = item_vectors(SidConfig(source="text"), replace(dataset, item_table=table))
    assert not result.vectors[:2].any()
    assert result.vectors[2:].any(axis=1).all()
    assert result.facts["items_without_text"] == 2
    assert "2 of 40 items have no text" in caplog.text


@pytest.mark.parametrize("source", ["text", "collaborative", "both"])
def test_no_vector_sees_the_future(source, dataset, changed_future, encoder):
    config = SidConfig(source=source, collaborative_dim=4)
    before, after = item_vectors(config, dataset), item_vectors(config, changed_future)
    assert not np.array_equal(dataset.items, changed_future.items)
    assert np.array_equal(before.vectors, after.vectors)


def test_collaborative_vectors_see_training_events(dataset):
    items = dataset.items.copy()
    items[0] = (items[0] + 1) % 40
    config = SidConfig(source="collaborative", collaborative_dim=4)
    before = item_vectors(config, dataset).vectors
    assert not np.allclose(before, item_vectors(config, replace(dataset, items=items)).vectors)


def test_unknown_source(dataset):
    with pytest.raises(ValueError, match=r"sid\.source is 'sound'"):
        item_vectors(SidConfig(source="sound"), dataset)  # type: ignore[arg-type]


def test_cache_lies_in_the_prepared_data_set(dataset, tmp_path):
    assert cache_folder(dataset) is None
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert cache_folder(dataset) == folder / "cache"


def test_npy(tmp_path):
    path = tmp_path / "v.npy"
    wanted = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(path, wanted)
    result = read_vectors(path, IDS)
    assert result.dtype == np.float32
    assert np.array_equal(result, wanted)


def bad_arrays():
    yield "few", np.zeros((2, 2)), "has 2 rows but the catalogue has 3 items"
    yield "flat", np.zeros(3), r"float64 \[3\]"
    yield "strings", np.array([["a"], ["b"], ["c"]]), "must be numbers"
    yield (
        "nan",
        np.array([[1.0], [np.nan], [np.inf]]),
        r"2 rows that are not finite, first \[1, 2\]",
    )
    yield "objects", np.array([[None], [1], [2]], dtype=object), "not an array of numbers"


@pytest.mark.parametrize(
    ("array", "message"), [pytest.param(a, m, id=n) for n, a, m in bad_arrays()]
)
def test_bad_npy(array, message, tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        read_vectors(path, IDS)


@pytest.mark.parametrize("dtype", [pl.List(pl.Float32), pl.Array(pl.Float64, 2)])
def test_parquet_is_put_in_catalogue_order(dtype, tmp_path):
    path = tmp_path / "v.parquet"
    vectors = pl.Series([[2, 20], [9, 90], [0, 0.5], [1, 10]], dtype=dtype)
    pl.DataFrame({"raw_item_id": ["r2", "other", "r0", "r1"], "v": vectors}).write_parquet(path)
    result = read_vectors(path, IDS)
    assert result.dtype == np.float32
    assert result.tolist() == [[0, 0.5], [1, 10], [2, 20]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"raw_item_id": ["r0"], "v": [[1.0]]}, r"lacks 2 of 3 items, first \['r1', 'r2'\]"),
        ({"raw_item_id": ["r0", "r1", "r2"], "v": [[1.0], None, [1.0]]}, r"lacks 1 .* \['r1'\]"),
        ({"raw_item_id": ["r0", "r0", "r1", "r2"], "v": [[1.0]] * 4}, r"repeats .*\['r0'\]"),
        ({"raw_item_id": ["r0", "r1", "r2"], "v": [[1.0], [1.0, 2.0], [1.0]]}, r"widths \[1, 2\]"),
        ({"raw_item_id": ["r0", "r1", "r2"], "v": [[1.0], [None], [1.0]]}, "missing numbers"),
        ({"item": ["r0", "r1", "r2"], "v": [[1.0]] * 3}, r"columns \['item', 'v'\]"),
        ({"raw_item_id": ["r0", "r1", "r2"], "v": [1.0] * 3}, "exactly one column of lists"),
    ],
)
def test_bad_parquet(columns, message, tmp_path):
    path = tmp_path / "v.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(ValueError, match=message):
        read_vectors(path, IDS)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_vectors(tmp_path / "none.npy", IDS)
    (tmp_path / "v.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"ends in '.csv'"):
        read_vectors(tmp_path / "v.csv", IDS)
    (tmp_path / "v.parquet").write_text("junk")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_vectors(tmp_path / "v.parquet", IDS)
    (tmp_path / "v.npy").write_text("junk")
    with pytest.raises(ValueError, match="is not an array of numbers"):
        read_vectors(tmp_path / "v.npy", IDS)
