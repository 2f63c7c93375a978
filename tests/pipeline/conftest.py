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


SEQUENCES: dict[str, Any] = {
    "systems": ["own_frequency", "flattened_transformer", "intrr_hstu"],
    "sequence": {
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 2,
        "head_dim": 8,
        "d_ff": 32,
        "max_items": 6,
        "uid_dim": 8,
    },
    "train": {"metric": "recall@5", "max_targets": 1, "batch_size": 16},
    "eval": {"ks": [1, 5, 10], "beam_width": 10},
}
"""Changes of the tiny settings for models that read one causal sequence."""


def write_shop(folder: Path, events: pl.DataFrame | None = None, **sections: Any) -> Path:
    """Writes a shop into `folder`; returns its config, the tiny settings with those of `sections`
    changed."""
    (shop_events() if events is None else events).write_csv(folder / "events.csv")
    shop_items().write_csv(folder / "items.csv")
    settings = tiny_settings(folder)
    for key, value in sections.items():
        merged = isinstance(value, dict) and key in settings
        settings[key] = settings[key] | value if merged else value
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def written_shop() -> Callable[..., Path]:
    """`write_shop`, for runs that tests share."""
    return write_shop


@pytest.fixture
def make_shop(tmp_path: Path) -> Callable[..., Path]:
    """Writes a shop into a new folder below `tmp_path`; returns its `config.yaml`."""

    def make(name: str = "shop", events: pl.DataFrame | None = None, **sections: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return write_shop(folder, events, **sections)

    return make


@pytest.fixture
def make_sequence_shop(make_shop: Callable[..., Path]) -> Callable[..., Path]:
    """The same for sequence models."""
    return lambda **sections: make_shop(**{**SEQUENCES, **sections})


def _finish(path: Path) -> Path:
    from glass.cli import main

    assert main(["run", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a run that `glass run` has finished; tests must leave it as it is."""
    return _finish(write_shop(tmp_path_factory.mktemp("finished")))


@pytest.fixture(scope="session")
def finished_sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a run with sequence models."""
    return _finish(write_shop(tmp_path_factory.mktemp("sequences"), **SEQUENCES))


@pytest.fixture(scope="session")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three finished runs: `tiny`, `seed_1` like it, and `other` with another lambda."""
    from glass.cli import main

    folder = tmp_path_factory.mktemp("compare")
    systems = ["popularity", "flattened_transformer", "intrr_transformer"]
    config = str(write_shop(folder, **{**SEQUENCES, "systems": systems}))
    seed_1 = ["--train.seed", "1", "--name", "seed_1"]
    other = ["--sequence.alignment", "1", "--name", "other", "--systems", "[intrr_transformer]"]
    for changes in ([], seed_1, other):
        assert main(["run", config, *changes]) == 0
    return folder / "runs"
