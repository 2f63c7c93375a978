"""Beam search as the released code of GLASS does it, over the plainly written model.

The encoder runs once. Then every level repeats the encoder's states for each beam, runs the decoder
over the whole prefix, searches, gathers and projects what each beam retrieves, and keeps nothing.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.plain_glass import Cross, PlainGlass, mask_of
from glass.data.batches import Batch

Prefixes = dict[tuple[int, ...], Tensor]


class Found(NamedTuple):
    codes: Tensor  # int64 [B, W, L], best first
    scores: Tensor  # float32 [B, W]


def legal_codes(sids: Tensor) -> Prefixes:
    """The codes that follow each prefix of `sids` int [V, L]: what a prefix check looks up."""
    follow = defaultdict(set)
    for sid in sids.tolist():
        for depth, code in enumerate(sid):
            follow[tuple(sid[:depth])].add(code)
    return {prefix: torch.tensor(sorted(codes)) for prefix, codes in follow.items()}


def next_logits(plain: PlainGlass, batch: Batch, encoded: Tensor, codes: Tensor) -> Tensor:
    """[B, W, K] of the level after prefixes `codes` [B, W, level]."""
    users, width, level = codes.shape
    states = encoded.repeat_interleave(width, dim=0)
    prefix = (codes + plain.level_start[:level]).flatten(0, 1)
    x = torch.cat((plain.bos.expand(len(prefix), 1, -1), F.embedding(prefix, plain.token_table)), 1)
    most = plain.config.search_max_items * len(plain.codebook_sizes)
    if level:
        tokens, present = plain.search(batch, codes[..., 0])
    else:  # nothing is searched yet: the gate lets through the short context alone
        tokens = torch.zeros(len(prefix), most, dtype=torch.int64)
        present = torch.zeros(len(prefix), most, dtype=torch.bool)
    retrieved = plain.retrieved_projection(F.embedding(tokens, plain.token_table))
    has = present.any(1)[:, None] & (torch.arange(level + 1) > 0)
    everything = torch.ones(states.shape[:2], dtype=torch.bool)
    cross = Cross(states, mask_of(everything), retrieved, mask_of(present), has[..., None].float())
    future = torch.ones(level + 1, level + 1, dtype=torch.bool).triu(1)
    causal = future.float() * torch.finfo(torch.float32).min
    hidden = plain.decoder(x, causal, cross)[:, -1] * plain.config.d_model**-0.5
    head = torch.split(plain.token_table, list(plain.codebook_sizes))[level]
    logits: Tensor = hidden @ head.T
    return logits.view(users, width, -1)


def check_prefixes(logits: Tensor, codes: Tensor, legal: Prefixes) -> Tensor:
    """Logits with -inf for codes that no SID continues a beam with; one look-up a beam."""
    masked = torch.full_like(logits, -torch.inf)
    for user, beams in enumerate(codes.tolist()):
        for beam, prefix in enumerate(beams):
            allowed = legal.get(tuple(prefix))
            if allowed is not None:
                masked[user, beam, allowed] = logits[user, beam, allowed]
    return masked


@torch.no_grad()
def generate_plainly(
    plain: PlainGlass, batch: Batch, width: int, legal: Prefixes | None = None
) -> Found:
    """The `width` best SIDs of every user; with `legal`, of the catalogue alone."""
    encoded = plain.encode(batch)
    codes = torch.zeros(len(encoded), 1, 0, dtype=torch.int64)
    scores = torch.zeros(len(encoded), 1)
    for _ in plain.codebook_sizes:
        logits = next_logits(plain, batch, encoded, codes)
        if legal is not None:
            logits = check_prefixes(logits, codes, legal)
        # A beam that nothing continues has no log-probabilities.
        total = logits.log_softmax(-1).nan_to_num(nan=-torch.inf) + scores[..., None]
        scores, place = total.flatten(1).topk(min(width, total[0].numel()))
        parents = place // logits.shape[2]
        codes = codes.gather(1, parents[..., None].expand(-1, -1, codes.shape[2]))
        codes = torch.cat((codes, (place % logits.shape[2])[..., None]), dim=2)
    return Found(codes, scores)


def searching(plain: PlainGlass, width: int, legal: Prefixes | None = None) -> partial[Found]:
    """`generate_plainly` of a batch."""
    return partial(_of_batch, plain, width, legal)


def _of_batch(plain: PlainGlass, width: int, legal: Prefixes | None, batch: Batch) -> Found:
    return generate_plainly(plain, batch, width, legal)
