"""SID-Tier counts of all samples as Parquet: what a model counts, and only for its own settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toy import SMALL, collator, random_dataset, toy_model, toy_sids

from glass.data import Dataset
from glass.data.order import SPLITS
from glass.models import Glass
from glass.pipeline.check import check_config
from glass.pipeline.neural import load_system
from glass.pipeline.tier_features import TierFeatures, write_tier_features

CONFIG = dataclasses.replace(SMALL, tier_edges="quantile", num_tiers=3)


def shop(fingerprint: str = "a") -> Dataset:
    return dataclasses.replace(random_dataset(30), manifest={"fingerprint": fingerprint})


@pytest.mark.parametrize(
    "changes", [{}, {"long_history": "all"}, {"tier_table_limit": 0}, {"short_length": 40}], ids=str
)
@pytest.mark.parametrize("batch_size", [7, 4096])
def test_equal_what_a_model_counts_for_every_sample(
    changes: dict, batch_size: int, tmp_path: Path
) -> None:
    config, dataset, table = dataclasses.replace(CONFIG, **changes), shop(), toy_sids()
    path = tmp_path / "tiers.parquet"
    features = write_tier_features(path, config, table, dataset, batch_size=batch_size)
    model = toy_model(config, sids=table, dataset=dataset)
    assert model.tier is not None
    assert features.edges == tuple(model.tier.edges.tolist())
    for split in SPLITS:
        samples = dataset.samples(split)
        rows = np.arange(len(samples))
        assert len(rows) > 7
        batch = collator(dataset, samples, config)(rows)
        history = batch.long_items, batch.long_offsets
        counts = model.tier.histogram(*history, normalize=False)
        fractions = model.tier.histogram(*history)
        assert np.array_equal(features.counts(split), counts.numpy())
        assert features.fractions(split).dtype == np.float32
        assert np.array_equal(features.fractions(split), fractions.numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["tiers.parquet"]


def test_columns_for_other_programs(tmp_path: Path) -> None:
    dataset = shop()
    path = tmp_path / "tiers.parquet"
    features = write_tier_features(path, CONFIG, toy_sids(), dataset, batch_size=9)
    read = pq.read_table(path)
    assert read.column_names == ["split", "sample", "user", "counts"]
    assert str(read.schema.field("counts").type).startswith("fixed_size_list<")
    start = 0
    for split in SPLITS:
        samples = dataset.samples(split)
        part = read.slice(start, len(samples))
        assert set(part["split"].to_pylist()) == {split}
        assert part["sample"].to_pylist() == list(range(len(samples)))
        assert part["user"].to_pylist() == samples.users.tolist()
        first = np.array(part["counts"][3].as_py()).reshape(features.num_codes, features.num_tiers)
        assert np.array_equal(first, features.counts(split)[3])
        start += len(samples)
    assert start == len(read)


def test_written_once_and_anew_for_other_settings(tmp_path: Path) -> None:
    path, dataset, table = tmp_path / "tiers.parquet", shop(), toy_sids()
    write_tier_features(path, CONFIG, table, dataset)
    written = path.stat().st_mtime_ns, path.stat().st_ino
    write_tier_features(path, dataclasses.replace(CONFIG, d_model=32), table, dataset)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    write_tier_features(path, dataclasses.replace(CONFIG, num_tiers=2), table, dataset)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) != written
    with pytest.raises(ValueError, match="made from other settings, semantic IDs or data"):
        TierFeatures.load(path, CONFIG, table, dataset)


@pytest.mark.parametrize(
    "change",
    [
        {"config": dataclasses.replace(CONFIG, tier_edges="equal")},
        {"config": dataclasses.replace(CONFIG, short_length=5)},
        {"config": dataclasses.replace(CONFIG, long_history="all")},
        {"table": toy_sids(seed=1)},
        {"dataset": shop("b")},
    ],
    ids=["edges", "short history", "long history", "SIDs", "data"],
)
def test_reading_refuses_what_belongs_to_something_else(change: dict, tmp_path: Path) -> None:
    given = {"config": CONFIG, "table": toy_sids(), "dataset": shop()}
    path = tmp_path / "tiers.parquet"
    write_tier_features(path, **given)
    TierFeatures.load(path, **given)
    message = r"tiers.parquet was made from other .* run `glass sid tiers` with this config"
    with pytest.raises(ValueError, match=message):
        TierFeatures.load(path, **{**given, **change})


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path, given = tmp_path / "tiers.parquet", (CONFIG, toy_sids(), shop())
    with pytest.raises(ValueError, match="holds no tier features; run `glass sid tiers`"):
        TierFeatures.load(path, *given)
    features = write_tier_features(path, *given)
    with pytest.raises(ValueError, match="split is 'tset'; it must be one of train, valid, test"):
        features.counts("tset")
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)  # the first pages; the footer stays
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tiers.parquet is damaged .*delete it and run"):
        features.counts("train")
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="holds no tier features"):
        TierFeatures.load(path, *given)


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, table, dataset = tmp_path / "tiers.parquet", toy_sids(), shop()
    before = write_tier_features(path, CONFIG, table, dataset).counts("test")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    other = dataclasses.replace(CONFIG, num_tiers=2)
    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            write_tier_features(path, other, table, dataset)
    assert [p.name for p in tmp_path.iterdir()] == ["tiers.parquet"]
    assert np.array_equal(TierFeatures.load(path, CONFIG, table, dataset).counts("test"), before)


def test_large_catalogue_trains_and_loads_with_the_vectors_of_its_sids(tmp_path: Path) -> None:
    """Above model.tier_table_limit: the same loss, no table or vectors in the weights."""
    from glass.pipeline.neural import make_trie, save_system

    dataset, table = shop(), toy_sids()
    small = toy_model(CONFIG, sids=table, dataset=dataset).eval()
    config = dataclasses.replace(CONFIG, tier_table_limit=0)
    large = toy_model(config, sids=table, dataset=dataset).eval()
    assert large.tier is not None
    assert large.tier.table is None
    assert "tier.table" not in large.state_dict()
    batch = collator(dataset, dataset.samples("test"), config)(np.arange(9))
    assert torch.equal(large(batch).loss, small(batch).loss)
    trained = {"data": "a", "steps": 1, "best_step": 1, "best": 0.5}
    save_system(large, table, make_trie(table), tmp_path / "glass", trained)
    loaded, _, _ = load_system(tmp_path / "glass")
    assert torch.equal(loaded(batch.to(loaded.codes.device)).loss.cpu(), small(batch).loss)
    bare = Glass.from_pretrained(str(tmp_path / "glass"))
    with pytest.raises(ValueError, match="item_embeddings are missing"):
        bare(batch)


def test_the_limit_is_no_reason_to_train_anew() -> None:
    from glass.config import RunConfig
    from glass.pipeline.keys import training_key

    config, dataset, table = RunConfig(model=CONFIG), shop(), toy_sids()
    other = RunConfig(model=dataclasses.replace(CONFIG, tier_table_limit=1))
    key = training_key("glass", config, dataset, table)
    assert training_key("glass", other, dataset, table) == key
    tiers = RunConfig(model=dataclasses.replace(CONFIG, num_tiers=5))
    assert training_key("glass", tiers, dataset, table) != key
    wrong = RunConfig(model=dataclasses.replace(CONFIG, tier_table_limit=-1))
    with pytest.raises(ValueError, match=r"model.tier_table_limit is -1; it must be at least 0"):
        check_config(wrong)
