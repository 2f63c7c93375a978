"""A data set whose users return to one bucket of their long history, which only GLASS can see."""

from __future__ import annotations

import numpy as np
from toy import toy_dataset

from glass.config import ModelConfig
from glass.data import Dataset
from glass.sid import SidTable

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
