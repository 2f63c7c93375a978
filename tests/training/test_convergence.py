"""GLASS learns what TIGER cannot see: users return to a bucket of their long history alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from planted import GLASS, SIZES, planted

from glass.config import EvalConfig, ModelConfig, TrainConfig
from glass.evaluation import SidCatalogue
from glass.models import Glass
from glass.systems import TRAINED
from glass.training import Validator, train
from glass_kernels import SidTrie

TIGER = ModelConfig(**{**vars(GLASS), "use_sid_tier": False, "use_hard_search": False})
TRAIN = TrainConfig(batch_size=64, learning_rate=1e-2, max_epochs=30, eval_every=30, log_every=1000)


def score(config: ModelConfig, folder: Path) -> float:
    dataset, sids = planted()
    system = TRAINED["glass"]
    torch.manual_seed(0)
    model = Glass.from_data(config, sids, dataset)
    validate = Validator(
        dataset,
        "valid",
        partial(system.collator, config),
        EvalConfig(beam_width=20),
        num_groups=0,
        catalogue=SidCatalogue(sids.codes),
        trie=SidTrie.build(torch.from_numpy(sids.codes), SIZES),
    )
    rows = system.training_rows(config, dataset)
    return train(model, rows, validate, TRAIN, folder, progress=False).best


def test_glass_finds_the_bucket_of_the_long_history(tmp_path: Path) -> None:
    tiger, glass = (score(c, tmp_path / str(n)) for n, c in enumerate((TIGER, GLASS)))
    # Without the long history every item is equally likely; with it one of two is right.
    assert tiger < 0.35
    assert glass > 0.7
