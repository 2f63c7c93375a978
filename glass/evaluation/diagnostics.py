"""How beam search fares level by level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glass.evaluation.arrays import (
    AnyIntArray,
    BoolArray,
    Int64Array,
    first_occurrences,
    row_chunks,
)
from glass.evaluation.catalogue import SidCatalogue
from glass.evaluation.targets import Targets


def generation_diagnostics(
    codes: AnyIntArray,
    targets: Targets,
    catalogue: SidCatalogue,
    prefixes: Sequence[AnyIntArray] | None = None,
) -> dict[str, float]:
    """Validity, prefix correctness and conditional rank progression of generated SIDs.

    Let r_d be the place, from 1, of a target's true d-prefix among the distinct prefixes in the
    beam at depth d, best first; the target survives depth d when its d-prefix is in that beam. One
    that is no candidate of the catalogue survives nowhere. Everything is a mean over targets:

    - `invalid_rate`: share of the returned beams whose codes no candidate has.
    - `P_1`, `P_12`, .. `P_1..L`: share whose true prefix is that of the best beam.
    - `rank_d`: mean r_d over targets that survive depth d (1 is best).
    - `crp_d`, d >= 2 (conditional rank progression): mean r_d - r_(d-1) over targets that survive
      depths d - 1 and d. Positive: the truth sinks as decoding goes deeper.
    - `kept_d`, d >= 2: share of the targets that survive depth d - 1 which survive depth d too;
      `rank_d` and `crp_d` say nothing about the others.

    The beam at depth d is `prefixes[d - 1]`. Without `prefixes` it is read off the final beams,
    ranked by their best continuation: a prefix that was dropped on the way is then missing, and
    since deeper prefixes are never fewer, `crp_d` is never negative.

    Args:
        codes: integer [S, W, L] final beams, best first; a beam with a negative code is no beam.
        targets: N targets whose `sample` is a row of `codes`.
        catalogue: SIDs of the items.
        prefixes: for d = 1..L integer [S, W_d, d], the beams after d steps, best first.

    Returns:
        Name -> value; a value without any beam or target to average over is left out.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(codes, targets, catalogue, prefixes)
    # No candidate: codes that no beam has, not even one of -1.
    reachable = catalogue.candidates[targets.item]
    truth = np.where(reachable[:, None], catalogue.codes[targets.item], -2)
    result = {}
    returned: BoolArray = np.all(codes >= 0, axis=-1)
    if returned.any():
        result["invalid_rate"] = float((catalogue.lookup(codes)[returned] < 0).mean())
    if not len(targets):
        return result
    # Without a beam the codes may be anything, so they must not match by accident.
    best = np.where(returned[:, :1], codes[:, 0], -1)[targets.sample]
    correct = np.logical_and.accumulate(best == truth, axis=1).mean(axis=0)
    for depth, share in enumerate(correct, start=1):
        result["P_" + "".join(map(str, range(1, depth + 1)))] = float(share)
    before: Int64Array | None = None
    for depth in range(1, catalogue.num_levels + 1):
        beam = codes[:, :, :depth] if prefixes is None else prefixes[depth - 1]
        alive = returned if prefixes is None else np.asarray(np.all(beam >= 0, axis=-1))
        rank = _prefix_rank(beam, alive, targets.sample, truth[:, :depth])
        result |= _progression(depth, rank, before)
        before = rank
    return result


def _progression(depth: int, rank: Int64Array, before: Int64Array | None) -> dict[str, float]:
    survives = rank > 0
    result = {}
    if survives.any():
        result[f"rank_{depth}"] = float(rank[survives].mean())
    if before is not None and (before > 0).any():
        both = survives & (before > 0)
        result[f"kept_{depth}"] = float(both.sum() / (before > 0).sum())
        if both.any():
            result[f"crp_{depth}"] = float((rank - before)[both].mean())
    return result


def _prefix_rank(
    beam: AnyIntArray, alive: BoolArray, sample: Int64Array, truth: AnyIntArray
) -> Int64Array:
    """Place from 1 of each true prefix among its sample's distinct prefixes, 0 if absent."""
    prefix = np.where(alive, _numbered(beam), -1)
    place = np.cumsum(first_occurrences(prefix), axis=1)
    rank = np.zeros(len(sample), np.int64)
    for rows in row_chunks(len(sample), beam.shape[1] * beam.shape[2]):
        row = sample[rows]
        match = (beam[row] == truth[rows, None]).all(axis=-1) & alive[row]
        column = match.argmax(axis=1)
        rank[rows] = np.where(match.any(axis=1), place[row, column], 0)
    return rank


def _numbered(prefixes: AnyIntArray) -> Int64Array:
    """int64 [S, W]: equal prefixes of integer [S, W, d] get equal numbers >= 0."""
    flat = prefixes.reshape(-1, prefixes.shape[-1])
    number = np.zeros(len(flat), np.int64)
    for column in flat.T:
        _, code = np.unique(column, return_inverse=True)
        _, number = np.unique(number * (len(flat) + 1) + code, return_inverse=True)
    return number.reshape(prefixes.shape[:-1])


def _check(
    codes: AnyIntArray,
    targets: Targets,
    catalogue: SidCatalogue,
    prefixes: Sequence[AnyIntArray] | None,
) -> None:
    levels = catalogue.num_levels
    if codes.ndim != 3 or codes.shape[1] < 1 or codes.shape[2] != levels:
        raise ValueError(
            f"codes must be [S, W >= 1, {levels}] (the catalogue's levels), got {list(codes.shape)}"
        )
    if len(targets) and int(targets.sample.max()) >= len(codes):
        raise ValueError(
            f"codes has {len(codes)} rows but targets refer to sample {int(targets.sample.max())}; "
            "pass the beams of every sample"
        )
    if prefixes is None:
        return
    shapes = [prefix.shape for prefix in prefixes]
    fit = len(shapes) == levels and all(
        len(shape) == 3 and shape[0] == len(codes) and shape[1] >= 1 and shape[2] == depth
        for depth, shape in enumerate(shapes, start=1)
    )
    if not fit:
        raise ValueError(
            f"prefixes must hold an array [{len(codes)}, W_d, d] for each d = 1..{levels}, "
            f"got shapes {[list(shape) for shape in shapes]}"
        )
