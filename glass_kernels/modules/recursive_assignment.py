"""Recursive-assignment network of IntRR (arXiv 2602.20704) as a module.

Shapes: R rows (items, or pairs of a state and a target), L levels, K_l codes of level l, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_kernels.checks import FLOATS, INTEGERS, check_tensor, checks_values
from glass_kernels.codebook_assign import IGNORED_TARGET, codebook_assign


class Assigned(NamedTuple):
    """Item side of R items."""

    token: Tensor
    """[R, d], the sum of the levels' assigned vectors: what a backbone reads."""
    codes: Tensor
    """int64 [R, L], the best code of each level."""
    loss: Tensor | None
    """float32 [R] cross-entropy against the given codes, summed over levels; None without."""


class Predicted(NamedTuple):
    """User side of R teacher-forced rows."""

    loss: Tensor
    """float32 [R, L] cross-entropy of each level against the true code."""
    codes: Tensor
    """int64 [R, L], the best code of each level given the true one of the level before."""


class LevelQuery(nn.Module):
    """f_l([context ; guidance]): Linear, ReLU, Linear; the two inputs are never put together.

    The first layer is a sum of its two halves, so that what depends on a code alone, or on a user
    alone, is computed once for each.
    """

    def __init__(self, d_model: int, hidden_dim: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.inner = nn.Linear(2 * d_model, hidden_dim)
        self.outer = nn.Linear(hidden_dim, d_model)

    def of_context(self, context: Tensor) -> Tensor:
        """[..., d] -> [..., h], the context's half of the first layer."""
        return F.linear(context, self.inner.weight[:, : self.d_model])

    def of_codes(self, codes: Tensor, codebook: Tensor) -> Tensor:
        """int [...] -> [..., h], that of codebook[codes]; once a code where rows are many."""
        if codes.numel() < codebook.shape[0]:
            return self.of_context(F.embedding(codes, codebook))
        return F.embedding(codes, self.of_context(codebook))

    def forward(self, context_half: Tensor, guidance: Tensor) -> Tensor:
        """Query [..., d] from the context's half [..., h] and guidance [..., d]."""
        half = F.linear(guidance, self.inner.weight[:, self.d_model :], self.inner.bias)
        query: Tensor = self.outer(F.relu(context_half + half))
        return query


class RecursiveAssignment(nn.Module):
    """Spreads an item over learned codebooks level by level, and predicts a next item the same way.

    q_1 = guidance; q_l = f_l([context of level l-1 ; guidance]); logits = q_l C_l^T. One set of
    codebooks C_l and of f_l serves two sides:

    - item side (`forward`): free running, the context is the vector that the level before was
      assigned: C_l[argmax] with the gradient of softmax(logits / temperature) C_l
      (straight-through), or that soft code itself. An item's token is the sum over levels.
    - user side (`teacher_forced`): the context is C_{l-1}[true code]. In generation
      (`level_logits`) it is that of the code chosen by each beam.

    With context="sum" (ours) it is the sum of these vectors over all levels before, so that no
    level forgets what was chosen two levels up.

    Losses use the logits without temperature. Runs through `glass_kernels.codebook_assign`, so
    that no [R, K] tensor is kept for the backward, but with assignment="soft".

    Args:
        d_model: width d of guidance, codebooks and tokens.
        codebook_sizes: K_l of each level.
        hidden_dim: width of f_l's hidden layer; None: 2d, as in the paper.
        assignment: "straight_through" or "soft".
        context: "previous", as in the paper, or "sum".
        temperature: of the soft code, above 0.
        learn_temperature: train its logarithm from there on. Straight-through assignment then
            divides the query by it, which is exact, and a loss costs a second product with the
            codebook. No loss pulls on it but through the tokens.
        codebook_std: standard deviation of the codebooks at the start; None: 1/sqrt(d), which makes
            logits of the guidance's scale. The paper's code has 1.0.

    Attributes:
        codebooks: a parameter [K_l, d] a level.

    Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        d_model: int,
        codebook_sizes: Sequence[int],
        *,
        hidden_dim: int | None = None,
        assignment: Literal["straight_through", "soft"] = "straight_through",
        context: Literal["previous", "sum"] = "previous",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        codebook_std: float | None = None,
    ) -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model must be at least 1, was {d_model}")
        if not codebook_sizes or min(codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be one or more of at least 1, {codebook_sizes}")
        if hidden_dim is not None and hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1, was {hidden_dim}")
        if assignment not in ("straight_through", "soft"):
            raise ValueError(f"assignment must be 'straight_through' or 'soft', was {assignment!r}")
        if context not in ("previous", "sum"):
            raise ValueError(f"context must be 'previous' or 'sum', was {context!r}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, was {temperature}")
        if codebook_std is not None and not 0 < codebook_std < float("inf"):
            raise ValueError(f"codebook_std must be positive and finite, was {codebook_std}")
        self.d_model = d_model
        self.codebook_sizes = tuple(codebook_sizes)
        self.assignment = assignment
        self.context = context
        self.codebook_std = d_model**-0.5 if codebook_std is None else codebook_std
        self.codebooks = nn.ParameterList(torch.empty(size, d_model) for size in codebook_sizes)
        self.queries = nn.ModuleList(
            LevelQuery(d_model, hidden_dim or 2 * d_model) for _ in codebook_sizes[1:]
        )
        self._temperature = temperature
        self.log_temperature: nn.Parameter | None = None
        if learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        for codebook in self.codebooks:
            nn.init.normal_(codebook, std=self.codebook_std)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.codebook_sizes)

    @property
    def temperature(self) -> Tensor | float:
        """The soft code's; a scalar tensor where it is learned."""
        learned = self.log_temperature
        return self._temperature if learned is None else learned.exp()

    def forward(
        self, guidance: Tensor, codes: Tensor | None = None, *, backend: str | None = None
    ) -> Assigned:
        """Item side: token, codes and alignment loss of R items.

        Args:
            guidance: float [R, d], a row an item; give every distinct item once.
            codes: int [R, L] the items' SIDs, for the loss; -100 leaves a level out. None: no loss.
            backend: see `glass_kernels.codebook_assign`.

        Raises ValueError for wrong shapes, dtypes and devices, and for codes out of range.
        """
        self._check(guidance, codes, ignored=True)
        vectors: list[Tensor] = []
        indices, losses = [], []
        for level in range(self.num_levels):
            query = guidance
            if level > 0:
                follow = self.query(level)
                query = follow(follow.of_context(self._context(vectors)), guidance)
            target = None if codes is None else codes[:, level]
            vector, index, loss = self._assign(query, level, target, backend)
            vectors.append(vector)
            indices.append(index)
            if loss is not None:
                losses.append(loss)
        token = torch.stack(vectors).sum(0)
        total = torch.stack(losses).sum(0) if losses else None
        return Assigned(token, torch.stack(indices, dim=1), total)

    def teacher_forced(
        self, guidance: Tensor, codes: Tensor, *, backend: str | None = None
    ) -> Predicted:
        """User side in training: losses and best codes of R pairs of a state and a target.

        Args:
            guidance: float [R, d], the backbone's state of each pair.
            codes: int [R, L], the target's SID.
            backend: see `glass_kernels.codebook_assign`.

        Raises ValueError for wrong shapes, dtypes and devices, and for codes out of range.
        """
        self._check(guidance, codes, ignored=False)
        losses, indices = [], []
        for level in range(self.num_levels):
            query = self.level_query(level, guidance, self.codes_before(level, codes))
            _, index, loss = codebook_assign(
                query, self._codebook(level, query), codes[:, level], backend=backend
            )
            assert loss is not None
            losses.append(loss)
            indices.append(index)
        return Predicted(torch.stack(losses, dim=1), torch.stack(indices, dim=1))

    def level_logits(self, level: int, guidance: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits [..., K_l] of level `level`, counted from 0, in generation.

        Args:
            level: 0 .. L-1.
            guidance: float [..., d]; [B, 1, d] serves all beams of its user.
            previous: int [...] code of the level before, such as [B, W]; with context="sum" those
                of all levels before, [..., level]. None at level 0.
        """
        query = self.level_query(level, guidance, previous)
        return F.linear(query, self._codebook(level, query))

    def level_query(self, level: int, guidance: Tensor, previous: Tensor | None = None) -> Tensor:
        """q_l [..., d] of level `level`; arguments as of `level_logits`."""
        if level == 0:
            return guidance
        assert previous is not None
        follow = self.query(level)
        if self.context == "previous":
            half = follow.of_codes(previous, self._codebook(level - 1, guidance))
        else:
            books = [self._codebook(before, guidance) for before in range(level)]
            chosen = zip(previous.unbind(-1), books, strict=True)
            half = torch.stack([follow.of_codes(codes, book) for codes, book in chosen]).sum(0)
        query: Tensor = follow(half, guidance)
        return query

    def codes_before(self, level: int, codes: Tensor) -> Tensor | None:
        """What `level_logits` takes as `previous`, of codes int [..., level or more]."""
        if level == 0:
            return None
        return codes[..., level - 1] if self.context == "previous" else codes[..., :level]

    def distributions(self, guidance: Tensor) -> list[Tensor]:
        """softmax(logits / temperature) [R, K_l] of each level of the item side, free running."""
        found: list[Tensor] = []
        vectors: list[Tensor] = []
        query = guidance
        for level in range(self.num_levels):
            codebook = self._codebook(level, query)
            if level > 0:
                follow = self.query(level)
                query = follow(follow.of_context(self._context(vectors)), guidance)
            shares = torch.softmax(F.linear(query, codebook) / self.temperature, dim=-1)
            soft = self.assignment == "soft"
            vectors.append(shares @ codebook if soft else codebook[shares.argmax(-1)])
            found.append(shares)
        return found

    def query(self, level: int) -> LevelQuery:
        """f_l of level 1 .. L-1, counted from 0."""
        module = self.queries[level - 1]
        assert isinstance(module, LevelQuery)
        return module

    def _context(self, vectors: list[Tensor]) -> Tensor:
        """Context [R, d] after the levels that were assigned `vectors`."""
        return vectors[-1] if self.context == "previous" else torch.stack(vectors).sum(0)

    def _codebook(self, level: int, like: Tensor) -> Tensor:
        # Parameters are float32 under autocast while the states are half precision.
        codebook: Tensor = self.codebooks[level].to(like.dtype)
        return codebook

    def _assign(
        self, query: Tensor, level: int, target: Tensor | None, backend: str | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Assigned vectors [R, d], codes [R] and loss [R] of one level of the item side."""
        codebook = self._codebook(level, query)
        if self.assignment == "soft":
            return _soft_assign(query, codebook, target, self.temperature)
        if self.log_temperature is None:
            return codebook_assign(
                query, codebook, target, temperature=self._temperature, backend=backend
            )
        scaled = (query / self.temperature).to(query.dtype)
        vector, index, _ = codebook_assign(scaled, codebook, backend=backend)
        loss = None
        if target is not None:
            _, _, loss = codebook_assign(query, codebook, target, backend=backend)
        return vector, index, loss

    def _check(self, guidance: Tensor, codes: Tensor | None, *, ignored: bool) -> None:
        check_tensor("guidance", guidance, shape=(None, self.d_model), dtypes=FLOATS)
        if codes is None:
            return
        shape = (guidance.shape[0], self.num_levels)
        check_tensor("codes", codes, shape=shape, dtypes=INTEGERS, device=guidance.device)
        if checks_values(codes):
            wrong = (codes < 0) | (codes >= codes.new_tensor(self.codebook_sizes))
            if ignored:
                wrong &= codes != IGNORED_TARGET
            if bool(wrong.any()):
                row = int(wrong.any(1).nonzero()[0])
                raise ValueError(
                    f"codes must be below {list(self.codebook_sizes)} and not negative, row {row} "
                    f"was {codes[row].tolist()}"
                )

    def extra_repr(self) -> str:
        """Settings shown by `print(module)`."""
        kinds = f"assignment={self.assignment!r}, context={self.context!r}"
        return f"{self.d_model}, {self.codebook_sizes}, {kinds}"


def _soft_assign(
    query: Tensor, codebook: Tensor, target: Tensor | None, temperature: Tensor | float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`codebook_assign` whose vector is the soft code itself, in plain PyTorch."""
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        codes = codebook.to(wide)
        logits = query.to(wide) @ codes.T
        vector = torch.softmax(logits / temperature, dim=1) @ codes
        loss = None
        if target is not None:
            loss = F.cross_entropy(
                logits, target.long(), ignore_index=IGNORED_TARGET, reduction="none"
            )
    return vector.to(query.dtype), logits.argmax(dim=1), loss
