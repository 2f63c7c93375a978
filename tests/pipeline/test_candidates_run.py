"""`eval.candidates` from the config to every list that a run makes or serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import glass.export.package as package
from glass import Recommender
from glass.cli import main
from glass.cli_parser import make_parser, parse
from glass.evaluation import read_predictions
from glass.export import Graph
from glass.pipeline import Run, recommend
from glass.pipeline.reporting import report_input
from glass.serving.folder import load_system
from glass.training.log import read_rows

NUM_USERS, NUM_ITEMS, NUM_EVENTS = 24, 30, 36
BASELINES = ["popularity", "own_frequency", "recent_frequency", "item_knn"]
TRAINED = ["tiger", "glass", "intrr_transformer", "glass_intrr"]
USERS = [f"u{user}" for user in range(NUM_USERS)]
OFFERED = {f"i{item}" for item in range(24)}
OTHERS = list(range(24, 30))
"""Items that are in first baskets and held-out ones alone."""
CHANGES: dict[str, Any] = {
    "systems": [*BASELINES, *TRAINED],
    "sid": {"codebook_sizes": [4, 4]},
    "sequence": {
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 2,
        "head_dim": 8,
        "d_ff": 32,
        "max_items": 6,
        "uid_dim": 8,
    },
    "eval": {"candidates": "training_targets"},
}


def events(held_out: list[int], *, half: bool = True) -> pl.DataFrame:
    """Baskets of two: the first of items that are no candidates, then candidates, and in the last
    four, which are held out, items of `held_out` (a half of each basket, or all)."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(NUM_USERS), NUM_EVENTS)
    number = np.tile(np.arange(NUM_EVENTS), NUM_USERS)
    items = (users % 4) * 6 + rng.integers(0, 6, len(users))
    items = np.where(rng.random(len(users)) < 0.6, items, rng.integers(0, 24, len(users)))
    items = np.where(number < 2, 24 + (users + number) % 6, items)
    late = (number >= NUM_EVENTS - 8) & ((number % 2 == 1) | (not half))
    items = np.where(late, np.array(held_out)[users % len(held_out)], items)
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "timestamp": 1000 + number // 2 * 60,
        }
    )


def run_of(config: Path, *changes: str) -> Run:
    return Run(parse(make_parser("glass run", ""), str(config), changes)[0], progress=False)


def raw(run: Run, items: np.ndarray) -> set[str]:
    ids = run.dataset.item_table["raw_item_id"]
    return {ids[int(item)] for item in np.unique(items[items >= 0])}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, written_shop: Callable[..., Path]) -> Path:
    """Config of a finished run with the setting; tests leave it as it is."""
    config = written_shop(tmp_path_factory.mktemp("limited"), events(OTHERS), **CHANGES)
    assert main(["run", str(config)]) == 0
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, written_shop: Callable[..., Path]) -> Path:
    """The same without the setting, of two systems."""
    changes = {**CHANGES, "systems": ["popularity", "glass"], "eval": {}}
    config = written_shop(tmp_path_factory.mktemp("whole"), events(OTHERS), **changes)
    assert main(["run", str(config)]) == 0
    return config


def test_the_shop_is_what_the_tests_need(limited: Path) -> None:
    run = run_of(limited)
    assert run.dataset.num_items == NUM_ITEMS
    codes = list(map(tuple, run.sid_table.codes.tolist()))
    offered = raw(run, np.flatnonzero(run.candidates))
    assert offered == OFFERED
    sides = [
        {sid for sid, chosen in zip(codes, run.candidates, strict=True) if chosen == side}
        for side in (True, False)
    ]
    assert sides[0] & sides[1]  # collisions across the border
    assert sides[0] - sides[1]


@pytest.mark.parametrize("system", [*BASELINES, *TRAINED])
def test_nothing_else_is_predicted(limited: Path, system: str) -> None:
    run = run_of(limited)
    kept = read_predictions(run.folder / "predictions" / f"{system}.parquet")
    assert kept.items is not None
    assert raw(run, kept.items) <= OFFERED
    full = (kept.items >= 0).sum(axis=1)
    assert (full == min(run.config.eval.beam_width, len(OFFERED))).all()
    codes = run.catalogue.unique_codes[np.unique(kept.sids[kept.sids >= 0])]
    held = {tuple(sid) for sid in run.sid_table.codes[run.candidates].tolist()}
    assert {tuple(sid) for sid in codes.tolist()} <= held


@pytest.mark.parametrize("system", [*BASELINES, *TRAINED])
def test_other_targets_are_misses_and_stay(limited: Path, system: str) -> None:
    run = run_of(limited)
    found = run.metrics()
    targets = run.targets
    reachable = run.candidates[targets.item].mean()
    assert 0.3 < reachable < 0.7
    assert found["counts"]["targets"] == len(targets) == NUM_USERS * 4
    values = found["systems"][system]["all"]
    # Fewer SIDs than places: every SID is in every list, so what is missed is no candidate.
    assert run.catalogue.num_sids <= run.config.eval.beam_width
    assert values["hit@20"] == pytest.approx(reachable)
    assert 0 < values["item_hit@20"] <= reachable
    assert values["split_item_hit@20"] <= reachable
    if system in TRAINED:
        assert found["systems"][system]["generation"]["invalid_rate"] == 0
        assert found["systems"][system]["generation"]["P_1"] <= reachable


@pytest.mark.parametrize("system", TRAINED)
def test_nothing_else_is_in_a_models_folder(limited: Path, system: str) -> None:
    run = run_of(limited)
    folder = run.folder / system
    model, table, trie = load_system(folder)
    assert raw(run, trie.item_ids.numpy()) == OFFERED
    assert trie.catalogue_size == len(model.codes) == table.num_items == NUM_ITEMS
    assert json.loads((folder / "trained.json").read_text())["candidates"] == "training_targets"
    assert "24 of them are candidates" in (folder / "README.md").read_text()


@pytest.mark.parametrize("system", TRAINED)
@pytest.mark.parametrize("constrained", [True, False])
def test_nothing_else_is_recommended(limited: Path, system: str, constrained: bool) -> None:
    run = run_of(limited, f"--eval.constrained={str(constrained).lower()}")
    for items in recommend(run, USERS, num_items=NUM_ITEMS, system=system).values():
        shown = {item.raw_item_id for item in items}
        assert shown == OFFERED if constrained else shown <= OFFERED
    served = Recommender.load(run.folder / system)
    served.observe_dataset(run.dataset)
    for items in served.recommend(USERS, NUM_ITEMS):
        assert {item.raw_item_id for item in items} == OFFERED
    for items in served.recommend(USERS, 4, exclude_seen=True):
        assert {item.raw_item_id for item in items} <= OFFERED


def test_nothing_else_is_exported(
    limited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glass_kernels import SidTrie

    def graphs(*_: Any) -> list[Graph]:
        return []

    monkeypatch.setattr(package, "export_graphs", graphs)
    monkeypatch.setattr(package, "_check_machine", lambda device: None)
    run = run_of(limited)
    assert main(["export", str(limited), "--to", str(tmp_path / "out")]) == 0
    trie = SidTrie.load(tmp_path / "out" / "trie.safetensors")
    assert raw(run, trie.item_ids.numpy()) == OFFERED


def test_nothing_else_is_in_the_report(limited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(limited)
    gathered = report_input(run)
    titles = {f"Thing {item[1:]}" for item in OFFERED}
    for user in gathered.examples:
        assert set(user.recommendations) == {*BASELINES, *TRAINED}
        for items in user.recommendations.values():
            assert items
            assert {item.title for item in items} <= titles
    share = run.candidates[run.targets.item].mean()
    card = gathered.data_card["candidates"]
    assert card["items"] == len(OFFERED)
    assert card["share_of_test_targets"] == pytest.approx(share)
    assert card["share_of_train_targets"] == 1
    page = (run.folder / "report.html").read_text()
    assert "Share of test targets" in page
    assert f"{share:.1%}".replace("%", "") in page
    assert main(["data", "describe", str(limited)]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("candidates"))
    assert "24 items; of the targets 100.0% of train" in line
    assert f"{share:.1%} of test" in line


def test_without_it_all_is_as_ever(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(whole)
    assert run.candidates is None
    assert "candidates" not in run.data_card
    assert "candidates" not in json.loads((run.folder / "glass" / "trained.json").read_text())
    assert "candidates" not in (run.folder / "glass" / "README.md").read_text()
    assert load_system(run.folder / "glass")[2].num_items == NUM_ITEMS
    assert raw(run, run.ranked_items("glass")) - OFFERED
    assert main(["data", "describe", str(whole)]) == 0
    assert "candidates" not in capsys.readouterr().out


def test_validation_while_training_obeys(make_shop: Callable[..., Path]) -> None:
    """Of held-out targets none of which is a candidate nothing is ever hit, though others share
    their SIDs."""
    sid = {"codebook_sizes": [2, 2]}
    changes = {**CHANGES, "systems": ["recent_frequency", "tiger"], "sid": sid}
    config = make_shop(events=events([25], half=False), **changes)
    assert main(["run", str(config)]) == 0
    run = run_of(config)
    item = run.dataset.item_table["raw_item_id"].to_list().index("i25")
    rows = [r for r in read_rows(run.folder / "logs" / "tiger.jsonl") if "valid_hit@20" in r]
    assert rows
    assert {row["valid_hit@20"] for row in rows} == {0}
    assert {system["all"]["hit@20"] for system in run.metrics()["systems"].values()} == {0}
    codes = run.sid_table.codes
    assert (codes[run.candidates] == codes[item]).all(axis=1).any()


def test_validation_searches_the_trie_of_the_candidates(
    limited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glass.pipeline import neural

    class StoppedError(Exception):
        pass

    given: dict[str, Any] = {}

    def validator(*_: Any, **named: Any) -> None:
        given.update(named)
        raise StoppedError

    monkeypatch.setattr(neural, "Validator", validator)
    run = run_of(limited, "--train.seed=5")
    given_to = ("tiger", run.config, run.dataset, run.sid_table, run.folder / "other")
    with pytest.raises(StoppedError):
        neural.train_system(*given_to, progress=False)
    assert raw(run, given["trie"].item_ids.numpy()) == OFFERED
    assert np.array_equal(given["catalogue"].candidates, run.candidates)


def test_half_life_is_chosen_among_candidates(
    limited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glass.pipeline import run as run_module

    given, choose = [], run_module.choose_half_life

    def chosen(dataset: Any, catalogue: Any) -> float:
        given.append(catalogue.candidates)
        return choose(dataset, catalogue)

    monkeypatch.setattr(run_module, "choose_half_life", chosen)
    run = run_of(limited)
    ranking = run._rank_baseline("recent_frequency")
    assert np.array_equal(ranking.items, run.ranked_items("recent_frequency"))
    assert [mask.tolist() for mask in given] == [run.candidates.tolist()]


class TestAChangeOfTheSetting:
    ON, OFF = "--eval.candidates=training_targets", "--eval.candidates=catalogue"

    def test_models_and_metrics_are_made_anew(
        self, whole: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["evaluate", str(whole), self.ON]) == 1
        assert "holds no model trained with the present settings" in capsys.readouterr().err
        assert main(["report", str(whole), self.ON]) == 1
        assert "run `glass evaluate` with this config first" in capsys.readouterr().err

    def test_semantic_ids_stay(self, whole: Path) -> None:
        one, other = run_of(whole), run_of(whole, self.ON)
        assert other.has_sids()
        assert np.array_equal(one.sid_table.codes, other.sid_table.codes)

    @pytest.mark.parametrize("name", ["limited", "whole"])
    def test_recommend_does_what_the_config_says_now(
        self, name: str, request: pytest.FixtureRequest
    ) -> None:
        config = request.getfixturevalue(name)
        every = {f"i{item}" for item in range(NUM_ITEMS)}
        for change, expected in ((self.ON, OFFERED), (self.OFF, every)):
            found = recommend(run_of(config, change), ["u1", "u2"], num_items=NUM_ITEMS)
            for items in found.values():
                assert {item.raw_item_id for item in items} == expected

    @pytest.mark.parametrize("name", ["limited", "whole"])
    def test_another_export_is_refused(
        self,
        name: str,
        request: pytest.FixtureRequest,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        config = request.getfixturevalue(name)
        change = self.OFF if name == "limited" else self.ON
        assert main(["export", str(config), "--to", str(tmp_path / "out"), change]) == 1
        error = capsys.readouterr().err
        assert "was trained with eval.candidates" in error
        assert "run `glass train` with this config" in error

    def test_compare_shows_baselines_of_both(
        self, make_shop: Callable[..., Path], tmp_path: Path
    ) -> None:
        config = str(make_shop(events=events(OTHERS), **{**CHANGES, "systems": ["popularity"]}))
        assert main(["run", config]) == 0
        assert main(["run", config, "--name=all", self.OFF]) == 0
        runs, target = tmp_path / "shop" / "runs", str(tmp_path / "found")
        given = [str(runs / "tiny"), "--with", str(runs / "all"), "--to", target]
        assert main(["compare", *given]) == 0
        found = json.loads((tmp_path / "found.json").read_text())
        assert "eval.candidates" in found["settings"]
        assert [row["system"] for row in found["rows"]] == ["popularity", "popularity"]
        hits = [row["metrics"]["hit@10"] for row in found["rows"]]
        assert hits[0] != hits[1]


@pytest.mark.parametrize("command", ["run", "train", "evaluate"])
def test_refused_before_any_work(
    command: str, make_shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two baskets a user, of which none is left with a history in training."""
    shop = events(OTHERS).filter(pl.col("timestamp") < 1000 + 5 * 60)
    config = make_shop(events=shop, **{**CHANGES, "systems": ["popularity"]})
    assert main([command, str(config)]) == 1
    error = capsys.readouterr().err
    assert "eval.candidates is 'training_targets', but in data set 'shop'" in error
    assert not (config.parent / "runs" / "tiny" / "sid").exists()


def test_an_unknown_choice_is_refused(limited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(limited), "--eval.candidates=targets"]) != 0
    assert "eval.candidates" in capsys.readouterr().err
    config = run_of(limited).config
    wrong: Any = replace(config.eval, candidates="targets")  # as Python code may have it
    with pytest.raises(ValueError, match=r"eval.candidates is 'targets'; it must be one of"):
        Run(replace(config, eval=wrong))


def test_held_out_events_of_the_source_change_no_candidate(make_shop: Callable[..., Path]) -> None:
    found = []
    for name, late in (("a", [24, 25]), ("b", [29])):
        run = run_of(make_shop(name, events(late), **CHANGES))
        run.prepare_data()
        found.append(raw(run, np.flatnonzero(run.candidates)))
    assert found[0] == found[1] == OFFERED
