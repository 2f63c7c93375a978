"""`glass run` over a data set in several files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glass.cli import main
from glass.data.assembly import events as events_module
from glass.data.assembly import spill
from glass.training.trainer import Trainer

MakeShop = Callable[..., Path]


@pytest.fixture(autouse=True)
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "ROWS_IN_MEMORY", 50)
    monkeypatch.setattr(events_module, "ROW_GROUP_EVENTS", 30)


def test_run_is_resumed_and_ends_alike(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "systems": ["popularity", "glass", "intrr_hstu"],
        "train": {"shuffle_events": 200, "max_epochs": 3},
    }
    whole, cut = make_shop("whole", **changes), make_shop("cut", **changes)
    assert main(["run", str(whole)]) == 0
    manifest = json.loads((whole.parent / "data" / "shop" / "manifest.json").read_text())
    assert manifest["shards"] > 5
    step = Trainer.train_step

    def killed(trainer: Trainer) -> None:
        if trainer.step == 7:
            raise KeyboardInterrupt
        step(trainer)

    monkeypatch.setattr(Trainer, "train_step", killed)
    assert main(["run", str(cut)]) == 130
    monkeypatch.setattr(Trainer, "train_step", step)
    assert main(["run", str(cut), "--train.workers", "1"]) == 0
    first, second = (
        json.loads((path.parent / "runs" / "tiny" / "metrics.json").read_text())["systems"]
        for path in (whole, cut)
    )
    assert first == second
