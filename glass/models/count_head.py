"""Counts of the history as evidence for the next code; ours, not in the GLASS paper.

People repeat themselves, and how often an item occurred is a number that attention (a weighted
average) has to reconstruct. The head hands it over: for every code b of the next level, how often
b followed the codes chosen so far, in all and lately. A small function, shared by all codes of a
level and therefore learned at once, turns the counts into a term of that code's logit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_FEATURES = 4


class CountHead(nn.Module):
    """Logit term of every code from its counts in the searched history.

    Args:
        num_levels: L; each level has its own function.
        hidden: width of the function's hidden layer.
    """

    def __init__(self, num_levels: int, hidden: int = 16) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_levels))
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(NUM_FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 1))
            for _ in range(num_levels)
        )
        for level in self.levels:
            assert isinstance(level, nn.Sequential)
            # The start is gain * log(1 + count): the frequencies themselves.
            nn.init.zeros_(level[2].weight)
            nn.init.zeros_(level[2].bias)

    def forward(self, counts: Tensor, recent: Tensor, level: int) -> Tensor:
        """Counts and recency-weighted counts float [..., K] -> logit terms [..., K]."""
        log_count, log_recent = counts.log1p(), recent.log1p()
        log_total = counts.sum(-1, keepdim=True).log1p().expand_as(counts)
        seen = (counts > 0).to(counts.dtype)
        features = torch.stack((log_count, log_recent, log_total, seen), dim=-1)
        term: Tensor = self.levels[level](features).squeeze(-1)
        return self.gain[level] * log_count + term


def first_level_counts(
    sid1: Tensor, offsets: Tensor, num_codes: int, half_life: float
) -> tuple[Tensor, Tensor]:
    """How often each user's history holds each first code.

    Args:
        sid1: int [T] first codes of the histories, oldest first.
        offsets: int64 [B+1].
        num_codes: K.
        half_life: events after which an event counts half in the second result.

    Returns counts and recency-weighted counts, float32 [B, K].
    """
    size = offsets.numel() - 1
    lengths = offsets.diff()
    user = torch.repeat_interleave(
        torch.arange(size, device=sid1.device), lengths, output_size=sid1.numel()
    )
    age = offsets[1:][user] - 1 - torch.arange(sid1.numel(), device=sid1.device)
    key = user * num_codes + sid1.long()
    weights = torch.stack((torch.ones_like(age).float(), torch.exp2(-age.float() / half_life)))
    counts = weights.new_zeros(2, size * num_codes).index_add_(1, key, weights)
    return counts[0].view(size, num_codes), counts[1].view(size, num_codes)


def next_code_counts(
    codes: Tensor, prefix: Tensor, num_codes: int, half_life: float
) -> tuple[Tensor, Tensor]:
    """How often each code follows `prefix` among the retrieved items.

    Args:
        codes: int64 [B, S, M, L] codes of the retrieved items, newest first; -1 is no item.
        prefix: int64 [B, S, l] codes chosen so far.
        num_codes: K of level l.
        half_life: retrieved items after which an item counts half in the second result.

    Returns counts and recency-weighted counts, float32 [B, S, K].
    """
    level = prefix.shape[-1]
    match = (codes[..., :level] == prefix[:, :, None, :]).all(-1) & (codes[..., 0] >= 0)
    follows = codes[..., level].clamp(min=0)
    age = torch.arange(codes.shape[2], device=codes.device)
    weight = match.float()
    zeros = weight.new_zeros(*follows.shape[:2], num_codes)
    counts = zeros.scatter_add(2, follows, weight)
    recent = zeros.scatter_add(2, follows, weight * torch.exp2(-age / half_life))
    return counts, recent
