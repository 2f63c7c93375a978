"""`python -m benchmarks.gpu_check.models`: training and generation of whole models on a card.

The models of the job `union`, on the best kernels and on plain PyTorch: a training step in float32
and under bfloat16 autocast, and generation for one user and for many. Prints a JSON line a row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks import intrr_generation, intrr_models, intrr_training, union
from benchmarks.agreement import DiffersError
from benchmarks.gpu_check import settings
from benchmarks.gpu_check.card import take
from benchmarks.moving import moved
from benchmarks.output import Row
from benchmarks.timing import Side
from glass.generation import generate
from glass_kernels import SidTrie, use_backend

TRAINING = {"full": (512, 2_048), "quick": (64,), "tiny": (2,)}
"""Users of a step."""
GENERATION = {"full": (1, 32, 512), "quick": (1, 32), "tiny": (1,)}
BEAMS = union.BEAMS


def _batches(name: str, setup: union.Setup, device: str) -> list[Any]:
    batches: list[Any] = [union.make_batch(setup, seed) for seed in range(2)]
    if name == "IntRR":
        batches = [union.as_sequences(batch) for batch in batches]
        if setup.work == "generation":
            batches = [intrr_models.newest(batch) for batch in batches]
    return moved(batches, device)


def _on_reference(run: Callable[[int], object], number: int) -> object:
    with use_backend("reference"):
        return run(number)


def _timed(run: Callable[[int], object], device: str, seconds: float) -> Row:
    sides: dict[str, Side] = {"ours": run, "plain": partial(_on_reference, run)}
    taken = take(sides, device, seconds=seconds, least=3, most=50)
    row: Row = {}
    for name, timing in taken.items():
        row |= {f"{name} ms": timing.ms, f"{name} host ms": timing.host_ms}
        row[f"{name} extra MiB"] = timing.extra_mib
    row["plain / ours"] = taken["plain"].ms / taken["ours"].ms
    return row


def training_row(name: str, users: int, dtype: str, device: str, seconds: float) -> Row:
    """A step of forward, backward and AdamW; compared with plain PyTorch first, in float32."""
    setup = union.Setup("training", users, targets=8)
    model = union.make_model(name).to(device).train()
    batches = _batches(name, setup, device)
    row: Row = {"work": "training", "model": name, "users": users, "dtype": dtype}
    if dtype == "float32":
        intrr_training.check(name, model, batches[0])
    step = intrr_training.make_step(model, batches)

    def run(number: int) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            step(number)

    row |= _timed(run, device, seconds)
    row["ours targets / s"] = 1e3 * batches[0].targets.numel() / float(str(row["ours ms"]))
    return row


def generation_row(name: str, users: int, device: str, seconds: float) -> Row:
    """20 beams of every user; compared with plain PyTorch first."""
    setup = union.Setup("generation", users)
    model = union.make_model(name).to(device).eval()
    trie = SidTrie.build(model.codes.cpu(), model.codebook_sizes).to(device)
    batches = _batches(name, setup, device)
    intrr_generation.check(name, model, batches[0], trie, BEAMS)
    search = partial(generate, model, trie=trie, beam_width=BEAMS)
    run = partial(intrr_generation.in_turn, search, batches)
    row: Row = {"work": "generation", "model": name, "users": users, "dtype": "float32"}
    return row | _timed(run, device, seconds)


def works(size: str, device: str, seconds: float) -> list[tuple[str, Callable[[], Row]]]:
    """What to time, with a name for each."""
    found: list[tuple[str, Callable[[], Row]]] = []
    for name in union.SIDES:
        for users in GENERATION[size]:
            work = partial(generation_row, name, users, device, seconds)
            found.append((f"generation, {name}, {users} users", work))
        for users in TRAINING[size]:
            for dtype in ("float32", "bfloat16"):
                step = partial(training_row, name, users, dtype, device, seconds)
                found.append((f"training, {name}, {users} users, {dtype}", step))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if something is wrong or cannot run; the rest is timed all the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=list(TRAINING), default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each side")
    options = parser.parse_args(arguments)
    bad = False
    for title, work in works(options.size, options.device, options.seconds):
        try:
            row = work()
        except (DiffersError, RuntimeError, ValueError) as error:
            bad, row = True, {"work": title, "wrong": " ".join(str(error).split())[:300]}
        print(json.dumps(row), flush=True)
    if options.device == "cuda":
        settings.show()
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
