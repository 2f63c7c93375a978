"""Beam search over semantic IDs, level by level, with everything of a user computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass.generation.extend import Frontier, Rule
from glass.generation.filters import check_filter
from glass.generation.protocol import Generative, HistoriesT
from glass_kernels import SidTrie, TrieFilter

_PART = 32
"""Users searched together on a CPU: what they need then stays in its caches."""


@dataclass(frozen=True)
class Beams:
    """Generated SIDs of B histories, best first."""

    codes: Tensor
    """int64 [B, W, L]; -1 from the end of a shorter SID on, and all -1 where fewer than W
    continuations exist."""
    scores: Tensor
    """float32 [B, W] summed log-probabilities; -inf where there is no beam."""
    nodes: Tensor
    """int32 [B, W], the leaf of the trie that each beam has reached; -1 where there is no beam or,
    without constraint, the catalogue lacks the SID."""
    prefixes: list[Tensor]
    """After each level d = 1..L, the beams of that moment: int64 [B, W, d], best first; codes as
    above."""

    def __len__(self) -> int:
        return self.codes.shape[0]


def generate(
    model: Generative[HistoriesT],
    batch: HistoriesT,
    trie: SidTrie,
    *,
    beam_width: int,
    constrained: bool = True,
    mask_before_softmax: bool = True,
    filter: TrieFilter | None = None,
    max_per_sid1: int | None = None,
) -> Beams:
    """The `beam_width` most probable SIDs of every history by summed log-probability.

    The histories are read once and each level decodes one position; see `Generative` for what is
    asked of the model. No user depends on the others of the batch, and equal scores go to the
    beam that comes first, then to the lower code: results are reproducible. Gradients do not pass.

    A user for whom a filter leaves nothing, or fewer SIDs than beams, gets what there is: the rest
    of the beams have score -inf and codes and node -1. NaN among a model's logits counts as -inf.

    Args:
        model: in eval mode; `glass.models.Glass`, or any `Generative`.
        batch: B histories, which may be empty; its targets are not looked at. B may be 0.
        trie: the catalogue's SIDs, on the model's device.
        beam_width: W, at least 1; may exceed the catalogue.
        constrained: generate only SIDs of the catalogue. Without, all SIDs have L codes.
        mask_before_softmax: with a constraint, share the probability out among the codes that
            continue a SID of the catalogue; false: among all codes of the level.
        filter: of B requests, from `trie.filter`: items each user must not get, or alone may get.
            The others keep their scores.
        max_per_sid1: at most so many beams share their first code, at every level: diversity at
            the price of probability. None: no limit.

    Raises:
        ValueError: the model is in training mode, the trie has other codebook sizes or is on
            another device, a number below 1, or a filter of another number of requests, of another
            trie or without constraint.
    """
    _check(model, batch, trie, beam_width, constrained, filter, max_per_sid1)
    rule = Rule(trie, beam_width, constrained, mask_before_softmax, filter, max_per_sid1)
    with torch.inference_mode():
        if batch.device.type != "cpu" or len(batch) <= _PART:
            found = [_search(model, batch, rule)]
            order = None
        else:
            # Histories of like length side by side have little padding.
            order = batch.lengths.argsort(stable=True)
            found = []
            for first in range(0, len(batch), _PART):
                rows = order[first : first + _PART]
                found.append(_search(model, batch.part(rows), rule.of_users(rows)))
            order = order.argsort()
    # Outside of it, so that the result is made of ordinary tensors.
    return _joined(found, order)


def _check(
    model: Generative[HistoriesT],
    batch: HistoriesT,
    trie: SidTrie,
    beam_width: int,
    constrained: bool,
    filter: TrieFilter | None,
    max_per_sid1: int | None,
) -> None:
    if model.training:
        raise ValueError("model is in training mode; call model.eval() before generate()")
    if tuple(trie.codebook_sizes) != tuple(model.codebook_sizes):
        raise ValueError(
            f"trie has codebook_sizes {tuple(trie.codebook_sizes)}, the model "
            f"{tuple(model.codebook_sizes)}; build the trie from the model's SID table"
        )
    if trie.device != batch.device:
        raise ValueError(
            f"trie must be on {batch.device} like the batch, was on {trie.device}; "
            "move it once with trie.to(device)"
        )
    for name, value in (("beam_width", beam_width), ("max_per_sid1", max_per_sid1)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, was {value}")
    if filter is None:
        return
    if not constrained:
        raise ValueError("filter needs constrained=True: it lists nodes of the trie")
    check_filter(filter, trie, len(batch))


def _search(model: Generative[HistoriesT], batch: HistoriesT, rule: Rule) -> Beams:
    """Beams of a batch that is decoded together."""
    beams = Frontier.root(len(batch), batch.device)
    steps = model.steps(batch)
    beams, parents = rule.extend(beams, steps.first())
    prefixes = [beams.codes]
    for _ in range(1, rule.trie.num_levels):
        # A dead or ended beam decodes code 0; what comes out is not looked at.
        logits = steps.next(parents, beams.codes[..., -1].clamp(min=0))
        beams, parents = rule.extend(beams, logits)
        prefixes.append(beams.codes)
    nodes = beams.nodes if rule.constrained else rule.trie.lookup(beams.codes)
    return Beams(beams.codes, beams.scores, nodes, prefixes)


def _joined(parts: list[Beams], order: Tensor | None) -> Beams:
    """One after another, then in `order` int64 [B]."""

    def whole(pieces: list[Tensor]) -> Tensor:
        together = torch.cat(pieces)
        return together if order is None else together[order]

    return Beams(
        whole([part.codes for part in parts]),
        whole([part.scores for part in parts]),
        whole([part.nodes for part in parts]),
        [whole(list(level)) for level in zip(*(part.prefixes for part in parts), strict=True)],
    )
