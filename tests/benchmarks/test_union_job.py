"""The job that sets TIGER, GLASS, IntRR and their union side by side."""

from __future__ import annotations

import torch

from benchmarks import union
from benchmarks.machine import Floors
from benchmarks.output import number
from benchmarks.union import SIDES, Setup, as_sequences, make_batch, make_model


def test_intrr_reads_what_the_others_read_and_predicts_what_follows() -> None:
    batch = make_batch(Setup("training", 3, targets=2), 0)
    read = as_sequences(batch)
    items = read.items.view(3, union.NEWEST)
    following = read.targets.view(3, union.NEWEST)
    assert torch.equal(items, batch.short_items)
    assert torch.equal(following[:, :-1], items[:, 1:])
    assert torch.equal(following[:, -1], batch.targets[:, 0])
    assert torch.equal(read.owners, torch.arange(3).repeat_interleave(union.NEWEST))


def test_sides_share_catalogue_and_width() -> None:
    models = {name: make_model(name) for name in SIDES}
    for model in models.values():
        assert torch.equal(model.codes, models["union"].codes)
        assert model.config.d_model == models["union"].config.d_model
    assert models["GLASS"].copy_head is not None
    assert models["TIGER"].hard_search is None


def test_every_side_is_timed_at_both_kinds_of_work() -> None:
    training, generation = union.run(quick=True, floors=Floors(1e9, 1e9))
    for row in (training, generation):
        assert all(number(row[f"{name} ms"]) > 0 for name in SIDES)
        assert number(row["GLASS / union"]) > 0
    assert number(training["IntRR targets / s"]) > number(training["union targets / s"])
    assert generation["S"] is None
