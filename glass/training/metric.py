"""The validation metric that chooses the weights and stops a training."""

from __future__ import annotations

import re

DEFAULT = "ndcg@20"
"""Where nothing else is said; what older runs were trained by."""


def score_name(setting: str) -> str:
    """Name of `TrainConfig.metric` among the metrics: recall@K is hit@K, as a target is one item.

    Raises:
        ValueError: no such metric.
    """
    match = re.fullmatch(r"(ndcg|hit|recall)@([1-9]\d*)", setting)
    if match is None:
        raise ValueError(
            f"train.metric is {setting!r}; it must be ndcg@K, hit@K or recall@K, such as ndcg@20"
        )
    return f"{'ndcg' if match[1] == 'ndcg' else 'hit'}@{match[2]}"


def cut_off(setting: str) -> int:
    """K of `TrainConfig.metric`."""
    return int(score_name(setting).partition("@")[2])
