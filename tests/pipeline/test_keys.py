"""Keys of results: older runs stay valid, and whatever decides the weights changes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from glass.cli_parser import make_parser, parse
from glass.config import RunConfig
from glass.evaluation.results import FORMAT_VERSION
from glass.pipeline.keys import EVALUATION_VERSION, TRAINING_VERSION, evaluation_key, training_key
from glass.systems import TRAINED
from glass.systems.base import LATER

CONFIGS = Path(__file__).parents[2] / "configs"
DATASET: Any = SimpleNamespace(manifest={"fingerprint": "data"})
TABLE: Any = SimpleNamespace(
    codes=np.arange(6, dtype=np.int32).reshape(2, 3),
    codebook_sizes=(4, 4, 6),
    vectors=np.ones((2, 4), np.float32),
)


def shipped(name: str, *arguments: str) -> RunConfig:
    return parse(make_parser("glass run", ""), str(CONFIGS / name), arguments)[0]


def key(system: str, config: RunConfig) -> str:
    return training_key(system, config, DATASET, TABLE)


@pytest.mark.parametrize(
    ("name", "tiger", "glass"),
    [
        ("complete_journey_glass.yaml", "0e830db063a1ce0e", "dd7721add30960a3"),
        ("kuairec_glass.yaml", "b56bacc5e7e1448f", "8d5c6c067b3f66fc"),
        ("movielens_1m_glass.yaml", "97dcc74875f5de57", "b4018d3acdc5e6e2"),
    ],
)
def test_finished_trainings_stay_valid(name: str, tiger: str, glass: str) -> None:
    """As of version 3: make them again only where `TRAINING_VERSION` is raised on purpose."""
    assert TRAINING_VERSION == 3
    assert key("tiger", shipped(name)) == tiger
    assert key("glass", shipped(name)) == glass


@pytest.mark.parametrize(
    ("name", "evaluation"),
    [
        ("complete_journey_glass.yaml", "c0440f892eebbe04"),
        ("kuairec_glass.yaml", "993f3f4e7b91abc2"),
        ("movielens_1m_glass.yaml", "f8f66222faab4f93"),
        ("beauty_intrr.yaml", "e8a1b82ca00cf0af"),
    ],
)
def test_finished_evaluations_stay_valid(name: str, evaluation: str) -> None:
    """Make them again only where one of the versions is raised on purpose."""
    assert (TRAINING_VERSION, EVALUATION_VERSION, FORMAT_VERSION) == (3, 1, 2)
    assert evaluation_key(shipped(name), DATASET, TABLE) == evaluation


def test_candidates_are_in_keys_that_do_not_rank_all_items() -> None:
    """TAOBAO-MM's config has another setting than before; with that, its keys are the old ones."""
    taobao = "taobao_mm_glass.yaml"
    few, every = shipped(taobao), shipped(taobao, "--eval.candidates=catalogue")
    assert few.eval.candidates == "training_targets"
    assert key("tiger", every) == "d45d2d4a4964c42d"
    assert key("glass", every) == "3ed3ebf05a0ab8f1"
    assert evaluation_key(every, DATASET, TABLE) == "fd62ff3c08cc51f3"
    baselines = (dataclasses.replace(config, systems=("popularity",)) for config in (few, every))
    assert len({evaluation_key(config, DATASET, TABLE) for config in baselines}) == 2
    for system in TRAINED:
        assert key(system, few) != key(system, every)


@pytest.mark.parametrize(
    ("argument", "tiger", "glass"),
    [
        ("--train.metric=hit@10", True, True),
        ("--train.learning_rate=0.1", True, True),
        ("--eval.beam_width=40", True, True),
        ("--eval.candidates=training_targets", True, True),
        ("--eval.candidates=catalogue", False, False),
        ("--model.d_model=32", True, True),
        ("--model.num_heads=2", True, True),
        ("--model.num_tiers=3", True, True),  # kept in TIGER's settings, though without effect
        ("--model.use_hard_search=false", False, True),
        ("--train.metric=ndcg@20", False, False),
        ("--train.log_every=7", False, False),
        ("--model.tier_table_limit=1", False, False),
        ("--sequence.d_model=32", False, False),
        ("--eval.bootstrap=7", False, False),
    ],
)
def test_what_decides_the_weights_changes_the_key(argument: str, tiger: bool, glass: bool) -> None:
    before, after = (
        shipped("complete_journey_glass.yaml"),
        shipped("complete_journey_glass.yaml", argument),
    )
    assert (key("tiger", before) != key("tiger", after)) is tiger
    assert (key("glass", before) != key("glass", after)) is glass


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("--sequence.d_model=32", True),
        ("--sequence.alignment=0.3", True),
        ("--train.max_targets=3", True),
        ("--train.metric=ndcg@10", True),
        ("--train.metric=hit@10", True),
        ("--model.d_model=32", False),
        ("--train.tensorboard=true", False),
    ],
)
@pytest.mark.parametrize("system", ["flattened_hstu", "intrr_transformer"])
def test_sequence_models_depend_on_their_own_settings(
    system: str, argument: str, changes: bool
) -> None:
    before, after = shipped("beauty_intrr.yaml"), shipped("beauty_intrr.yaml", argument)
    assert (key(system, before) != key(system, after)) is changes


@pytest.mark.parametrize(("setting", "other"), [("context", "sum"), ("uid_start", "sid")])
@pytest.mark.parametrize("system", ["intrr_hstu", "glass_intrr"])
def test_later_settings_are_in_no_older_key(system: str, setting: str, other: str) -> None:
    was = LATER[setting]
    config = shipped("beauty_intrr.yaml", f"--sequence.{setting}={was}")
    assert setting not in TRAINED[system].decisive(config)
    changed = shipped("beauty_intrr.yaml", f"--sequence.{setting}={other}")
    assert TRAINED[system].decisive(changed)[setting] == other
    assert key(system, config) != key(system, changed)


def test_each_system_and_table_has_a_key_of_its_own() -> None:
    config = shipped("complete_journey_glass.yaml")
    other: Any = SimpleNamespace(**{**vars(TABLE), "codes": TABLE.codes[::-1]})
    every_module = dataclasses.replace(
        config, model=dataclasses.replace(config.model, use_sid_tier=False, use_hard_search=False)
    )
    assert key("glass", every_module) != key("tiger", every_module)
    assert key("glass", config) != training_key("glass", config, DATASET, other)
