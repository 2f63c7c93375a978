"""One run: its folder, its steps and their results. Every step can be repeated and resumed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from glass import distributed
from glass.config import RunConfig
from glass.data import Dataset, Samples, describe, prepare
from glass.data.store import remove_stale
from glass.evaluation import (
    RankMetrics,
    SidCatalogue,
    SystemRanking,
    Targets,
    build_metrics,
    by_history_length,
    candidate_items,
    choose_half_life,
    generation_diagnostics,
    rank_item_knn,
    rank_items,
    rank_metrics,
    rank_own_frequency,
    rank_popularity,
    rank_recent_frequency,
    read_predictions,
    write_json_atomic,
    write_predictions,
)
from glass.evaluation.arrays import BoolArray
from glass.evaluation.results import HISTORY_EDGES
from glass.pipeline.check import check_config
from glass.pipeline.clock import StepClock
from glass.pipeline.diagnose import Diagnosis, diagnose
from glass.pipeline.keys import KEY, evaluation_key, stored_key
from glass.pipeline.lock import locked_folder
from glass.pipeline.neural import (
    Decoded,
    add_items,
    decode_samples,
    is_trained,
    load_system,
    train_system,
)
from glass.sid import SidHealth, SidTable, load_built
from glass.sid import build as build_sids
from glass.sid import describe as describe_sids
from glass.sid.files import replaced_file
from glass.systems import TRAINED, Model
from glass.workers import started

if TYPE_CHECKING:
    from glass.report import ReportInput

log = logging.getLogger(__name__)


class Run:
    """Steps of `glass run`, over the folder `<output>/<name>`.

    Args:
        config: checked at once, before any work.
        progress: show progress bars.

    Raises:
        ValueError: a setting that cannot work; the message names it.
    """

    def __init__(self, config: RunConfig, *, progress: bool = True) -> None:
        check_config(config)
        self.config = config
        self.progress = progress
        self.folder = Path(config.output) / config.name
        self.clock = StepClock(self.folder / "steps.json")
        self._is_locked = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from working in the folder; reading it stays free.

        Raises:
            ValueError: another process works there.
        """
        if self._is_locked or not distributed.is_first():
            yield
            return
        with locked_folder(self.folder):
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    # --- data and semantic IDs

    def start(self) -> None:
        """Creates the folder, writes `config.yaml`, and points `latest` to it."""
        with distributed.first_before_others():
            if distributed.is_first():
                self._start()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("sid", *TRAINED):
            remove_stale(self.folder / name)  # of processes that were killed
        with replaced_file(self.folder / "config.yaml") as temporary:
            temporary.write_text(self.config_yaml())
        link = self.folder.parent / "latest"
        fresh = link.with_name(f"latest.tmp-{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.folder.name)
        os.replace(fresh, link)

    def config_yaml(self) -> str:
        """The settings as YAML that the commands read back."""
        plain = json.loads(json.dumps(asdict(self.config)))
        return str(yaml.safe_dump(plain, sort_keys=False))

    def prepare_data(self, *, force: bool = False) -> Path:
        """Reads, filters and splits the data unless that is done already."""
        manifest = Path(self.config.data.folder) / self.config.data.name / "manifest.json"
        with self.clock.step("prepare data") as step:
            before = stored_key(manifest)
            with distributed.first_before_others():
                force_here = force and distributed.is_first()
                folder = prepare(self.config.data, force=force_here, ray=self.config.ray)
            step.worked = force or before != stored_key(manifest)
        self.__dict__["dataset"] = Dataset.load(folder)
        self.candidates  # noqa: B018  refused before SIDs are built and models trained
        return folder

    @cached_property
    def dataset(self) -> Dataset:
        """The prepared data set; prepared now if it is not yet."""
        return Dataset.load(prepare(self.config.data, ray=self.config.ray))

    def build_sids(self) -> SidTable:
        """Item vectors and semantic IDs, unless they are there already."""
        folder = self.folder / "sid"
        with self.clock.step("semantic IDs") as step:
            before = stored_key(folder / "manifest.json")
            with distributed.first_before_others():
                table = self._make_sids()
            step.worked = before != stored_key(folder / "manifest.json")
        self.__dict__["sid_table"] = table
        return table

    @cached_property
    def sid_table(self) -> SidTable:
        """SIDs of the run; built now if they are not yet."""
        if (table := self._built_sids()) is not None:
            return table
        with self.locked():
            return self._make_sids()

    def _make_sids(self) -> SidTable:
        if (table := self._built_sids()) is not None:  # no cluster for what is there
            return table
        with started(self.config.ray) as workers:
            given = (self.config.sid, self.dataset, self.folder / "sid")
            return build_sids(*given, workers=workers)

    def has_sids(self) -> bool:
        """Whether the folder holds the SIDs of just these settings and data."""
        return self._built_sids() is not None

    def _built_sids(self) -> SidTable | None:
        return load_built(self.config.sid, self.dataset, self.folder / "sid")

    @cached_property
    def sid_health(self) -> SidHealth:
        """Usage, collisions and bucket sizes."""
        return describe_sids(self.sid_table, self.dataset)

    @cached_property
    def data_card(self) -> dict[str, Any]:
        """Counts of the data set."""
        return describe(self.dataset, self.candidates)

    @cached_property
    def candidates(self) -> BoolArray | None:
        """bool [V] items that may be recommended; None: all.

        Raises:
            ValueError: `eval.candidates` leaves none.
        """
        return candidate_items(self.dataset, self.config.eval.candidates)

    @cached_property
    def catalogue(self) -> SidCatalogue:
        """Items of each SID, of those that may be recommended."""
        return SidCatalogue(self.sid_table.codes, self.candidates)

    @cached_property
    def samples(self) -> Samples:
        """Test samples."""
        return self.dataset.samples("test")

    @cached_property
    def targets(self) -> Targets:
        """Test targets."""
        return Targets.from_samples(self.dataset, self.samples)

    # --- systems

    @property
    def neural_systems(self) -> list[str]:
        """Systems that are trained."""
        return [system for system in self.config.systems if system in TRAINED]

    @property
    def default_system(self) -> str:
        """Who recommends unless another is asked for: GLASS, or the last trained system."""
        trained = self.neural_systems
        return trained[-1] if trained and "glass" not in trained else "glass"

    def train(self, systems: Sequence[str] = ()) -> None:
        """Trains the neural systems of the run, or those named; what is finished is skipped.

        Raises:
            ValueError: a system that is not trained, or not part of the run.
        """
        for system in systems:
            if system not in self.neural_systems:
                raise ValueError(
                    f"system {system!r} is not among the trained systems of this run "
                    f"({', '.join(self.neural_systems) or 'none'}); see the field systems"
                )
        self._have_inputs()
        for system in systems or self.neural_systems:
            given = (system, self.config, self.dataset, self.sid_table, self.folder)
            with self.clock.step(f"train {system}") as step:
                step.worked = not is_trained(*given)
                if step.worked:
                    self._forget_results()
                    train_system(*given, progress=self.progress)
                add_items(system, self.config, self.dataset, self.folder)

    def _have_inputs(self) -> None:
        """Makes data and SIDs, where they are missing, in one process."""
        with distributed.first_before_others():
            self.dataset, self.candidates, self.sid_table  # noqa: B018

    def _forget_results(self) -> None:
        if not distributed.is_first():
            return
        # Metrics and report of other models must not stand beside the new ones.
        for name in ("metrics.json", "report.html"):
            (self.folder / name).unlink(missing_ok=True)

    def evaluate(self) -> dict[str, Any]:
        """Ranks the test split with every system; writes predictions and `metrics.json`.

        Nothing is done where `metrics.json` was made with just these settings, data and models.

        Raises:
            ValueError: a system is not trained with the present settings, data and SIDs.
        """
        self._have_inputs()
        config = self.config
        given = (config, self.dataset, self.sid_table, self.folder)
        for system in self.neural_systems:
            if not is_trained(system, *given):
                raise ValueError(
                    f"{self.folder / system} holds no model trained with the present settings, "
                    "data and semantic IDs; run `glass train` with this config"
                )
        key = evaluation_key(*given[:-1])
        if distributed.from_first(self._is_evaluated(key)):
            log.info("metrics: up to date")
            return self.metrics()
        self.start()
        if not distributed.is_first():  # helps with the decoding
            for system in self.neural_systems:
                self._decode(system)
            distributed.wait_for_all()
            return self.metrics()
        self._forget_results()
        metrics: dict[str, RankMetrics] = {}
        generation: dict[str, dict[str, float]] = {}
        diagnoses: dict[str, Diagnosis] = {}
        for system in config.systems:
            with self.clock.step(f"evaluate {system}"):
                if system in TRAINED:
                    found = self._evaluate_neural(system)
                    metrics[system], generation[system], diagnoses[system] = found
                else:
                    metrics[system] = self._evaluate_baseline(system)
        with self.clock.step("metrics"):
            result = build_metrics(
                metrics,
                self.targets,
                num_samples=len(self.samples),
                resamples=config.eval.bootstrap,
                seed=config.eval.seed,
                generation=generation,
            )
            result["by_history"] = by_history_length(
                metrics,
                self.targets,
                f"ndcg@{10 if 10 in config.eval.ks else max(config.eval.ks)}",
                edges=max(
                    (TRAINED[s].history_edges for s in self.neural_systems), default=HISTORY_EDGES
                ),
                resamples=config.eval.bootstrap,
                seed=config.eval.seed,
            )
            result["gates"] = {s: found.gates for s, found in diagnoses.items() if found.gates}
            moved = {s: found.redistribution for s, found in diagnoses.items()}
            if any(moved.values()):
                result["redistribution"] = {s: found for s, found in moved.items() if found}
            result[KEY] = key
            write_json_atomic(self.folder / "metrics.json", result)
        distributed.wait_for_all()
        return result

    def _is_evaluated(self, key: str) -> bool:
        # metrics.json is deleted first and written last, so the predictions are its own.
        written = (self.folder / "predictions" / f"{s}.parquet" for s in self.config.systems)
        return stored_key(self.folder / "metrics.json") == key and all(p.exists() for p in written)

    def _evaluate_neural(self, system: str) -> tuple[RankMetrics, dict[str, float], Diagnosis]:
        model, decoded = self._decode(system)
        given = (self.dataset, self.samples)
        ranked = self.catalogue.lookup(decoded.codes)
        diagnosis = diagnose(system, model, *given, self.config.eval.batch_size)
        numbers = generation_diagnostics(
            decoded.codes, self.targets, self.catalogue, decoded.prefixes
        )
        items = rank_items(
            ranked,
            decoded.scores,
            self.dataset,
            self.samples,
            self.catalogue,
            width=self.config.eval.beam_width,
            prior=self.config.eval.item_prior,
        ).items
        metrics = self._judge(system, ranked, items, scores=decoded.scores)
        return metrics, {**diagnosis.accuracy, **numbers}, diagnosis

    def _decode(self, system: str) -> tuple[Model, Decoded]:
        model, _, trie = load_system(self.folder / system)
        progress = self.progress and distributed.is_first()
        given = (self.dataset, self.samples, self.config)
        return model, decode_samples(system, model, trie, *given, progress=progress)

    def _evaluate_baseline(self, system: str) -> RankMetrics:
        ranking = self._rank_baseline(system)
        return self._judge(system, ranking.sids, ranking.items)

    def _rank_baseline(self, system: str) -> SystemRanking:
        data, width = (self.dataset, self.samples, self.catalogue), self.config.eval.beam_width
        if system == "popularity":
            return rank_popularity(*data, width)
        if system == "own_frequency":
            return rank_own_frequency(*data, width)
        if system == "recent_frequency":
            half_life = choose_half_life(self.dataset, self.catalogue)
            return rank_recent_frequency(*data, width, half_life=half_life)
        return rank_item_knn(*data, width, num_neighbours=self.config.eval.knn_neighbours)

    def _judge(
        self,
        system: str,
        sids: np.ndarray,
        items: np.ndarray,
        *,
        scores: np.ndarray | None = None,
    ) -> RankMetrics:
        """Keeps the lists of a system and measures them."""
        path = self.folder / "predictions" / f"{system}.parquet"
        write_predictions(path, self.samples.users, sids, scores, items)
        return rank_metrics(sids, self.targets, self.catalogue, self.config.eval.ks, items=items)

    def ranked_items(self, system: str) -> np.ndarray:
        """int32 [S, W'] items that `evaluate` wrote for the test samples, -1 = none.

        Raises:
            ValueError: there are none; older versions kept no items of neural systems.
        """
        path = self.folder / "predictions" / f"{system}.parquet"
        items = read_predictions(path).items
        if items is None:
            raise ValueError(f"{path} holds no items; run `glass evaluate` with this config")
        return items

    # --- results

    def metrics(self) -> dict[str, Any]:
        """`metrics.json` of an evaluated run.

        Raises:
            ValueError: the run is not evaluated yet, or was with other settings or data.
        """
        path = self.folder / "metrics.json"
        if not path.exists():
            raise ValueError(f"{path} does not exist; run `glass evaluate` with this config first")
        if not self._is_evaluated(evaluation_key(self.config, self.dataset, self.sid_table)):
            raise ValueError(
                f"{path} was made with other settings or data, or by another version; run "
                "`glass evaluate` with this config first"
            )
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def report(self) -> Path:
        """Writes `report.html` from what the other steps left."""
        return self._report()[0]

    def _report(self) -> tuple[Path, ReportInput]:
        from glass.pipeline.reporting import write_run_report

        with self.clock.step("report"):
            return write_run_report(self)

    def all(self) -> Path:
        """Every step in order, then the summary on the terminal; returns the report's path."""
        from glass.pipeline.reporting import print_run_summary

        with self.locked():
            self.start()
            self.prepare_data()
            self.build_sids()
            self.train()
            self.evaluate()
            if not distributed.is_first():
                return self.folder / "report.html"
            report, gathered = self._report()
            print_run_summary(self, gathered, report)
        return report
