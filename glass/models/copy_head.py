"""Mixes each level's softmax with a copy of the history; ours, not in the GLASS paper.

People repeat themselves. How often an item occurred is a number that attention, a weighted average,
has to reconstruct, and in a sum of logits it would multiply what the decoder says instead of
standing beside it. So every level is a mixture (a pointer-generator, See et al. 2017):

    P(code) = lambda * P_copy(code) + (1 - lambda) * P_decoder(code)

P_copy is a softmax over the codes that followed the chosen prefix in the searched history, by a
learned function of how often and how lately they did. The function is shared by all codes, so it
is learned from the first steps on. lambda depends on the decoder state and the number of matches,
and is 0 where nothing matches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HALF_LIVES = (8.0, 32.0, 128.0, 512.0)
"""In events: how fast the recency-weighted counts forget."""
NEVER = -1e4
"""Logit of a code that the history does not hold; finite, so that gradients stay finite."""


class CopyHead(nn.Module):
    """Mixture with the history for every level.

    Args:
        d_model: width of the decoder state.
        num_levels: L; each level has its own function and gate.
        hidden: width of the function's hidden layer.
    """

    def __init__(self, d_model: int, num_levels: int, hidden: int = 16) -> None:
        super().__init__()
        features = 1 + len(HALF_LIVES)
        self.weight = nn.Parameter(torch.zeros(num_levels, features))
        self.score = nn.ModuleList(
            nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
            for _ in range(num_levels)
        )
        self.gate = nn.ModuleList(nn.Linear(d_model + 1, 1) for _ in range(num_levels))
        for score, gate in zip(self.score, self.gate, strict=True):
            assert isinstance(score, nn.Sequential)
            # The start is P_copy = sum of the counts, normalised, and lambda = 1/2.
            for linear in (score[2], gate):
                assert isinstance(linear, nn.Linear)
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(self, logits: Tensor, hidden: Tensor, counts: Tensor, level: int) -> Tensor:
        """Log-probabilities of the mixture, float32 [..., K].

        Args:
            logits: the decoder's [..., K].
            hidden: decoder state [..., C].
            counts: float32 [1 + half-lives, ..., K]: plain counts, then recency-weighted ones.
            level: 0 .. L-1.
        """
        plain = counts[0]
        total = plain.sum(-1, keepdim=True)
        # Sums of counts telescope over the levels to the same sum for the item; the small network
        # bends that where the data ask for it. Ten times the parameter learns ten times as fast.
        weight = torch.softmax(10 * self.weight[level], dim=-1)
        mixed = torch.tensordot(weight, counts, dims=1)
        features = torch.log(counts + 1e-2).movedim(0, -1)
        score = torch.log(mixed + 1e-6) + self.score[level](features).squeeze(-1)
        copied = F.log_softmax(score.masked_fill(plain == 0, NEVER), dim=-1)
        state = torch.cat((hidden.float(), total.log1p()), dim=-1)
        gate = self.gate[level](state).masked_fill(total == 0, NEVER)
        decoded = F.log_softmax(logits.float(), dim=-1)
        return torch.logaddexp(F.logsigmoid(gate) + copied, F.logsigmoid(-gate) + decoded)


def event_weights(age: Tensor) -> Tensor:
    """Weight of events of an age >= 0 (0 is the newest): float32 [1 + half-lives, ...]."""
    age = age.float()
    return torch.stack([torch.ones_like(age), *(torch.exp2(-age / h) for h in HALF_LIVES)])


def first_level_counts(sid1: Tensor, offsets: Tensor, num_codes: int) -> Tensor:
    """How often each user's history holds each first code.

    Args:
        sid1: int [T] first codes of the histories, oldest first.
        offsets: int64 [B+1].
        num_codes: K.

    Returns float32 [1 + half-lives, B, K].
    """
    size, device = offsets.numel() - 1, sid1.device
    user = torch.repeat_interleave(
        torch.arange(size, device=device), offsets.diff(), output_size=sid1.numel()
    )
    age = offsets[1:][user] - 1 - torch.arange(sid1.numel(), device=device)
    weights = event_weights(age)
    counts = weights.new_zeros(weights.shape[0], size * num_codes)
    counts.index_add_(1, user * num_codes + sid1.long(), weights)
    return counts.view(-1, size, num_codes)


def next_code_counts(codes: Tensor, age: Tensor, prefix: Tensor, num_codes: int) -> Tensor:
    """How often each code follows `prefix` among the retrieved items.

    Args:
        codes: int64 [B, S, M, L] codes of the retrieved items; -1 is no item.
        age: int64 [B, S, M] events since then.
        prefix: int64 [B, S, l] codes chosen so far.
        num_codes: K of level l.

    Returns float32 [1 + half-lives, B, S, K].
    """
    level = prefix.shape[-1]
    match = (codes[..., :level] == prefix[:, :, None, :]).all(-1) & (codes[..., 0] >= 0)
    follows = codes[..., level].clamp(min=0)
    weights = event_weights(age) * match
    counts = weights.new_zeros(*weights.shape[:3], num_codes)
    return counts.scatter_add(3, follows.expand_as(weights), weights)
