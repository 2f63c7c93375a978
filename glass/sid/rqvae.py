"""RQ-VAE of TIGER and GLASS: an autoencoder with a residual quantiser in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from glass.config import RqVaeConfig
from glass.sid.codebook_training import (
    CodebookModel,
    random_codebooks,
    start_codebooks,
    train_codebooks,
)
from glass.sid.rkmeans import Quantizer, check_enough_items


class RqVae(CodebookModel):
    """MLP encoder, residual vector quantiser, mirrored MLP decoder (arXiv 2602.05663, section 5).

    Loss = mean squared reconstruction error + sum over levels of
    (mean (sg[r_l] - c_l)^2 + commitment * mean (r_l - sg[c_l])^2), with r_l the residual before
    level l, c_l its code vector and sg the stopped gradient; the decoder's gradient passes the
    quantiser unchanged (straight-through).
    """

    scale: torch.Tensor

    def __init__(self, dim: int, codebook_sizes: Sequence[int], config: RqVaeConfig) -> None:
        super().__init__()
        self.config = config
        widths = [dim, *config.hidden_sizes, config.code_dim]
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.codebooks = random_codebooks(codebook_sizes, config.code_dim)
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors [B, D] to what is quantised [B, code_dim]."""
        hidden: torch.Tensor = self.encoder(x * self.scale)
        return hidden

    def decode(self, quantized: torch.Tensor) -> torch.Tensor:
        """Sum of code vectors [B, code_dim] back to vectors [B, D]."""
        output: torch.Tensor = self.decoder(quantized)
        return output / self.scale

    def quantize(
        self, hidden: torch.Tensor, *, balanced: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Residual quantisation of the encoder output.

        Args:
            hidden: [B, code_dim].
            balanced: spread the last level evenly over the batch (training only).

        Returns:
            quantized [B, code_dim] (sum of code vectors), codes int64 [B, L], the quantiser's loss
            (scalar) and the residual that is left [B, code_dim].
        """
        residual, quantized = hidden, torch.zeros_like(hidden)
        loss = hidden.new_zeros(())
        codes = []
        last = len(self.codebooks) - 1
        for level, book in enumerate(self.codebooks):
            distance = torch.cdist(residual.detach(), book.detach()).square()
            if balanced and level == last and self.config.sinkhorn_epsilon > 0:
                code = balanced_assignment(
                    distance, self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations
                )
            else:
                code = distance.argmin(-1)
            vector = book[code]
            loss = loss + F.mse_loss(vector, residual.detach())
            loss = loss + self.config.commitment * F.mse_loss(residual, vector.detach())
            quantized = quantized + vector
            residual = residual - vector.detach()
            codes.append(code)
        return quantized, torch.stack(codes, -1), loss, residual

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and codes int64 [B, L] of vectors x [B, D].

        The error is measured on x scaled to a mean square of 1, so that the reconstruction and
        the quantiser's terms weigh alike for vectors of any length.
        """
        hidden = self.encode(x)
        quantized, codes, loss, _ = self.quantize(hidden, balanced=self.training)
        passed = hidden + (quantized - hidden).detach()
        return loss + F.mse_loss(self.decoder(passed), x * self.scale), codes


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(width_in, width_out))
        if i < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@torch.no_grad()
def balanced_assignment(distance: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes of a batch such that all codes are used about equally (Sinkhorn-Knopp).

    The entropic transport plan between rows of mass 1/B and codes of mass 1/K; each row takes the
    code with the largest share. Distances are scaled to a range of 2 first, as `epsilon` is
    relative to that.

    Args:
        distance: [B, K]. epsilon: entropy weight, above 0. iterations: row and column
            normalisations.

    Returns:
        int64 [B].
    """
    spread = (distance.max() - distance.min()).clamp_min(1e-12)
    cost = 2 * distance.double() / spread
    cost = cost - cost.min(-1, keepdim=True).values  # a factor of the row, which is normalised away
    # exp(-700) is the least that float64 holds; scaling vectors instead of the plan itself save
    # writing B x K numbers in each iteration.
    kernel = torch.exp(-(cost / epsilon).clamp_max(700.0))
    code_factor = torch.ones(distance.shape[1], dtype=torch.float64, device=distance.device)
    for _ in range(iterations):
        row_factor = 1 / (len(distance) * (kernel @ code_factor).clamp_min(1e-300))
        code_factor = 1 / (distance.shape[1] * (kernel.T @ row_factor).clamp_min(1e-300))
    return (kernel.log() + code_factor.log()).argmax(-1)


def fit_rqvae(
    vectors: npt.NDArray[np.float32],
    codebook_sizes: Sequence[int],
    config: RqVaeConfig,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[RqVae, Quantizer]:
    """Train an RQ-VAE on item vectors; equal seeds give equal results on CPU.

    Codebooks start at the residual k-means of the first batch's encoder outputs. After each epoch
    a code that no item took is moved onto a random residual of the last batch.

    Args:
        vectors: float32 [V, D].
        codebook_sizes: codes of each level.
        config: widths, losses and schedule.

    Returns:
        The model in evaluation mode on CPU, and its codebooks [K, code_dim] with the relative
        error: 1 minus the share of the vectors' squared length that the decoder restores from the
        codes of the levels so far.

    Raises:
        ValueError: fewer vectors than codes, or the training diverged.
    """
    check_enough_items(len(vectors), codebook_sizes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RqVae(vectors.shape[1], codebook_sizes, config)
    x = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    model.scale.fill_(1 / max(float(x.square().mean().sqrt()), 1e-12))
    model, x = model.to(device), x.to(device)
    start_codebooks(model, x, config, generator, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    train_codebooks(model, x, config, optimizer, generator, name="RQ-VAE", progress=progress)
    model = model.eval().cpu()
    books = tuple(book.detach().numpy().copy() for book in model.codebooks)
    return model, Quantizer(books, _errors(model, x.cpu()))


@torch.no_grad()
def _errors(model: RqVae, x: torch.Tensor) -> tuple[float, ...]:
    total = float(x.double().square().sum()) or 1.0
    residual = model.encode(x)
    quantized = torch.zeros_like(residual)
    errors = []
    for book in model.codebooks:
        vector = book[torch.cdist(residual, book).argmin(-1)]
        residual, quantized = residual - vector, quantized + vector
        errors.append(float((model.decode(quantized) - x).double().square().sum()) / total)
    return tuple(errors)
