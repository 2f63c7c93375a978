"""A run over sequences and codes as they are published, from the files to recommendations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from glass.cli import main
from glass.cli_parser import make_parser, parse
from glass.pipeline import Run, recommend
from glass.serving.folder import load_system

from .conftest import tiny_settings

NUM_ITEMS = 24
UNSEEN, LATE = "22", "23"  # in the index alone; in test events alone


def publish(folder: Path) -> np.ndarray:
    """Writes 20 users' sequences and an index of three levels; returns the codes by raw id."""
    rng = np.random.default_rng(0)
    sequences = {
        f"u{user}": [*((user % 3) * 7 + rng.integers(0, 7, 8)).tolist(), int(LATE)]
        for user in range(20)
    }
    codes = np.stack([np.arange(NUM_ITEMS) // 7, *rng.integers(0, 4, (2, NUM_ITEMS))], axis=1)
    codes[1] = codes[0]
    index = {
        str(item): [f"<{letter}_{code}>" for letter, code in zip("abc", row, strict=True)]
        for item, row in enumerate(codes.tolist())
    }
    folder.mkdir()
    (folder / "Shop.inter.json").write_text(json.dumps(sequences))
    (folder / "Shop.index.json").write_text(json.dumps(index))
    return codes


def write_config(folder: Path, **sections: Any) -> Path:
    settings = tiny_settings(folder)
    settings["systems"] = ["popularity", "own_frequency", "item_knn", "tiger"]
    settings["data"] = {
        "name": "shop",
        "format": "inter_json",
        "path": str(folder / "published"),
        "target_group": "event",
        "ties": "stable",
        "min_item_events": 0,
        "min_user_events": 2,
        "num_test_events": 1,
        "num_valid_events": 1,
        "folder": str(folder / "data"),
    }
    codes_path = str(folder / "published" / "Shop.index.json")
    settings["sid"] = {"source": "none", "quantizer": "published", "codes_path": codes_path}
    for key, value in sections.items():
        settings[key] = settings[key] | value if isinstance(value, dict) else value
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def load_run(path: Path) -> Run:
    return Run(parse(make_parser("glass run", ""), str(path), ())[0], progress=False)


@pytest.mark.parametrize("system", ["tiger", "glass"])
def test_published_codes_reach_the_recommendations(system: str, tmp_path: Path) -> None:
    codes = publish(tmp_path / "published")
    own = {"systems": ["popularity", "recent_frequency", "item_knn", system]}
    if system == "glass":  # with collaborative vectors, which two of the items do not have
        own["sid"] = {"source": "collaborative", "collaborative_dim": 4}
        own["model"] = {"copy_head": True, "long_history": "all"}
    path = write_config(tmp_path, **own)
    for command in ("train", "evaluate"):
        assert main([command, str(path)]) == 0
    run = load_run(path)
    raw = run.dataset.item_table["raw_item_id"].to_list()
    assert len(raw) == NUM_ITEMS
    assert run.dataset.train_counts[raw.index(LATE)] == 0
    assert np.array_equal(run.sid_table.codes, codes[[int(item) for item in raw]])
    targets = run.targets.item
    assert (targets == raw.index(LATE)).all()
    assert run.metrics()["counts"]["targets"] == 20

    found = recommend(
        run,
        ["u0", "u1"],
        num_items=NUM_ITEMS,
        system=system,
        exclude_seen=False,
        allowed=None,
        exclude=None,
        max_per_sid1=None,
    )
    for items in found.values():
        assert {item.raw_item_id for item in items} >= {UNSEEN, LATE}
        for item in items:
            assert list(item.sid) == codes[int(item.raw_item_id)].tolist()
    _, served, _ = load_system(run.folder / system)
    assert np.array_equal(served.codes, run.sid_table.codes)


def test_a_bad_index_is_told_with_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "published")
    index = tmp_path / "published" / "Shop.index.json"
    other = index.with_name("other.json")
    content = json.loads(index.read_text())
    del content[UNSEEN]
    other.write_text(json.dumps(content))
    path = write_config(tmp_path, sid={"codes_path": str(other)})
    assert main(["sid", "build", str(path)]) == 1
    message = capsys.readouterr().err
    assert f"sid.codes_path {other} has no SID for 1 of {NUM_ITEMS} items, first 22" in message
