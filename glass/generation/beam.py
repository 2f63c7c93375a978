"""Beam search over semantic IDs, level by level, with everything of a user computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass.data.batches import Batch
from glass.models import Encoded, Glass, Retrieval
from glass_kernels import SidTrie, trie_beam_step
from glass_kernels.trie import beam_step

KeysValues = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Beams:
    """Generated SIDs of B histories, best first."""

    codes: Tensor
    """int64 [B, W, L]; -1 where fewer than W continuations exist."""
    scores: Tensor
    """float32 [B, W] summed log-probabilities; -inf beside a code of -1."""
    prefixes: list[Tensor]
    """After each level d = 1..L, the beams of that moment: int64 [B, W, d], best first; all -1
    where fewer than W continuations exist."""


@torch.no_grad()
def generate(
    model: Glass, batch: Batch, trie: SidTrie, *, beam_width: int, constrained: bool = True
) -> Beams:
    """The `beam_width` most probable SIDs of every history by summed log-probability.

    The encoder runs once; keys and values of the encoder, the projected token table and the
    history index are shared by all beams of a user, and each level decodes one position. The
    first level has no retrieval; then each beam searches the history with its own sid_1.

    Args:
        model: in eval mode.
        batch: B histories; its targets are not looked at.
        trie: the catalogue's SIDs, on the model's device.
        beam_width: W, at least 1.
        constrained: generate only SIDs of the catalogue.

    Raises:
        ValueError: the model is in training mode, or the trie has other codebook sizes.
    """
    if model.training:
        raise ValueError("model is in training mode; call model.eval() before generate()")
    if tuple(trie.codebook_sizes) != model.codebook_sizes:
        raise ValueError(
            f"trie has codebook_sizes {tuple(trie.codebook_sizes)}, the model "
            f"{model.codebook_sizes}; build the trie from the model's SID table"
        )
    encoded = model.encode(batch)
    size = len(batch)
    device = batch.short_items.device
    codes = torch.zeros(size, 1, 0, dtype=torch.int64, device=device)
    scores = torch.zeros(size, 1, device=device)
    nodes = torch.zeros(size, 1, dtype=torch.int32, device=device)
    newest = codes
    retrieval: Retrieval | None = None
    past: KeysValues | None = None
    prefixes = []
    for level in range(model.num_levels):
        hidden, past = model.decode(encoded, newest, retrieval, past)
        state = hidden[:, :, -1]
        logits = model.level_logits(state, level, encoded, retrieval, codes).float()
        if constrained:
            scores, nodes, parents, chosen = trie_beam_step(
                logits, scores, nodes, trie, level, beam_width
            )
        else:
            scores, parents, chosen = beam_step(logits, scores, beam_width)
        index = parents.long()
        codes = codes.gather(1, index[..., None].expand(-1, -1, codes.shape[-1]))
        codes = torch.cat((codes, chosen.long()[..., None]), dim=-1)
        prefixes.append(codes.masked_fill(scores.isneginf()[..., None], -1))
        past = _follow(past, index, size)
        retrieval = _search(model, encoded, codes[..., 0], retrieval, index, level)
        # A dead beam decodes code 0; its score of -inf keeps it out of the results.
        newest = codes[..., -1:].clamp(min=0)
    return Beams(prefixes[-1], scores, prefixes)


def _follow(past: KeysValues, parents: Tensor, size: int) -> KeysValues:
    """Self-attention caches of the beams' parents: [B*W', H, n, D]."""
    width = past[0][0].shape[0] // size
    rows = torch.arange(size, device=parents.device)[:, None] * width + parents
    flat = rows.flatten()
    return [(key[flat], value[flat]) for key, value in past]


def _search(
    model: Glass,
    encoded: Encoded,
    sid1: Tensor,
    retrieval: Retrieval | None,
    parents: Tensor,
    level: int,
) -> Retrieval | None:
    """After level 1 each beam's bucket; later the bucket of its parent."""
    if level == 0:
        return model.retrieve(encoded, sid1)
    return None if retrieval is None else retrieval.reorder(parents)
