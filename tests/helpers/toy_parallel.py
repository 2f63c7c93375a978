"""Short trainings of toy models, in this process or in several that `torchrun` starts.

`python toy_parallel.py FOLDER SYSTEM MODE [FOLDER SYSTEM MODE ..] [--steps N] [--die-at N]` trains
one after another without dropout and writes `weights.safetensors` and `result.json` into each
folder; with `--steps` it stops once it has done so many, with `--die-at` the last process kills
itself there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from toy import random_dataset, toy_sids

from glass import distributed
from glass.config import EvalConfig, ModelConfig, RunConfig, SequenceConfig, TrainConfig
from glass.evaluation import SidCatalogue
from glass.pipeline.neural import make_trie
from glass.systems import TRAINED
from glass.training import Validator, train
from glass.training.trainer import Trainer

DATASET = random_dataset(9, seed=1)
SIDS = toy_sids()
MODEL = ModelConfig(
    d_model=16, num_heads=2, head_dim=8, d_ff=32, num_encoder_layers=1, num_decoder_layers=1,
    dropout=0.0, short_length=4, search_max_items=3, num_neighbours=1, search_min_items=2,
)  # fmt: skip
SEQUENCE = SequenceConfig(
    d_model=16, num_layers=1, num_heads=2, head_dim=8, d_ff=32, dropout=0.0, max_items=6,
    uid_dim=8,
)  # fmt: skip
TRAIN = TrainConfig(
    batch_size=6, max_targets=2, learning_rate=3e-3, max_epochs=2, eval_every=1, log_every=1,
    checkpoint_every=2, metric="ndcg@4",
)  # fmt: skip


class StoppedError(Exception):
    """Stands for the end of a process."""


def run_case(
    folder: Path, name: str, mode: str, steps: int | None = None, die_at: int | None = None
) -> None:
    """Trains in the processes there are."""
    config = RunConfig(model=MODEL, sequence=SEQUENCE, eval=EvalConfig(beam_width=4, ks=(1, 4)))
    settings = TrainConfig(**{**TRAIN.__dict__, "parallel": mode})
    system = TRAINED[name]
    torch.manual_seed(0)
    model = system.make(config, SIDS, DATASET)
    validator = Validator(
        DATASET,
        "valid",
        lambda *given: system.collator(system.settings(config), *given),
        config.eval,
        num_groups=0,
        catalogue=SidCatalogue(SIDS.codes),
        trie=make_trie(SIDS),
    )
    ranked: list[np.ndarray] = []
    inner, one_step = validator.rank, Trainer.train_step

    def rank(of: Any) -> np.ndarray:
        ranked.append(inner(of))
        return ranked[-1]

    def step(trainer: Trainer) -> None:
        if trainer.step == steps:
            distributed.wait_for_all()
            raise StoppedError
        if trainer.step == die_at and distributed.rank() == distributed.count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        one_step(trainer)

    validator.rank = rank  # type: ignore[method-assign]
    rows = system.training_rows(system.settings(config), DATASET)
    Trainer.train_step = step  # type: ignore[method-assign]
    try:
        result = train(model, rows, validator, settings, folder, progress=False)
    finally:
        Trainer.train_step = one_step  # type: ignore[method-assign]
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    of_all = distributed.gathered([value.tolist() for value in ranked])
    if distributed.is_first():
        save_file(weights, folder / "weights.safetensors")
        content = {
            "history": result.history,
            "best_step": result.best_step,
            "steps": result.steps,
            "rows": len(validator.samples),
            "ranked": of_all[0],
            "alike": all(part == of_all[0] for part in of_all),
        }
        (folder / "result.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--die-at", type=int)
    options = parser.parse_args()
    with distributed.job():
        for k in range(0, len(options.cases), 3):
            folder, name, mode = options.cases[k : k + 3]
            run_case(Path(folder), name, mode, options.steps, options.die_at)


if __name__ == "__main__":
    main()
