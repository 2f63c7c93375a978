"""Where a model that spreads items over codes has moved them, away from their semantic IDs.

p_l(i) is the distribution of item i over the codes of level l that the model has learned (IntRR,
arXiv 2602.20704). An item has moved at a level where the best code of p_l is not that of its SID.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glass.evaluation.arrays import AnyIntArray, FloatArray, Int64Array

Assignments = Callable[[Int64Array], Sequence[FloatArray]]
"""items int64 [n] -> for each level, their distribution [n, K_l]."""

_BLOCK = 4096
_MOST_PAIRS = 2000
_CANDIDATES = 100
"""Pairs, most frequent first, among which the shown one is that whose items lie furthest apart."""
_SHOWN_CODES = 3


def describe_redistribution(
    codes: AnyIntArray, assignments: Assignments, train_counts: AnyIntArray, *, seed: int = 0
) -> dict[str, Any]:
    """How far a model has moved the items with training events from their SIDs.

    Args:
        codes: integer [V, L], the SIDs.
        assignments: the learned distributions.
        train_counts: integer [V] training events of each item.
        seed: of the random pairs.

    Returns:
        - `items`: how many they are.
        - `moved`: share of them whose best code is another one, level by level; `moved_any`: at one
          level at least; `moved_events`: as `moved`, by training events.
        - `own_code`: mean p_l of the SID's own code, level by level.
        - `pairs`: pairs of items whose SIDs agree (on all levels but the last where all SIDs
          differ): `levels` that agree, `count`, mean `distance` at each of these levels (total
          variation: 0 equal, 1 disjoint) and that of `random` pairs. Left out if there are none.
        - `example`: the pair that lies furthest apart among the frequent ones: `items`, `codes`,
          best codes `assigned`, and at each level the most probable `codes` and their `shares`.
    """
    items = np.flatnonzero(train_counts > 0)
    own, best = _own_and_best(codes, assignments, items)
    moved = best != codes[items]
    found: dict[str, Any] = {
        "items": len(items),
        "moved": moved.mean(0).tolist(),
        "moved_any": float(moved.any(1).mean()),
        "moved_events": np.average(moved, axis=0, weights=train_counts[items]).tolist(),
        "own_code": own.mean(0).tolist(),
    }
    pairs, levels = _pairs(codes[items], train_counts[items])
    if len(pairs):
        rng = np.random.default_rng(seed)
        strangers = rng.permuted(pairs[:, 1])
        distance = _distances(assignments, items[pairs[:, 0]], items[pairs[:, 1]], levels)
        random = _distances(assignments, items[pairs[:, 0]], items[strangers], levels)
        found["pairs"] = {
            "levels": levels,
            "count": len(pairs),
            "distance": distance.mean(0).tolist(),
            "random": random.mean(0).tolist(),
        }
        furthest = items[pairs[distance[:_CANDIDATES].sum(1).argmax()]]
        found["example"] = _example(codes, assignments, furthest)
    return found


def _own_and_best(
    codes: AnyIntArray, assignments: Assignments, items: Int64Array
) -> tuple[FloatArray, Int64Array]:
    """Probability of each item's own code [n, L], and the best codes [n, L]."""
    own, best = [], []
    for first in range(0, len(items), _BLOCK):
        part = items[first : first + _BLOCK]
        levels = assignments(part)
        rows = np.arange(len(part))
        pairs = zip(levels, codes[part].T, strict=True)
        own.append(np.stack([shares[rows, column] for shares, column in pairs], axis=1))
        best.append(np.stack([p.argmax(1) for p in levels], axis=1))
    return np.concatenate(own).astype(np.float64), np.concatenate(best)


def _pairs(codes: AnyIntArray, counts: AnyIntArray) -> tuple[Int64Array, int]:
    """Rows [n, 2] whose SIDs agree, most frequent first, and on how many levels they do."""
    for levels in range(codes.shape[1], max(codes.shape[1] - 2, 0), -1):
        order = np.lexsort(codes[:, :levels].T[::-1])
        same = (codes[order[1:], :levels] == codes[order[:-1], :levels]).all(1)
        pairs = np.stack([order[:-1][same], order[1:][same]], axis=1)
        if len(pairs):
            frequent = np.argsort(-counts[pairs].min(1), kind="stable")
            return pairs[frequent[:_MOST_PAIRS]], levels
    return np.zeros((0, 2), np.int64), 0


def _distances(
    assignments: Assignments, first: Int64Array, second: Int64Array, levels: int
) -> FloatArray:
    """Total variation [n, levels] between the items of each pair."""
    pairs = zip(assignments(first)[:levels], assignments(second)[:levels], strict=True)
    return np.stack([np.abs(p - q).sum(1, dtype=np.float64) / 2 for p, q in pairs], axis=1)


def _example(codes: AnyIntArray, assignments: Assignments, pair: Int64Array) -> dict[str, Any]:
    levels, shown = assignments(pair), []
    for level, shares in enumerate(levels):
        wanted = {*np.argsort(-shares, axis=1, kind="stable")[:, :_SHOWN_CODES].ravel().tolist()}
        chosen = sorted(wanted | {*codes[pair, level].tolist()})
        shown.append({"codes": chosen, "shares": shares[:, chosen].astype(float).tolist()})
    return {
        "items": pair.tolist(),
        "codes": codes[pair].tolist(),
        "assigned": np.stack([p.argmax(1) for p in levels], axis=1).tolist(),
        "levels": shown,
    }
