"""`glass run` from end to end, and every step as a command of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from safetensors.numpy import load_file

from glass.cli import main
from glass.cli_parser import make_parser, parse
from glass.pipeline import Run, reporting
from glass.pipeline.keys import stored_key

SYSTEMS = ["popularity", "own_frequency", "item_knn", "tiger", "glass"]


def state(folder: Path) -> dict[str, bytes]:
    """Content of every file that a repeated step must leave as it is."""
    changing = ("steps.json", "report.html", "config.yaml")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in changing)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def run_folder(finished: Path) -> Path:
    return finished.parent / "runs" / "tiny"


class TestRun:
    def test_leaves_everything(self, finished: Path, run_folder: Path) -> None:
        metrics = json.loads((run_folder / "metrics.json").read_text())
        assert list(metrics["systems"]) == SYSTEMS
        for system, values in metrics["systems"].items():
            assert 0 <= values["all"]["ndcg@10"] <= 1, system
        assert {"acc_1", "P_1", "invalid_rate"} <= set(metrics["systems"]["glass"]["generation"])
        # 24 users with four test events in two groups of two
        assert metrics["counts"]["targets"] == 96
        assert metrics["counts"]["samples"] == 48
        page = (run_folder / "report.html").read_text()
        assert "GLASS" in page
        assert "Thing 3" in page
        for system in ("tiger", "glass"):
            assert (run_folder / system / "model.safetensors").exists()
            assert (run_folder / system / "sid" / "sids.parquet").exists()
            assert (run_folder / "logs" / f"{system}.csv").exists()
        steps = [row["name"] for row in json.loads((run_folder / "steps.json").read_text())]
        assert steps[:4] == ["prepare data", "semantic IDs", "train tiger", "train glass"]
        assert steps[-1] == "report"

    def test_gathers_what_the_report_shows_once(
        self, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        calls, gather = [], reporting.report_input

        def counted(run: Run) -> Any:
            calls.append(run)
            return gather(run)

        monkeypatch.setattr(reporting, "report_input", counted)
        assert main(["run", str(finished)]) == 0
        assert "All targets" in capsys.readouterr().out
        assert len(calls) == 1

    def test_latest_points_to_it(self, run_folder: Path) -> None:
        latest = run_folder.parent / "latest"
        assert latest.is_symlink()
        assert latest.readlink() == Path("tiny")

    def test_config_reads_back_equal(self, finished: Path, run_folder: Path) -> None:
        given, _ = parse(make_parser("glass run", ""), str(finished), [])
        kept, _ = parse(make_parser("glass run", ""), str(run_folder), [])
        assert kept == given
        every = yaml.safe_load((run_folder / "config.yaml").read_text())
        assert every["train"]["weight_decay"] == 0.01  # defaults are written out as well

    def test_no_temporary_files_stay(self, finished: Path) -> None:
        assert not [path for path in finished.parent.rglob("*") if ".tmp" in path.name]

    def test_again_changes_nothing_and_trains_nothing(
        self, finished: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("worked again")

        for name in ("glass.pipeline.neural.train", "glass.pipeline.run.decode_samples"):
            monkeypatch.setattr(name, refuse)
        before = state(run_folder)
        assert main(["run", str(finished)]) == 0
        assert state(run_folder) == before


class TestStepsOfAFinishedRun:
    def test_data_prepare(self, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "prepare", str(finished)]) == 0
        assert capsys.readouterr().out == f"{finished.parent / 'data' / 'shop'}\n"

    def test_data_describe(self, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "describe", str(finished)]) == 0
        out = capsys.readouterr().out
        assert "24 users, 30 items, 864 events" in out
        assert "1 items without" in out  # the item without a name

    def test_sid_build_and_describe(
        self, finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (run_folder / "sid" / "sids.parquet").read_bytes()
        assert main(["sid", "build", str(finished)]) == 0
        assert "30 items, levels [4, 4, 4]" in capsys.readouterr().out
        assert main(["sid", "describe", str(run_folder)]) == 0
        out = capsys.readouterr().out
        assert "distinct SIDs of 30 items" in out
        assert (run_folder / "sid_health.png").read_bytes().startswith(b"\x89PNG")
        assert (run_folder / "sid" / "sids.parquet").read_bytes() == before

    def test_sid_tiers(
        self, finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = run_folder / "tiers.parquet"
        assert main(["sid", "tiers", str(finished)]) == 0
        out = capsys.readouterr().out
        assert re.fullmatch(rf"{path}: \d+ samples, 4 codes x 4 tiers\n", out)
        path.unlink()  # the run stays as it was for the other tests

    def test_train_and_evaluate(
        self, finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", str(finished), "--system", "glass"]) == 0
        assert capsys.readouterr().out == f"{run_folder / 'glass'}\n"
        assert main(["evaluate", str(run_folder.parent / "latest")]) == 0
        out = capsys.readouterr().out
        assert "96 targets" in out
        assert all(system in out for system in SYSTEMS)

    def test_train_of_a_system_that_is_not_trained(
        self, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", str(finished), "--system", "popularity"]) == 1
        assert "is not among the trained systems of this run (tiger, glass)" in (
            capsys.readouterr().err
        )

    def test_report(
        self, finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", str(finished)]) == 0
        assert capsys.readouterr().out == f"{run_folder / 'report.html'}\n"


class TestRecommend:
    def json(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
        assert main(["recommend", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_json(self, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = (str(run_folder), "--users", "u3", "u1", "--num-items", "4")
        found = self.json(capsys, *given)
        assert list(found) == ["u3", "u1"]
        for items in found.values():
            assert [item["rank"] for item in items] == [1, 2, 3, 4]
            scores = [item["score"] for item in items]
            assert scores == sorted(scores, reverse=True)
        alone = self.json(capsys, *given[:3], "--num-items", "4")["u3"]
        ids = [item["raw_item_id"] for item in found["u3"]]
        assert [item["raw_item_id"] for item in alone] == ids  # whoever else is asked for

    def test_exclude_seen(
        self, finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = self.json(
            capsys, str(run_folder), "--users", "u3", "--num-items", "30", "--exclude-seen"
        )["u3"]
        events = pl.read_csv(finished.parent / "events.csv")
        seen = set(events.filter(pl.col("user_id") == "u3")["item_id"])
        recommended = {item["raw_item_id"] for item in found}
        assert recommended
        assert not recommended & seen

    def test_text(self, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["recommend", str(run_folder), "--users", "u3", "--system", "tiger"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "User u3"
        assert len(lines) == 11

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--users", "nobody"], "user 'nobody' is not in data set 'shop'"),
            (["--users", "u1", "--system", "item_knn"], "it must be one of tiger, glass"),
            (["--users", "u1", "--num-items", "0"], "num_items is 0; it must be at least 1"),
            (["--users", "u1", "--num-item", "3"], "Did you mean --num-items?"),
        ],
    )
    def test_errors(
        self,
        arguments: list[str],
        message: str,
        run_folder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["recommend", str(run_folder), *arguments]) == 1
        assert message in capsys.readouterr().err


class TestNothingIsStale:
    """Steps over a copy of the finished run, with something changed."""

    @pytest.fixture
    def copy(self, finished: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(finished.parent, folder, symlinks=True)
        settings = (folder / "shop.yaml").read_text().replace(str(finished.parent), str(folder))
        (folder / "shop.yaml").write_text(settings)
        return folder

    def test_copied_run_is_up_to_date(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("glass.pipeline.neural.train", None)
        assert main(["train", str(copy / "shop.yaml")]) == 0
        assert main(["evaluate", str(copy / "shop.yaml")]) == 0
        assert "metrics: up to date" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "change",
        [
            "--train.seed=1",
            "--model.num_tiers=3",
            "--sid.seed=1",
            "--data.seed=1",
            "--eval.ks=[20]",
        ],
    )
    def test_evaluate_refuses_models_of_other_settings(
        self, change: str, copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (copy / "runs" / "tiny" / "config.yaml").read_text()
        assert main(["evaluate", str(copy / "shop.yaml"), change]) == 1
        assert "holds no model trained with the present settings" in capsys.readouterr().err
        assert (copy / "runs" / "tiny" / "config.yaml").read_text() == before

    def test_report_refuses_metrics_of_other_settings(
        self, copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", str(copy / "shop.yaml"), "--eval.bootstrap=30"]) == 1
        assert "metrics.json was made with other settings" in capsys.readouterr().err

    def test_evaluate_again_with_other_settings_of_its_own(self, copy: Path) -> None:
        folder = copy / "runs" / "tiny"
        before = json.loads((folder / "metrics.json").read_text())
        chosen = "--systems=[popularity,glass]"
        assert main(["evaluate", str(copy / "shop.yaml"), chosen]) == 0
        after = json.loads((folder / "metrics.json").read_text())
        assert list(after["systems"]) == ["popularity", "glass"]
        assert after["systems"]["glass"] == before["systems"]["glass"]
        assert not (folder / "report.html").exists()  # it showed the other metrics

    @pytest.mark.parametrize(
        ("version", "remade"),
        [
            ("glass.data.preparation.ALGORITHM_VERSION", ["data", "sid", "train", "metrics"]),
            ("glass.sid.builder.ALGORITHM_VERSION", ["sid"]),  # models are keyed by the codes
            ("glass.pipeline.keys.TRAINING_VERSION", ["train", "metrics"]),
            ("glass.pipeline.keys.EVALUATION_VERSION", ["metrics"]),
        ],
    )
    def test_another_version_of_an_algorithm_reuses_nothing_of_the_older(
        self, version: str, remade: list[str], copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = copy / "runs" / "tiny"
        paths = {
            "data": copy / "data" / "shop" / "manifest.json",
            "sid": folder / "sid" / "manifest.json",
            "train": folder / "tiger" / "trained.json",
            "metrics": folder / "metrics.json",
        }
        given = [str(copy / "shop.yaml"), "--systems=[popularity,tiger]"]
        assert main(["evaluate", *given]) == 0
        before = {step: stored_key(path) for step, path in paths.items()}
        monkeypatch.setattr(version, 1000)
        assert main(["run", *given]) == 0
        changed = [step for step, path in paths.items() if stored_key(path) != before[step]]
        assert changed == remade

    def test_recommend_refuses_a_model_of_other_data(
        self, copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["recommend", str(copy / "shop.yaml"), "--users=u1", "--data.seed=1"]) == 1
        assert "another version of data set 'shop'" in capsys.readouterr().err

    def test_settings_that_leave_the_weights_alone_train_nothing(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("glass.pipeline.neural.train", None)
        changes = ["--train.log_every=3", "--train.checkpoint_every=5", "--num_example_users=1"]
        assert main(["train", str(copy / "shop.yaml"), *changes]) == 0

    def test_changed_setting_trains_anew_and_back_again(self, copy: Path) -> None:
        weights = copy / "runs" / "tiny" / "tiger" / "model.safetensors"
        before = load_file(weights)
        given = ["train", str(copy / "shop.yaml"), "--system=tiger"]
        assert main([*given, "--train.seed=1"]) == 0
        changed = load_file(weights)
        assert any(not np.array_equal(changed[name], before[name]) for name in before)
        assert not (copy / "runs" / "tiny" / "metrics.json").exists()
        assert main(given) == 0
        again = load_file(weights)
        assert all(np.array_equal(again[name], before[name]) for name in before)


def test_steps_one_by_one_from_nothing(
    make_shop: Callable[..., Path], capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    config = make_shop()
    folder = config.parent / "runs" / "tiny"
    assert main(["evaluate", str(config)]) == 1
    assert "run `glass train`" in capsys.readouterr().err
    assert main(["report", str(config)]) == 1
    assert "run `glass evaluate`" in capsys.readouterr().err
    assert main(["recommend", str(config), "--users", "u1"]) == 1
    assert "run `glass train`" in capsys.readouterr().err
    assert main(["train", str(config)]) == 0  # prepares and builds what it needs
    assert main(["evaluate", str(config)]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads((finished.parent / "runs/tiny/metrics.json").read_text())
