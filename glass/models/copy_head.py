"""Mixes each level's softmax with a copy of the history; ours, not in the GLASS paper.

People repeat themselves. How often an item occurred is a number that attention, a weighted average,
has to reconstruct, and in a sum of logits it would multiply what the decoder says instead of
standing beside it. So every level is a mixture (a pointer-generator, See et al. 2017):

    P(code) = lambda * P_copy(code) + (1 - lambda) * P_decoder(code)

P_copy starts as a distribution over the SIDs of the searched history: the softmax of a learned
function of how often, how regularly and how lately the user took each, and of how often others
repeat it. Summed over the SIDs that begin with the chosen prefix it is a distribution over the next
code, and the product over the levels is the SID's own probability again. lambda depends on the
decoder state and on what P_copy knows of the prefix; where that is nothing, it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.models.repeats import NUM_FEATURES, SearchedHistory, repeat_features

NEVER = -1e4
"""Logit of what the history does not hold; finite, so that gradients stay finite."""
NUM_STATIC = 2
_TINY = 1e-12
_FAR = 8.0
"""Standardised features end here."""


@dataclass(frozen=True)
class Copied:
    """P_copy of the histories of a batch."""

    codes: Tensor
    """int64 [T, L] SID of each event of the searched histories."""
    share: Tensor
    """float32 [T] probability of each SID at its newest event, 0 at its other events."""
    first: Tensor
    """float32 [B, K_1] probability of each first code."""
    events: Tensor
    """int64 [B] length of each searched history."""

    def mass(
        self, prefix: Tensor, num_codes: int, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Probability of `prefix` and each next code, as far as the retrieved events go.

        Args:
            prefix: int64 [B, S, l] codes chosen so far.
            num_codes: K of level l.
            positions: int [B, S, M] events that the hard search found, -1: none; not needed where
                l is 0.

        Returns [B, S, K] and the number of events with this prefix int64 [B, S]; S = 1 for l = 0.
        """
        level = prefix.shape[-1]
        if level == 0:
            return self.first[:, None], self.events[:, None]
        assert positions is not None
        codes, share = self.codes, self.share
        if codes.shape[0] == 0:
            codes, share = codes.new_zeros(1, codes.shape[1]), share.new_zeros(1)
        event = positions.long().clamp(min=0)
        found = codes[event]
        match = (found[..., :level] == prefix[:, :, None, :]).all(-1) & (positions >= 0)
        mass = share.new_zeros(*prefix.shape[:2], num_codes)
        mass = mass.scatter_add(2, found[..., level], share[event] * match)
        return mass, match.sum(-1)


class CopyHead(nn.Module):
    """Mixture with the history for every level.

    Args:
        d_model: width of the decoder state.
        num_items: V.
        num_levels: L; each level has its own gate.
        hidden: width of the hidden layers.

    A new head takes every item for a SID of its own: call `fit` or load a state dict first.
    """

    sid: Tensor
    static: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, d_model: int, num_items: int, num_levels: int, hidden: int = 32) -> None:
        super().__init__()
        width = NUM_FEATURES + NUM_STATIC
        self.register_buffer("sid", torch.arange(num_items))
        self.register_buffer("static", torch.zeros(num_items, NUM_STATIC))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, 1, bias=False)
        self.score = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1, bias=False),
        )
        self.gate = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model + 3, hidden), nn.ReLU(), nn.Linear(hidden, 1))
            for _ in range(num_levels)
        )
        # The start is P_copy = the counts, normalised, and lambda = 1/2.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.get_parameter("score.4.weight"))
        for level in range(num_levels):
            nn.init.zeros_(self.get_parameter(f"gate.{level}.2.weight"))
            nn.init.zeros_(self.get_parameter(f"gate.{level}.2.bias"))

    @torch.no_grad()
    def fit(self, codes: Tensor, users: Tensor, items: Tensor, histories: SearchedHistory) -> None:
        """Takes from training data what is not learned by gradients.

        Args:
            codes: int [V, L] SID of every item.
            users, items: int64 [E] user and item of every training event.
            histories: of some training samples; their features set the scale.
        """
        distinct, sid = torch.unique(codes, dim=0, return_inverse=True)
        self.sid.copy_(sid)
        pair, times = torch.unique(users * len(distinct) + sid[items], return_counts=True)
        buyers = torch.bincount(pair % len(distinct), minlength=len(distinct))
        events = torch.zeros_like(buyers).index_add_(0, pair % len(distinct), times)
        # How popular a SID is, and how often those who took it took it again.
        static = torch.stack(((events + 1).log(), ((events + 1) / (buyers + 1)).log()), dim=1)
        self.static.copy_(static[sid])
        features, newest = self._features(histories)
        known = features[newest]
        if len(known) > 1:
            deviation = known.std(0)
            self.mean.copy_(known.mean(0))
            self.scale.copy_(deviation.where(deviation > 1e-3, 1.0).reciprocal())

    def _features(self, history: SearchedHistory) -> tuple[Tensor, Tensor]:
        features, newest = repeat_features(history, self.sid[history.items], len(self.sid))
        return torch.cat((features, self.static[history.items]), dim=1), newest

    def copied(self, history: SearchedHistory, codes: Tensor, num_codes: int) -> Copied:
        """P_copy of every history.

        Args:
            history: T events of B users.
            codes: int [T, L] SID of each event.
            num_codes: K_1.
        """
        features, newest = self._features(history)
        scaled = ((features - self.mean) * self.scale).clamp(-_FAR, _FAR)
        with torch.autocast(scaled.device.type, enabled=False):  # a log-probability needs its bits
            scaled = scaled.to(self.linear.weight.dtype)
            bend = (self.linear(scaled) + self.score(scaled)).squeeze(-1)
        score = (features[:, 0] + bend).masked_fill(~newest, NEVER)
        user, size = history.users(), history.offsets.shape[0] - 1
        top = score.new_zeros(size)
        top = top.scatter_reduce(0, user, score.detach(), "amax", include_self=False)
        weight = torch.exp(score - top[user])
        share = weight / weight.new_zeros(size).index_add(0, user, weight)[user]
        first = share.new_zeros(size * num_codes)
        first = first.index_add(0, user * num_codes + codes[:, 0].long(), share)
        return Copied(codes.long(), share, first.view(size, num_codes), history.offsets.diff())

    def forward(
        self, logits: Tensor, hidden: Tensor, mass: Tensor, matches: Tensor, level: int
    ) -> Tensor:
        """Log-probabilities of the mixture [..., K], in float32 or wider.

        Args:
            logits: the decoder's [..., K].
            hidden: decoder state [..., C].
            mass, matches: [..., K] and [...] of `Copied.mass`.
            level: 0 .. L-1.
        """
        decoded = F.log_softmax(logits.to(torch.promote_types(logits.dtype, mass.dtype)), dim=-1)
        total = mass.sum(-1, keepdim=True)
        sure = torch.cat((total, mass.amax(-1, keepdim=True)), dim=-1).clamp(min=_TINY).log()
        known = torch.cat((0.3 * sure, matches[..., None].to(sure.dtype).log1p()), dim=-1)
        known = known.expand(*hidden.shape[:-1], -1)
        gate = self.gate[level](torch.cat((hidden.to(known.dtype), known), dim=-1))
        gate = gate.to(decoded.dtype).masked_fill(total <= 0, NEVER)
        copied = mass.clamp(min=_TINY).log().masked_fill(mass <= 0, NEVER)
        copied = F.log_softmax(copied, dim=-1)
        return torch.logaddexp(F.logsigmoid(gate) + copied, F.logsigmoid(-gate) + decoded)
