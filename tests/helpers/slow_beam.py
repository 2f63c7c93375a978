"""Beam search as a loop over beams that decodes every whole prefix anew, without any cache."""

from __future__ import annotations

import math

import torch

from glass.data.batches import Batch
from glass.models import Encoded, Glass

Sid = tuple[int, ...]


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
    model: Glass, encoded: Encoded, prefix: Sid, catalogue: set[Sid] | None
) -> dict[Sid, float]:
    """Log-probability of each continuation; over the legal codes alone with a catalogue."""
    found = log_probs(model, encoded, prefix)
    legal = range(len(found)) if catalogue is None else legal_codes(catalogue, prefix)
    total = math.log(sum(math.exp(found[code]) for code in legal))
    return {(*prefix, code): found[code] - total for code in legal}


def slow_beam_search(
    model: Glass, batch: Batch, width: int, catalogue: set[Sid] | None
) -> list[list[tuple[float, Sid]]]:
    """After each level, the `width` best (score, prefix), best first; one history."""
    beams: list[tuple[float, Sid]] = [(0.0, ())]
    levels = []
    with torch.no_grad():
        encoded = model.encode(batch)
        for _ in range(model.num_levels):
            candidates = [
                (score + step, longer)
                for score, prefix in beams
                for longer, step in extensions(model, encoded, prefix, catalogue).items()
            ]
            beams = sorted(candidates, key=lambda c: (-c[0], c[1]))[:width]
            levels.append(beams)
    return levels
