"""A tiny shop, and a run over it that takes seconds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

NUM_USERS, NUM_ITEMS, NUM_EVENTS = 24, 30, 36


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    """Ctrl-C as at a terminal: a shell starts background jobs with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def shop_events(seed: int = 0) -> pl.DataFrame:
    """user_id, item_id, timestamp: users like a few items each; two events share a time."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(NUM_USERS), NUM_EVENTS)
    taste = (users % 5) * 6 + rng.integers(0, 6, len(users))
    items = np.where(rng.random(len(users)) < 0.7, taste, rng.integers(0, NUM_ITEMS, len(users)))
    times = 1000 + np.tile(np.arange(NUM_EVENTS) // 2 * 60, NUM_USERS)
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "timestamp": times,
        }
    )


def shop_items() -> pl.DataFrame:
    """item_id, name; the last item has no name and so no text."""
    names = [f"Thing {item}" for item in range(NUM_ITEMS - 1)] + [""]
    return pl.DataFrame({"item_id": [f"i{item}" for item in range(NUM_ITEMS)], "name": names})


def tiny_settings(folder: Path) -> dict[str, Any]:
    """Settings of a run over `<folder>/events.csv`; everything is written below `folder`."""
    return {
        "name": "tiny",
        "output": str(folder / "runs"),
        "systems": ["popularity", "own_frequency", "item_knn", "tiger", "glass"],
        "data": {
            "name": "shop",
            "format": "table",
            "path": str(folder / "events.csv"),
            "items_path": str(folder / "items.csv"),
            "title_column": "name",
            "text_columns": ["name"],
            "min_item_events": 1,
            "num_test_events": 4,
            "num_valid_events": 4,
            "folder": str(folder / "data"),
        },
        "sid": {"source": "collaborative", "collaborative_dim": 8, "codebook_sizes": [4, 4, 4]},
        "model": {
            "d_model": 16,
            "num_heads": 2,
            "head_dim": 8,
            "d_ff": 32,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "short_length": 6,
            "search_max_items": 5,
            "search_min_items": 2,
        },
        "train": {
            "batch_size": 64,
            "max_targets": 2,
            "learning_rate": 0.01,
            "max_epochs": 2,
            "log_every": 2,
            "checkpoint_every": 3,
        },
        "eval": {"bootstrap": 20, "knn_neighbours": 5},
        "num_example_users": 3,
    }


@pytest.fixture
def make_shop(tmp_path: Path) -> Callable[..., Path]:
    """Writes a shop into a new folder below `tmp_path`; returns its `config.yaml`."""

    def make(
        name: str = "shop",
        events: pl.DataFrame | None = None,
        **sections: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (shop_events() if events is None else events).write_csv(folder / "events.csv")
        shop_items().write_csv(folder / "items.csv")
        settings = tiny_settings(folder)
        for key, value in sections.items():
            if isinstance(value, dict):
                settings[key] = {**settings.get(key, {}), **value}
            else:
                settings[key] = value
        path = folder / "shop.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a run that `glass run` has finished; tests must leave it as it is."""
    from glass.cli import main

    folder = tmp_path_factory.mktemp("finished")
    shop_events().write_csv(folder / "events.csv")
    shop_items().write_csv(folder / "items.csv")
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(folder), sort_keys=False))
    assert main(["run", str(path)]) == 0
    return path
