"""Training of the RQ-VAE and what comes out of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from glass.config import RqVaeConfig
from glass.sid.rkmeans import Quantizer, check_enough_items, fit_residual_kmeans
from glass.sid.rqvae import RqVae

log = logging.getLogger(__name__)

_RESTART_UNTIL = 0.9  # share of the epochs; restarted codes need time to settle
_CODES_AT_START = 8  # vectors a code behind the k-means start, at least


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
    _start_codebooks(model, x, generator, seed)
    _train(model, x, generator, progress=progress)
    model = model.eval().cpu()
    books = tuple(book.detach().numpy().copy() for book in model.codebooks)
    return model, Quantizer(books, _errors(model, x.cpu()))


def _train(model: RqVae, x: torch.Tensor, generator: torch.Generator, *, progress: bool) -> None:
    config = model.config
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    epochs = tqdm(range(config.epochs), desc="RQ-VAE", unit="epoch", disable=not progress)
    for epoch in epochs:
        used = [
            torch.zeros(len(book), dtype=torch.bool, device=x.device) for book in model.codebooks
        ]
        total = x.new_zeros(())
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for start in range(0, len(x), config.batch_size):
            rows = order[start : start + config.batch_size]
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
                f"the RQ-VAE diverged in epoch {epoch + 1} (loss {mean}); lower "
                "sid.rqvae.learning_rate"
            )
        if epoch + 1 < _RESTART_UNTIL * config.epochs:
            restart_dead_codes(model, optimizer, x[rows], used, generator)
        epochs.set_postfix(loss=f"{mean:.4f}")


@torch.no_grad()
def _start_codebooks(model: RqVae, x: torch.Tensor, generator: torch.Generator, seed: int) -> None:
    sizes = [len(book) for book in model.codebooks]
    count = max(model.config.batch_size, _CODES_AT_START * max(sizes))
    rows = torch.randperm(len(x), generator=generator)[:count].to(x.device)
    hidden = model.encode(x[rows]).cpu().numpy()
    start = fit_residual_kmeans(hidden, sizes, seed=seed)
    for book, centroids in zip(model.codebooks, start.codebooks, strict=True):
        book.copy_(torch.from_numpy(centroids))


@torch.no_grad()
def restart_dead_codes(
    model: RqVae,
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
