"""A `Recommender` of a folder that `glass train` wrote, and the command on top of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from glass import Recommender
from glass.cli import main
from glass.data import Dataset


@pytest.fixture
def folder(finished: Path) -> Path:
    return finished.parent / "runs" / "tiny"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["recommend", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("system", ["glass", "tiger"])
def test_the_folder_alone_answers_as_the_command(
    finished: Path, folder: Path, system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    users = ["u3", "u1", "u7"]
    given = (str(folder), "--users", *users, "--system", system, "--num-items", "5")
    expected = told(capsys, *given)
    events = pl.read_parquet(finished.parent / "data" / "shop" / "interactions.parquet")
    dataset = Dataset.load(finished.parent / "data" / "shop")
    recommender = Recommender.load(folder / system)
    for row, user in enumerate(dataset.user_table["raw_user_id"]):  # from the events as they came
        own = events.filter(pl.col("user_id") == row)
        raw = dataset.item_table["raw_item_id"][own["item_id"].to_list()].to_list()
        recommender.observe(user, raw, own["time"].to_list())
    whole = Recommender.load(str(folder / system))
    whole.observe_dataset(dataset)
    assert whole.num_users == recommender.num_users == dataset.num_users
    for found in (recommender.recommend(users, 5), whole.recommend(users, 5)):
        for user, listed in zip(users, found, strict=True):
            shown = expected[user]
            assert [item.raw_item_id for item in listed] == [i["raw_item_id"] for i in shown]
            assert [item.title for item in listed] == [item["title"] for item in shown]
            scores = [item["score"] for item in shown]
            assert [item.score for item in listed] == pytest.approx(scores, abs=1e-5)
    with pytest.raises(ValueError, match="user 'u0' has events already"):
        whole.observe_dataset(dataset, [0])


def test_a_folder_of_an_older_version_gets_its_items(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.parent, copy, symlinks=True)
    config = copy / "shop.yaml"
    config.write_text(config.read_text().replace(str(finished.parent), str(copy)))
    folder = copy / "runs" / "tiny" / "glass"
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "items.parquet").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"items.parquet cannot be read .* run `glass train`"):
        Recommender.load(folder)
    (folder / "items.parquet").unlink()
    with pytest.raises(ValueError, match=r"holds a model but no items.parquet; run `glass train`"):
        Recommender.load(folder)
    assert main(["train", str(config)]) == 0
    assert Recommender.load(folder).recommend(["somebody"], 3)[0]
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(ValueError, match="holds no trained model; run `glass train`"):
        Recommender.load(tmp_path)


def test_filters_of_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [i["raw_item_id"] for i in told(capsys, str(folder), "--users", "u2")["u2"]]
    file = tmp_path / "items.txt"
    file.write_text("\n".join(whole[::2]) + "\n\n")
    given = (str(folder), "--users", "u2", "--num-items", "10")
    some = [i["raw_item_id"] for i in told(capsys, *given, "--allow", str(file))["u2"]]
    assert some == whole[::2]
    rest = [i["raw_item_id"] for i in told(capsys, *given, "--exclude", str(file))["u2"]]
    assert len(rest) == 10  # the next ones take their places
    assert [item for item in rest if item in whole] == whole[1::2]
    listed = told(capsys, *given, "--max-per-sid1", "1")["u2"]
    assert len({tuple(i["sid"]) for i in listed}) == len({i["sid"][0] for i in listed})


@pytest.mark.parametrize(
    ("content", "option", "message"),
    [
        ("i1\nnothing\n", "--allow", "allowed holds 1 that the model does not know: 'nothing'"),
        (None, "--exclude", "--exclude .*no.txt cannot be read .* one raw item id a line"),
    ],
)
def test_mistakes_in_the_files_of_the_command(
    content: str | None,
    option: str,
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "no.txt"
    if content is not None:
        path.write_text(content)
    assert main(["recommend", str(folder), "--users", "u2", option, str(path)]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error)


def test_the_page_runs(
    finished: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shop").symlink_to(folder)
    (tmp_path / "data").symlink_to(finished.parent / "data")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "serving.md"
    scope: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, "serving.md", "exec"), scope)
    assert len(scope["anna"]) == len(scope["somebody"]) == 5
    offered = set(scope["offered"])
    for listed in scope["lists"]:
        assert 0 < len(listed) <= 10
        assert {item.raw_item_id for item in listed} < offered
