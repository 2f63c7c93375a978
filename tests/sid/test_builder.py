from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import glass.sid.builder as builder
import glass.sid.quantizers as quantizers
from glass.config import RqVaeConfig, SidConfig, VqVaeConfig
from glass.sid import SidTable, build

SMALL = SidConfig(
    codebook_sizes=(4, 8),
    collaborative_dim=4,
    kmeans_iterations=5,
    vqvae=VqVaeConfig(epochs=3, batch_size=16),
    rqvae=RqVaeConfig(hidden_sizes=(8,), code_dim=4, epochs=3, batch_size=16),
)


@pytest.mark.parametrize("quantizer", ["rkmeans", "vqvae", "rqvae"])
def test_build_saves_what_it_returns(quantizer, dataset, encoder, tmp_path):
    table = build(replace(SMALL, quantizer=quantizer), dataset, tmp_path / "sid")
    assert table.codes.shape == (40, 2)
    assert table.codebook_sizes == (4, 8)
    assert table.vectors.shape == (40, 12)
    assert table.quantizer["codebook_1"].shape == (8, 4 if quantizer == "rqvae" else 12)
    assert len(table.manifest["fit"]["relative_error"]) == 2
    assert table.manifest["config"]["quantizer"] == quantizer
    loaded = SidTable.load(tmp_path / "sid")
    assert np.array_equal(loaded.codes, table.codes)
    assert np.array_equal(loaded.vectors, table.vectors)
    if quantizer == "rqvae":
        assert loaded.quantizer["rqvae.encoder.0.weight"].shape == (8, 12)


@pytest.mark.parametrize("quantizer", ["rkmeans", "vqvae", "rqvae"])
def test_nothing_fitted_sees_the_future(quantizer, dataset, changed_future, encoder, tmp_path):
    config = replace(SMALL, quantizer=quantizer)
    before = build(config, dataset, tmp_path / "one")
    after = build(config, changed_future, tmp_path / "two")
    assert np.array_equal(before.codes, after.codes)
    assert np.array_equal(before.vectors, after.vectors)
    assert set(before.quantizer) == set(after.quantizer)
    for name, value in before.quantizer.items():
        assert np.array_equal(value, after.quantizer[name]), name


def test_codebooks_are_fitted_on_items_with_training_events(dataset, encoder, tmp_path):
    config = replace(SMALL, source="text")
    counts = dataset.train_counts.copy()
    counts[[3, 4]] = 0
    untrained = replace(dataset, train_counts=counts)
    before = build(config, untrained, tmp_path / "one")
    table = untrained.item_table.to_dict(as_series=False)
    table["text"][3] = "something else altogether"
    changed = replace(untrained, item_table=type(untrained.item_table)(table))
    after = build(config, changed, tmp_path / "two")
    assert not np.array_equal(before.vectors[3], after.vectors[3])
    for name, value in before.quantizer.items():
        assert np.array_equal(value, after.quantizer[name]), name
    others = np.arange(40) != 3
    assert np.array_equal(before.codes[others], after.codes[others])


def test_building_twice_loads(dataset, encoder, tmp_path, monkeypatch):
    first = build(SMALL, dataset, tmp_path / "sid")

    def fail(*_):
        raise AssertionError("built anew")

    with monkeypatch.context() as patch:
        patch.setattr(builder, "item_vectors", fail)
        assert np.array_equal(build(SMALL, dataset, tmp_path / "sid").codes, first.codes)
        other_data = replace(dataset, manifest={**dataset.manifest, "fingerprint": "new"})
        for config, data in ((replace(SMALL, seed=1), dataset), (SMALL, other_data)):
            with pytest.raises(AssertionError, match="built anew"):
                build(config, data, tmp_path / "sid")
    (tmp_path / "sid" / "sids.parquet").write_bytes(b"")
    assert np.array_equal(build(SMALL, dataset, tmp_path / "sid").codes, first.codes)


def test_settings_of_another_quantizer_leave_sids_as_they_are(dataset, encoder, tmp_path):
    first = build(SMALL, dataset, tmp_path / "sid").manifest["fingerprint"]
    others = {"vqvae": VqVaeConfig(epochs=9), "rqvae": RqVaeConfig(epochs=9)}
    other = replace(SMALL, **others, codes_path="a.json")
    assert build(other, dataset, tmp_path / "sid").manifest["fingerprint"] == first
    own = replace(SMALL, quantizer="vqvae")
    changed = replace(own, vqvae=VqVaeConfig(epochs=2))
    prints = [build(c, dataset, tmp_path / "sid").manifest["fingerprint"] for c in (own, changed)]
    assert len({first, *prints}) == 3


def test_sids_of_the_first_release_stay_current():
    data = SimpleNamespace(manifest={"fingerprint": "abc"})
    assert builder._fingerprint(SidConfig(), data).startswith("58b08206af074c9")
    drawn = [builder._fingerprint(SidConfig(fit_items=n), data) for n in (5, 6)]
    assert len({builder._fingerprint(SidConfig(), data), *drawn}) == 3


@pytest.mark.parametrize("quantizer", ["rkmeans", "vqvae", "rqvae"])
def test_codebooks_are_fitted_on_the_drawn_items(
    quantizer, dataset, encoder, tmp_path, monkeypatch
):
    counts = dataset.train_counts.copy()
    counts[::3] = 0
    some = replace(dataset, train_counts=counts)
    config = replace(SMALL, quantizer=quantizer, codebook_sizes=(4, 4), fit_items=15)
    drawn = quantizers.fitted_items(config, some)
    assert len(drawn) == len(set(drawn.tolist())) == 15
    assert (counts[drawn] > 0).all()
    assert np.array_equal(drawn, np.sort(drawn))
    assert np.array_equal(drawn, quantizers.fitted_items(config, some))
    assert not np.array_equal(drawn, quantizers.fitted_items(replace(config, seed=1), some))
    every = quantizers.fitted_items(replace(config, fit_items=26), some)
    assert every.tolist() == np.flatnonzero(counts).tolist()

    name = {"rkmeans": "residual_kmeans"}.get(quantizer, quantizer)
    fit, given = getattr(quantizers, f"fit_{name}"), []

    def count(vectors, *others, **named):
        given.append(vectors)
        return fit(vectors, *others, **named)

    monkeypatch.setattr(quantizers, f"fit_{name}", count)
    table = build(config, some, tmp_path / "sid")
    assert np.array_equal(given[0], table.vectors[drawn])
    assert len(table.codes) == 40
    named = {"iterations": 5} if quantizer == "rkmeans" else {}
    alone = fit(given[0], (4, 4), *others_of(config), **named, seed=0)
    fitted = alone[1] if quantizer == "rqvae" else alone
    assert table.manifest["fit"]["relative_error"] == [round(e, 6) for e in fitted.relative_error]


def others_of(config):
    """Settings of the quantiser, where they are an argument of its own."""
    return {"vqvae": [config.vqvae], "rqvae": [config.rqvae]}.get(config.quantizer, [])


def test_failed_build_leaves_no_folder(dataset, encoder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantizers, "fit_residual_kmeans", fail)
    with pytest.raises(KeyboardInterrupt):
        build(SMALL, dataset, tmp_path / "sid")
    assert not (tmp_path / "sid").exists()


def test_vector_file_counts_by_content(dataset, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(
            tmp_path / name,
            rng.normal(size=(40, 6)) if name != "b.npy" else np.load(tmp_path / "a.npy"),
        )
    config = replace(SMALL, source="file")
    prints = [
        build(
            replace(config, vectors_path=str(tmp_path / name)), dataset, tmp_path / "sid"
        ).manifest["fingerprint"]
        for name in ("a.npy", "b.npy", "c.npy")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_deduplication_level_makes_sids_unique(dataset, encoder, tmp_path):
    plain = build(replace(SMALL, source="text"), dataset, tmp_path / "plain")
    table = build(replace(SMALL, source="text", deduplicate=True), dataset, tmp_path / "sid")
    assert np.array_equal(table.codes[:, :2], plain.codes)
    assert len(np.unique(plain.codes, axis=0)) < 40
    assert len(np.unique(table.codes, axis=0)) == 40
    _, sizes = np.unique(plain.codes, axis=0, return_counts=True)
    assert table.codebook_sizes == (4, 8, sizes.max() + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_sizes": (4, 41)}, r"more codes .* \(40\)"),
        ({"codebook_sizes": (4, 9), "fit_items": 8}, r"more codes .* \(8\); .* sid\.fit_items"),
        ({"fit_items": 0}, r"sid\.fit_items is 0"),
        ({"codebook_sizes": ()}, "at least one level"),
        ({"source": "file"}, r"vectors_path is empty, but"),
        ({"source": "file", "vectors_path": "nowhere.npy"}, "nowhere.npy is not a file"),
        ({"text_weight": 0.0}, r"text_weight is 0\.0"),
        ({"kmeans_iterations": 0}, "kmeans_iterations is 0"),
        ({"collaborative_window": 0}, "collaborative_window is 0"),
        ({"rqvae": RqVaeConfig(epochs=0)}, r"rqvae\.epochs is 0"),
        ({"vqvae": VqVaeConfig(batch_size=0)}, r"vqvae\.batch_size is 0"),
        ({"seed": -1}, r"sid\.seed is -1"),
        ({"quantizer": "opq"}, "'opq'; it must be rkmeans, vqvae, rqvae, published"),
    ],
)
def test_bad_settings_are_told_before_any_work(changes, message, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "item_vectors", lambda *_: pytest.fail("worked first"))
    with pytest.raises(ValueError, match=message):
        build(replace(SMALL, **changes), dataset, tmp_path / "sid")
    assert not (tmp_path / "sid").exists()
