"""Training of the quantisers that learn by gradient: codebooks' start, epochs, dead codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from glass.sid.rkmeans import fit_residual_kmeans

_RESTART_UNTIL = 0.9  # share of the epochs; restarted codes need time to settle
_SHORT = 0.01  # residuals of unit vectors below this are scaled without a gradient
_CODES_AT_START = 8  # vectors a code behind the k-means start, at least


class Settings(Protocol):
    """What `RqVaeConfig` and `VqVaeConfig` share."""

    @property
    def epochs(self) -> int:
        """Passes over the vectors."""

    @property
    def batch_size(self) -> int:
        """Vectors a step."""


class CodebookModel(nn.Module):
    """A residual quantiser of what `encode` makes of vectors; called, it gives loss and codes."""

    codebooks: nn.ParameterList
    """One [K, C] a level."""
    normalize_residual = False
    """Residuals have unit length before each level."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors [B, D] to what is quantised [B, C]."""
        return x

    def enter(self, residual: torch.Tensor) -> torch.Tensor:
        """The residual [B, C] as a level compares it with its codes."""
        if not self.normalize_residual:
            return residual
        # The gradient grows as the residual shrinks: of what is matched exactly it would explode.
        fixed = residual.detach()
        short = fixed.norm(dim=-1, keepdim=True) < _SHORT
        return F.normalize(torch.where(short, fixed, residual), dim=-1)


def train_codebooks(
    model: CodebookModel,
    x: torch.Tensor,
    settings: Settings,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    name: str,
    progress: bool,
) -> None:
    """Run the epochs; after each a code that no vector took restarts on a residual.

    Args:
        model: trained in place. x: [V, D], on its device.
        generator: draws batches and restarts.
        name: of the progress bar and of the setting `sid.<name>` in lower case, without dashes.

    Raises:
        ValueError: the training diverged.
    """
    epochs = tqdm(range(settings.epochs), desc=name, unit="epoch", disable=not progress)
    for epoch in epochs:
        used = [
            torch.zeros(len(book), dtype=torch.bool, device=x.device) for book in model.codebooks
        ]
        total = x.new_zeros(())
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for start in range(0, len(x), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            loss, codes = model(x[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
            for level, seen in enumerate(used):
                seen[codes[:, level]] = True
        mean = float(total) / len(x)
        if not np.isfinite(mean):
            raise ValueError(
                f"the {name} diverged in epoch {epoch + 1} (loss {mean}); lower "
                f"sid.{name.lower().replace('-', '')}.learning_rate"
            )
        if epoch + 1 < _RESTART_UNTIL * settings.epochs:
            restart_dead_codes(model, optimizer, x[rows], used, generator)
        epochs.set_postfix(loss=f"{mean:.4f}")


def random_codebooks(codebook_sizes: Sequence[int], dim: int) -> nn.ParameterList:
    """[K, dim] a level, before `start_codebooks`."""
    return nn.ParameterList(
        nn.Parameter(torch.randn(size, dim) / dim**0.5) for size in codebook_sizes
    )


@torch.no_grad()
def start_codebooks(
    model: CodebookModel, x: torch.Tensor, settings: Settings, generator: torch.Generator, seed: int
) -> None:
    """Put the codebooks at the residual k-means of the first batch, or of 8 vectors a code."""
    sizes = [len(book) for book in model.codebooks]
    count = max(settings.batch_size, _CODES_AT_START * max(sizes))
    rows = torch.randperm(len(x), generator=generator)[:count].to(x.device)
    hidden = model.encode(x[rows]).cpu().numpy()
    start = fit_residual_kmeans(
        hidden, sizes, normalize_residual=model.normalize_residual, seed=seed
    )
    for book, centroids in zip(model.codebooks, start.codebooks, strict=True):
        book.copy_(torch.from_numpy(centroids))


@torch.no_grad()
def restart_dead_codes(
    model: CodebookModel,
    optimizer: torch.optim.Optimizer,
    batch: torch.Tensor,
    used: Sequence[torch.Tensor],
    generator: torch.Generator,
) -> int:
    """Move each unused code onto a random residual of `batch` and forget its momentum.

    Args:
        batch: [B, D] vectors. used: bool [K] a level.

    Returns:
        How many codes moved.
    """
    residual = model.encode(batch)
    moved = 0
    for book, seen in zip(model.codebooks, used, strict=True):
        residual = model.enter(residual)
        dead = torch.nonzero(~seen).ravel()
        if len(dead):
            chosen = torch.randint(len(residual), (len(dead),), generator=generator)
            book[dead] = residual[chosen.to(residual.device)]
            for moment in optimizer.state.get(book, {}).values():
                if moment.shape == book.shape:
                    moment[dead] = 0
            moved += len(dead)
        residual = residual - book[torch.cdist(residual, book).argmin(-1)]
    return moved
