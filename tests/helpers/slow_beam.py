"""Beam search as a loop over beams that decodes every whole prefix anew, without any cache."""

from __future__ import annotations

import math
from collections import Counter

import torch

from glass.data.batches import Batch
from glass.models import Encoded, Glass

Sid = tuple[int, ...]
END = -1
"""In place of the codes that a shorter SID lacks."""


def log_probs(model: Glass, encoded: Encoded, prefix: Sid) -> list[float]:
    """Log-probabilities of the next code after `prefix`, of a batch of one history."""
    retrieval = None
    if prefix:
        retrieval = model.retrieve(encoded, torch.tensor([[prefix[0]]]))
    codes = torch.tensor(prefix, dtype=torch.int64).view(1, 1, -1)
    hidden, _ = model.decode(encoded, codes, retrieval)
    logits = model.level_logits(hidden[:, :, -1], len(prefix), encoded, retrieval, codes)
    return logits[0, 0].double().log_softmax(-1).tolist()


def legal_codes(catalogue: set[Sid], prefix: Sid) -> list[int]:
    """Codes that continue `prefix` in the catalogue."""
    depth = len(prefix)
    return sorted({sid[depth] for sid in catalogue if sid[:depth] == prefix})


def extensions(
    model: Glass,
    encoded: Encoded,
    prefix: Sid,
    catalogue: set[Sid] | None,
    mask_before_softmax: bool = True,
) -> dict[Sid, float]:
    """Log-probability of each continuation; with a catalogue, of the legal ones."""
    legal = None if catalogue is None else legal_codes(catalogue, prefix)
    if legal == [END]:
        return {(*prefix, END): 0.0}
    found = log_probs(model, encoded, prefix)
    codes = range(len(found)) if legal is None else [code for code in legal if code != END]
    total = 0.0
    if mask_before_softmax:
        total = math.log(sum(math.exp(found[code]) for code in codes))
    longer = {(*prefix, code): found[code] - total for code in codes}
    if legal is not None and END in legal:
        longer[(*prefix, END)] = 0.0
    return longer


def slow_beam_search(
    model: Glass,
    batch: Batch,
    width: int,
    catalogue: set[Sid] | None,
    *,
    allowed: set[Sid] | None = None,
    mask_before_softmax: bool = True,
    max_per_sid1: int | None = None,
) -> list[list[tuple[float, Sid]]]:
    """After each level, the `width` best (score, prefix), best first; one history."""
    beams: list[tuple[float, Sid]] = [(0.0, ())]
    levels = []
    with torch.no_grad():
        encoded = model.encode(batch)
        for depth in range(1, model.num_levels + 1):
            open_prefixes = None if allowed is None else {sid[:depth] for sid in allowed}
            candidates = [
                (score + step, longer)
                for score, prefix in beams
                for longer, step in extensions(
                    model, encoded, prefix, catalogue, mask_before_softmax
                ).items()
                if open_prefixes is None or longer in open_prefixes
            ]
            candidates.sort(key=lambda c: (-c[0], c[1]))
            beams, taken = [], Counter[int]()
            for score, longer in candidates:
                if max_per_sid1 is None or taken[longer[0]] < max_per_sid1:
                    taken[longer[0]] += 1
                    beams.append((score, longer))
            beams = beams[:width]
            levels.append(beams)
    return levels
