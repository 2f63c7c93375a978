"""GLASS learns what TIGER cannot see: users return to a bucket of their long history alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from toy import collator, toy_dataset

from glass.config import EvalConfig, ModelConfig, TrainConfig
from glass.data import Dataset
from glass.evaluation import SidCatalogue
from glass.models import Glass
from glass.sid import SidTable
from glass.training import Validator, train
from glass_kernels import SidTrie

BUCKETS, CODES = 6, 6
SIZES = (BUCKETS, CODES)
NUM_ITEMS = BUCKETS * CODES
GLASS = ModelConfig(
    d_model=24,
    num_heads=2,
    head_dim=12,
    d_ff=48,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout=0.0,
    short_length=3,
    num_neighbours=0,
    search_max_items=6,
)
TIGER = ModelConfig(**{**vars(GLASS), "use_sid_tier": False, "use_hard_search": False})
TRAIN = TrainConfig(batch_size=64, learning_rate=1e-2, max_epochs=30, eval_every=30, log_every=1000)


def planted() -> tuple[Dataset, SidTable]:
    """Each user has two items of one bucket in the long history; the short one is noise.

    Items of a bucket have similar vectors. All held-out groups are one of the user's two items.
    """
    rng = np.random.default_rng(0)
    users = []
    for _ in range(250):
        bucket = rng.integers(BUCKETS)
        favourites = bucket * CODES + rng.choice(CODES, 2, replace=False)
        old = rng.choice(favourites, 4)
        old[:2] = favourites
        noise = rng.integers(0, NUM_ITEMS, 3)
        target = rng.choice(favourites, 3)
        # Training, validation and test targets share the history up to the noise, as one basket.
        users.append([[*old.tolist(), *noise.tolist()], *([int(t)] for t in target)])
    codes = np.stack(np.divmod(np.arange(NUM_ITEMS), CODES), axis=1).astype(np.int32)
    vectors = np.eye(BUCKETS, dtype=np.float32)[codes[:, 0]]
    vectors += 0.05 * rng.normal(size=vectors.shape).astype(np.float32)
    return toy_dataset(users, NUM_ITEMS), SidTable(codes, SIZES, vectors - vectors.mean(0))


def score(config: ModelConfig, folder: Path) -> float:
    dataset, sids = planted()
    torch.manual_seed(0)
    model = Glass.from_data(config, sids, dataset)
    validate = Validator(
        dataset,
        "valid",
        config,
        EvalConfig(beam_width=20),
        num_groups=0,
        catalogue=SidCatalogue(sids.codes),
        trie=SidTrie.build(torch.from_numpy(sids.codes), SIZES),
    )
    samples = dataset.samples("train")
    collate = collator(dataset, samples, config)
    return train(model, samples, collate, validate, TRAIN, folder, progress=False).best


def test_glass_finds_the_bucket_of_the_long_history(tmp_path: Path) -> None:
    tiger, glass = (score(c, tmp_path / str(n)) for n, c in enumerate((TIGER, GLASS)))
    # Without the long history every item is equally likely; with it one of two is right.
    assert tiger < 0.35
    assert glass > 0.7
