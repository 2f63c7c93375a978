"""Validation by beam search: SID-level metrics on a fixed draw of validation samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from glass import distributed
from glass.config import EvalConfig
from glass.data import Dataset, Samples
from glass.data.batches import sequential_batches
from glass.evaluation import SidCatalogue, Targets, rank_metrics
from glass.generation import generate
from glass.systems import Collate, Model
from glass_kernels import SidTrie


def take(samples: Samples, rows: np.ndarray) -> Samples:
    """The given rows of `samples`."""
    return Samples(
        users=samples.users[rows],
        history_start=samples.history_start[rows],
        history_end=samples.history_end[rows],
        target_end=samples.target_end[rows],
    )


class Validator:
    """Scores a model on at most `num_groups` samples of a split, drawn once by `seed`.

    Args:
        dataset: events.
        split: "valid" for early stopping.
        collator: makes the collator of samples, such as `System.collator` of these settings.
        eval_config: beam width, batch size, cut-offs.
        num_groups: samples drawn; 0: all.
        catalogue, trie: the catalogue's SIDs.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        collator: Callable[[Dataset, Samples], Collate],
        eval_config: EvalConfig,
        *,
        num_groups: int,
        catalogue: SidCatalogue,
        trie: SidTrie,
        seed: int = 0,
    ) -> None:
        samples = dataset.samples(split)
        if not len(samples.users):
            raise ValueError(
                f"the {split} split of data set {dataset.name!r} has no sample with a history; "
                "raise data.num_valid_events or data.valid_share"
            )
        if 0 < num_groups < len(samples.users):
            rng = np.random.default_rng(seed)
            rows = np.sort(rng.choice(len(samples.users), num_groups, replace=False))
            samples = take(samples, rows)
        self.samples = samples
        self.targets = Targets.from_samples(dataset, samples)
        self.catalogue = catalogue
        self.trie = trie
        self.config = eval_config
        self.collate = collator(dataset, samples)

    def rank(self, model: Model) -> np.ndarray:
        """SID indices int64 [samples, W], best first; -1: the beam is no SID of the catalogue.

        Several processes rank a part of the samples each, and all get the whole.
        """
        training = model.training
        model.eval()
        device = self.trie.device
        mine = distributed.own_part(np.arange(len(self.samples.users)))
        ranked: list[np.ndarray] = [np.empty((0, self.config.beam_width), dtype=np.int64)]
        for rows in sequential_batches(len(mine), self.config.batch_size):
            beams = generate(
                model,
                self.collate(mine[rows]).to(device),
                self.trie,
                beam_width=self.config.beam_width,
                constrained=self.config.constrained,
            )
            ranked.append(self.catalogue.lookup(beams.codes.cpu().numpy()))
        model.train(training)
        return distributed.interleaved(np.concatenate(ranked))

    @torch.no_grad()
    def __call__(self, model: Model) -> dict[str, float]:
        """Means of all metrics over the targets."""
        metrics = rank_metrics(self.rank(model), self.targets, self.catalogue, self.config.ks)
        return metrics.summary()
