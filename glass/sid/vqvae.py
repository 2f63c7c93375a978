"""VQ-VAE of IntRR: a residual quantiser trained on the item vectors themselves, no autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from glass.config import VqVaeConfig
from glass.sid.assign import assign
from glass.sid.codebook_training import (
    CodebookModel,
    random_codebooks,
    start_codebooks,
    train_codebooks,
)
from glass.sid.rkmeans import Quantizer, check_enough_items


class VqVae(CodebookModel):
    """Residual vector quantiser of unit residuals (stage 1 of IntRR, arXiv 2602.20704).

    r_1 = x; u_l = r_l / |r_l|; c_l the code nearest to u_l; r_{l+1} = u_l - c_l.
    Loss = sum over levels of mean |sg[u_l] - c_l|^2 + commitment * mean |u_l - sg[c_l]|^2, with sg
    the stopped gradient. There is no encoder that could commit itself: the second term reaches the
    codes of the levels before, which made the residual, and so trains the levels jointly.
    """

    normalize_residual = True

    def __init__(self, dim: int, codebook_sizes: Sequence[int], config: VqVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.codebooks = random_codebooks(codebook_sizes, dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and codes int64 [B, L] of vectors x [B, D]."""
        residual, loss, codes = x, x.new_zeros(()), []
        for book in self.codebooks:
            residual = self.enter(residual)
            code = torch.cdist(residual.detach(), book.detach()).argmin(-1)
            vector = F.embedding(code, book)
            loss = loss + _squared_length(vector - residual.detach())
            loss = loss + self.config.commitment * _squared_length(residual - vector.detach())
            residual = residual - vector
            codes.append(code)
        return loss, torch.stack(codes, -1)


def fit_vqvae(
    vectors: npt.NDArray[np.float32],
    codebook_sizes: Sequence[int],
    config: VqVaeConfig,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Quantizer:
    """Train a VQ-VAE on item vectors; equal seeds give equal results on CPU.

    Codebooks start at the residual k-means of a first sample. After each epoch a code that no item
    took is moved onto a random residual of the last batch. Zero vectors, which have no direction,
    are left out of the training.

    Args:
        vectors: float32 [V, D].
        codebook_sizes: codes of each level.
        config: loss and schedule.

    Returns:
        Codebooks [K, D] for unit residuals, and the relative error as residual k-means states it:
        each level's code scaled by the length that its residual had.

    Raises:
        ValueError: fewer vectors than codes, or the training diverged.
    """
    check_enough_items(len(vectors), codebook_sizes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VqVae(vectors.shape[1], codebook_sizes, config).to(device)
    present = vectors[vectors.any(axis=1)]
    if len(present) >= max(codebook_sizes):
        x = torch.from_numpy(np.ascontiguousarray(present, np.float32)).to(device)
        start_codebooks(model, x, config, generator, seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        train_codebooks(model, x, config, optimizer, generator, name="VQ-VAE", progress=progress)
    books = tuple(book.detach().cpu().numpy().copy() for book in model.codebooks)
    codes = assign(vectors, books, normalize_residual=True)
    return Quantizer(books, relative_error(vectors, books, codes))


def relative_error(
    vectors: npt.NDArray[np.float32],
    codebooks: Sequence[npt.NDArray[np.float32]],
    codes: npt.NDArray[np.int32],
) -> tuple[float, ...]:
    """Squared length of what is left after each level of unit residuals, over the vectors' own.

    Args:
        vectors: float32 [V, D]. codebooks: one float32 [K, D] a level. codes: int32 [V, L].
    """
    left = vectors.astype(np.float64)
    total = float((left**2).sum()) or 1.0
    errors = []
    for level, book in enumerate(codebooks):
        length = np.linalg.norm(left, axis=1, keepdims=True)
        left -= length * book[codes[:, level]]
        errors.append(float((left**2).sum()) / total)
    return tuple(errors)


def _squared_length(difference: torch.Tensor) -> torch.Tensor:
    return difference.square().sum(-1).mean()
