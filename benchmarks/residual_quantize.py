"""Residual quantisation: against plain and compiled PyTorch, faiss, and the products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.agreement import Agree, DiffersError
from benchmarks.contest import Contest, Run
from benchmarks.hard_search import backend_of
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row, number, plot_bars
from glass_kernels import residual_quantize

BLOCK = 4_096
"""Rows at once in plain forms: faster than all, and their distances are not of the size of V."""
CHECKED = 500
"""Rows whose codes are compared; the reference takes milliseconds a row."""
SHARE = 0.01
"""Part of the rows that another side may assign otherwise: expanded squares lose digits."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    vectors: int
    dim: int = 384
    codes: int = 256
    levels: int = 3
    compiled: bool = True

    def columns(self) -> Row:
        return {"V": self.vectors, "D": self.dim, "K": self.codes, "L": self.levels}

    @property
    def flops(self) -> float:
        return 2.0 * self.vectors * self.dim * self.codes * self.levels


QUICK = [Setup(8_000, compiled=False)]
FULL = [
    Setup(100_000),
    Setup(100_000, dim=64, codes=1_024, compiled=False),
    Setup(1_000_000, compiled=False),
]


@dataclass(frozen=True)
class Catalogue:
    """The operation's input."""

    x: Tensor
    """[V, D]"""
    codebooks: Tensor
    """[L, K, D]"""

    @property
    def checked(self) -> Tensor:
        """The rows whose codes are compared."""
        return torch.arange(0, len(self.x), max(1, len(self.x) // CHECKED), device=self.x.device)


def blocks(values: Tensor) -> list[Tensor]:
    return [values[first : first + BLOCK] for first in range(0, len(values), BLOCK)]


def make_catalogue(setup: Setup, seed: int) -> Catalogue:
    """Vectors that lie around sums of centroids, as a trained quantiser leaves them."""
    generator = torch.Generator().manual_seed(seed)
    codebooks = torch.randn(setup.levels, setup.codes, setup.dim, generator=generator)
    codebooks *= 0.6 ** torch.arange(setup.levels)[:, None, None]
    x = torch.randn(setup.vectors, setup.dim, generator=generator).mul_(0.5)
    for codebook in codebooks:
        chosen = torch.randint(setup.codes, (setup.vectors,), generator=generator)
        for rows, codes in zip(blocks(x), blocks(chosen), strict=True):
            rows += codebook[codes]
    return Catalogue(x, codebooks)


Level = Callable[[Tensor, Tensor], Tensor]


def by_addmm(residual: Tensor, codebook: Tensor) -> Tensor:
    """|c|^2 / 2 - r.c, without the part that all centroids share."""
    halves = codebook.square().sum(1) / 2
    return torch.addmm(halves, residual, codebook.T, alpha=-1).argmin(1)


def by_cdist(residual: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(residual, codebook).argmin(1)


def quantize_block(level: Level, residual: Tensor, codebooks: Tensor) -> Tensor:
    codes = []
    for codebook in codebooks.unbind():
        codes.append(level(residual, codebook))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes, 1).int()


Block = Callable[[Tensor, Tensor], Tensor]


def in_blocks(block: Block) -> Run:
    def run(batch: Catalogue) -> Tensor:
        return torch.cat([block(rows, batch.codebooks) for rows in blocks(batch.x)])

    return run


FORMS: dict[str, Block] = {
    "addmm": partial(quantize_block, by_addmm),
    "cdist": partial(quantize_block, by_cdist),
}


def by_faiss(batch: Catalogue) -> Tensor:
    """An exact index a level, which searches all residuals at once."""
    import faiss  # not where `make gpu-check` may run

    faiss.omp_set_num_threads(torch.get_num_threads())
    residual, codes = batch.x, []
    for codebook in batch.codebooks.unbind():
        index = faiss.IndexFlatL2(codebook.shape[1])
        index.add(codebook.numpy())
        codes.append(torch.from_numpy(index.search(residual.numpy(), 1)[1][:, 0]))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes, 1).int()


def products(batch: Catalogue) -> Tensor:
    """The products of all levels into one small buffer: a floor, not a result."""
    out = batch.x.new_empty(BLOCK, batch.codebooks.shape[1])
    for rows in blocks(batch.x):
        for codebook in batch.codebooks.unbind():
            torch.mm(rows, codebook.T, out=out[: len(rows)])
    return out


def agree(share: float) -> Agree:
    """At most `share` of the checked rows may have other codes than in the reference."""

    def check(name: str, got: Tensor, truth: Tensor, batch: Catalogue) -> None:
        wrong = int((got[batch.checked] != truth).any(1).sum())
        if wrong > share * len(truth):
            raise DiffersError(f"{name}: {wrong} of {len(truth)} rows differ from the reference")

    return check


def make_contest(setup: Setup, num_batches: int = 1, *, device: str = "cpu") -> Contest:
    def reference(batch: Catalogue) -> Tensor:
        return residual_quantize(batch.x[batch.checked], batch.codebooks, backend="reference")

    compiled: dict[str, Run] = {}
    if setup.compiled:
        torch.compiler.reset()  # what was compiled for another number of threads
        block = torch.compile(FORMS["addmm"], dynamic=False, fullgraph=True)
        compiled["addmm"] = in_blocks(block)
    return Contest(
        [moved(make_catalogue(setup, seed), device) for seed in range(num_batches)],
        reference=reference,
        ours=lambda batch: residual_quantize(batch.x, batch.codebooks),
        plain={name: in_blocks(block) for name, block in FORMS.items()},
        compiled=compiled,
        others={"faiss": by_faiss} if device == "cpu" and find_spec("faiss") else {},
        yardsticks={"GEMM": products},
        agree=agree(SHARE),
        ours_agree=agree(0.0),
    )


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup)
        with torch.no_grad():
            times = contest.times(seconds=0.4 if quick else 5.0, least=3)
            memory = contest.memory(times)
        ours = number(times["ours ms"])
        ratios: Row = {
            "GFLOP/s": setup.flops / ours / 1e6,
            "GEMM / ours": number(times["GEMM ms"]) / ours,
            "floor ms": floors.ms(num_bytes=4.0 * contest.batches[0].x.numel(), flops=setup.flops),
        }
        for name in ("eager", "compiled", "faiss"):
            if f"{name} ms" in times:
                ratios[f"{name} / ours"] = number(times[f"{name} ms"]) / ours
        about: Row = {"backend": backend_of("residual_quantize")}
        rows.append({**setup.columns(), **about, **times, **ratios, **memory})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("GEMM ms", "ours ms", "compiled ms", "eager ms", "faiss ms")
    plot_bars(rows, ("V", "D", "K", "threads"), sides, "ms", path)
