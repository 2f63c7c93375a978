"""GLASS with IntRR through a whole run: trained, evaluated, and asked for items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glass.cli import main
from glass.cli_parser import make_parser, parse
from glass.config import RunConfig, SequenceConfig
from glass.models import GlassIntrr
from glass.pipeline import Run, recommend
from glass.serving.folder import load_system
from glass.systems import TRAINED


@pytest.mark.parametrize("copy_head", [False, True], ids=["plain", "copying"])
def test_the_union_is_trained_evaluated_and_served(
    copy_head: bool, make_shop: Callable[..., Path]
) -> None:
    """A model that copies reads every event when it serves; another one is given an index."""
    path = make_shop(
        systems=["own_frequency", "glass_intrr"],
        model={"copy_head": copy_head},
        sequence={"uid_dim": 8, "content": copy_head},
    )
    for command in ("train", "evaluate"):
        assert main([command, str(path)]) == 0
    run = Run(parse(make_parser("glass run", ""), str(path), ())[0], progress=False)
    metrics = run.metrics()
    assert metrics["systems"]["glass_intrr"]["generation"]["acc_1"] > 0
    assert metrics["gates"]["glass_intrr"]["mean_gate"]
    model, table, _ = load_system(run.folder / "glass_intrr")
    assert isinstance(model, GlassIntrr)
    assert model.content.shape == (table.num_items, table.vectors.shape[1] if copy_head else 0)
    found = recommend(
        run,
        ["u0", "u1"],
        num_items=3,
        system="glass_intrr",
        exclude_seen=True,
        allowed=None,
        exclude=None,
        max_per_sid1=None,
    )
    assert [len(items) for items in found.values()] == [3, 3]


@pytest.mark.parametrize(
    ("section", "field", "value", "changes"),
    [
        ("union", "tier_guidance", False, True),
        ("sequence", "uid_dim", 9, True),
        ("sequence", "alignment", 0.0, True),
        ("model", "d_ff", 9, True),
        ("sequence", "max_items", 9, False),
        ("sequence", "d_model", 9, False),
        ("model", "tier_table_limit", 1, False),
    ],
)
def test_settings_that_decide_the_weights(
    section: str, field: str, value: Any, changes: bool
) -> None:
    base = RunConfig()
    other = replace(base, **{section: replace(getattr(base, section), **{field: value})})
    union, glass = TRAINED["glass_intrr"], TRAINED["glass"]
    assert (union.decisive(base) != union.decisive(other)) == changes
    assert (glass.decisive(base) != glass.decisive(other)) == (changes and section == "model")


def test_content_needs_item_vectors() -> None:
    readers = TRAINED["glass_intrr"].vector_readers
    content = RunConfig(sequence=SequenceConfig(content=True))
    assert "sequence.content" not in readers(RunConfig())
    assert "sequence.content" in readers(content)
