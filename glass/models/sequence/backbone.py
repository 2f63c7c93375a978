"""Causal backbones over jagged batches: what the Transformer and HSTU have in common.

Shapes: T tokens of B users, N of the longest user, C model width, H heads, D head width; R branches
of P tokens each, W of the user with most.

A branch continues the tokens of its user from some point on and is seen by nobody else: a target's
own codes in training, a beam in generation. All branches of a user attend to the keys and values
that one pass left, which are never repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.models.dropout import Dropout
from glass.models.layers import RelativePositionBias
from glass.models.sequence.jagged import Jagged

KeysValues = tuple[Tensor, Tensor]
T = TypeVar("T")
_TIME_BUCKETS = 128
_LOG_STEP = 0.301  # of HSTU's authors: buckets are powers of about e^0.3 seconds


class Projected(NamedTuple):
    """What attention needs of some tokens, each [..., H, D] but the gate [..., H*D]."""

    query: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor | None


class Layer(nn.Module, ABC):
    """One layer of a backbone, in the parts that the two ways of attending share."""

    @abstractmethod
    def project(self, x: Tensor) -> Projected:
        """Of tokens x [..., C]."""

    @abstractmethod
    def weights(self, scores: Tensor, hidden: Tensor) -> Tensor:
        """Attention weights [..., N] of scores [..., N], bias included; `hidden` keys have none."""

    @abstractmethod
    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None) -> Tensor:
        """The layer's output [..., C] from its input and what was attended to [..., H*D]."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, hidden: Tensor
    ) -> Tensor:
        """[B, H, Q, D] from query [B, H, Q, D], key and value [B, H, N, D], bias [.., Q, N]."""
        scores = torch.matmul(self.scaled(query), key.transpose(2, 3)) + bias
        return torch.matmul(self.weights(scores, hidden), value)

    def scaled(self, query: Tensor) -> Tensor:
        """The query times the factor of the scores."""
        return query


class Bias(nn.Module):
    """Additive bias of attention: by distance, for each head, and (HSTU) by time between tokens."""

    def __init__(self, num_heads: int, *, time: bool) -> None:
        super().__init__()
        self.position = RelativePositionBias(num_heads, bidirectional=False)
        self.time: nn.Parameter | None = None
        if time:
            self.time = nn.Parameter(torch.zeros(_TIME_BUCKETS))

    def forward(self, length: int, passed: Tensor | None) -> Tensor:
        """[1 or B, H, N, N] of N tokens; `passed` int64 [B, N, N]: buckets of the time between."""
        bias: Tensor = self.position(length, length)
        if self.time is not None and passed is not None:
            bias = bias + self.time[passed][:, None]
        return bias

    def by_distance(self, count: int) -> Tensor:
        """[count, H]: of tokens 0, 1, .. count-1 before the query."""
        table: Tensor = self.position(count, 1)[0, :, :, 0].T
        return table


@dataclass(frozen=True)
class Times:
    """Seconds of each token, int64 [B, N]: as one that asks and as one that is looked at.

    They differ for codes of an item whose later codes are not known: those ask at the time of the
    event before, as in generation, where the item's own time is not known either.
    """

    asked: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Context:
    """What one pass left of B users for their branches."""

    layout: Jagged
    keys_values: list[KeysValues]  # per layer [B, H, N, D]
    times: Times | None


@dataclass(frozen=True)
class Branches:
    """R continuations and where each leaves its user's tokens."""

    layout: Jagged  # R branches in [B, W]
    ends: Tensor  # int64 [B, W], tokens that the branch sees; [B, 1]: the same for all
    times: Tensor | None  # int64 [B, W] or [B, 1], when it asks
    past: list[KeysValues] | None = None  # per layer [B, W, H, p, D], its tokens so far

    @property
    def length(self) -> int:
        """Tokens of each branch so far."""
        return 0 if self.past is None else self.past[0][0].shape[3]


class Backbone(nn.Module):
    """A stack of layers.

    Args:
        layers: of one kind.
        biases: one for all layers, or one for each.
        norm: of the output.
        dropout: rate at input and output.
    """

    def __init__(
        self, layers: Sequence[Layer], biases: Sequence[Bias], norm: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.biases = nn.ModuleList(biases)
        self.norm = norm
        self.dropout = Dropout(dropout)

    @property
    def timed(self) -> bool:
        """Whether it looks at times."""
        return any(isinstance(bias, Bias) and bias.time is not None for bias in self.biases)

    def forward(
        self, x: Tensor, layout: Jagged, times: Times | None = None
    ) -> tuple[Tensor, Context]:
        """States [T, C] of tokens x [T, C], each from itself and what came before it."""
        length = layout.longest
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        passed = None
        if times is not None and self.timed:
            passed = time_buckets(times.asked[:, :, None] - times.seen[:, None, :])
        keys_values = []
        x = self.dropout(x)
        for layer, bias in self._with_bias(lambda bias: bias(length, passed)):
            found = layer.project(x)
            query, key, value = (layout.pad(part).transpose(1, 2) for part in found[:3])
            attended = layer.attend(query, key, value, bias.to(query.dtype), hidden)
            x = layer.finish(x, layout.flat(attended.transpose(1, 2)).flatten(1), found.gate)
            keys_values.append((key, value))
        return self.dropout(self.norm(x)), Context(layout, keys_values, times)

    def extend(
        self, x: Tensor, context: Context, branches: Branches
    ) -> tuple[Tensor, list[KeysValues]]:
        """States [R, P, C] of the next P tokens x [R, P, C] of every branch.

        Also the keys and values of all its tokens so far, for `Branches.past`.
        """
        layout = branches.layout
        spots = _Spots.of(context, branches, x.shape[1], self.timed)
        past: Sequence[KeysValues | None] = branches.past or [None] * len(self.layers)
        presents = []
        x = self.dropout(x)
        for (layer, bias), shared, before in zip(
            self._with_bias(spots.bias), context.keys_values, past, strict=True
        ):
            found = layer.project(x)
            # [B, W, P, H, D] -> [B, W, H, P, D]
            query, key, value = (layout.pad(part).transpose(2, 3) for part in found[:3])
            if before is not None:
                key, value = (torch.cat(p, dim=3) for p in zip(before, (key, value), strict=True))
            attended = attend_to_both(layer, query, shared, (key, value), bias, spots.hidden)
            x = layer.finish(x, layout.flat(attended).flatten(2), found.gate)
            presents.append((key, value))
        return self.dropout(self.norm(x)), presents

    def _with_bias(self, make: Callable[[Bias], T]) -> Iterator[tuple[Layer, T]]:
        """Every layer with its bias; one that all share is made once."""
        for i, layer in enumerate(self.layers):
            if i < len(self.biases):
                module = self.biases[i]
                assert isinstance(module, Bias)
                bias = make(module)
            assert isinstance(layer, Layer)
            yield layer, bias


def time_buckets(passed: Tensor) -> Tensor:
    """Bucket of seconds int64 [...]; what has not passed yet is in the first."""
    return (passed.clamp(min=1).double().log() / _LOG_STEP).long().clamp(max=_TIME_BUCKETS - 1)


@dataclass(frozen=True)
class _Spots:
    """Which keys each token of a branch sees, and how far from it they are.

    Keys are the N tokens of the user, then the K = p + P of the branch.
    """

    shared: Tensor  # int64 [B, W or 1, P, N], distance
    own: Tensor  # int64 [P, K]
    passed: Tensor | None  # int64 [B, W or 1, 1, N], time buckets
    hidden: Tensor  # bool [B, 1, W or 1, P, N + K]

    @classmethod
    def of(cls, context: Context, branches: Branches, new: int, timed: bool) -> _Spots:
        before, length = branches.length, context.layout.longest
        device = branches.ends.device
        token = torch.arange(before, before + new, device=device)
        key = torch.arange(length, device=device)
        shared = (branches.ends[..., None] + token)[..., None] - key
        own = token[:, None] - torch.arange(before + new, device=device)
        unseen = (key >= branches.ends[..., None])[:, :, None].expand(shared.shape)
        later = (own < 0).expand(*shared.shape[:2], *own.shape)
        passed = None
        if timed and context.times is not None and branches.times is not None:
            passed = branches.times[..., None] - context.times.seen[:, None]
            passed = time_buckets(passed)[:, :, None]
        return cls(shared, own, passed, torch.cat((unseen, later), dim=-1)[:, None])

    def bias(self, module: Bias) -> tuple[Tensor, Tensor]:
        """[B, H, W or 1, P, N] of the user's tokens and [H, 1, P, K] of the branch's."""
        table = module.by_distance(self.shared.shape[-1] + self.own.shape[-1] + 1)
        shared = F.embedding(self.shared.clamp(min=0), table).permute(0, 4, 1, 2, 3)
        own = F.embedding(self.own.clamp(min=0), table).permute(2, 0, 1)[:, None]
        if module.time is not None and self.passed is not None:
            shared = shared + module.time[self.passed][:, None]
            own = own + module.time[0]
        return shared, own


def attend_to_both(
    layer: Layer,
    query: Tensor,
    shared: KeysValues,
    own: KeysValues,
    bias: tuple[Tensor, Tensor],
    hidden: Tensor,
) -> Tensor:
    """[B, W, P, H, D] from query [B, W, H, P, D].

    Attends to the user's keys and values [B, H, N, D] and the branch's own [B, W, H, K, D].
    """
    users, width, heads, new, size = query.shape
    length = shared[0].shape[2]
    query = layer.scaled(query)
    together = query.transpose(1, 2).reshape(users, heads, width * new, size)
    to_shared = torch.matmul(together, shared[0].transpose(2, 3))
    to_shared = to_shared.view(users, heads, width, new, length)
    to_own = torch.matmul(query, own[0].transpose(3, 4)).transpose(1, 2)
    scores = torch.cat((to_shared + bias[0].to(query.dtype), to_own + bias[1].to(query.dtype)), -1)
    weights = layer.weights(scores, hidden)
    from_shared = torch.matmul(weights[..., :length].flatten(2, 3), shared[1])
    from_own = torch.matmul(weights[..., length:].transpose(1, 2), own[1])  # [B, W, H, P, D]
    from_shared = from_shared.view(users, heads, width, new, size)
    return from_shared.permute(0, 2, 3, 1, 4) + from_own.transpose(2, 3)
