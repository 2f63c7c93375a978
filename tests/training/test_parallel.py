"""Several processes train as one does: gloo, on this machine's CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchrun import torchrun
from toy import SMALL, random_dataset, toy_sids
from toy_parallel import DATASET, TRAIN, StoppedError, run_case

from glass import distributed
from glass.config import RunConfig, SequenceConfig
from glass.systems import TRAINED
from glass.training.checkpoint import load_checkpoint

SCRIPT = str(Path(__file__).parents[1] / "helpers" / "toy_parallel.py")
SYSTEMS = ("glass", "glass_intrr", "intrr_transformer")
CASES = [
    ("glass", 2, "ddp"),
    ("glass_intrr", 2, "ddp"),
    ("glass", 2, "fsdp2"),
    ("intrr_transformer", 2, "fsdp2"),
    ("glass", 3, "ddp"),  # the last batch of an epoch has a row for two of them
    ("intrr_transformer", 3, "ddp"),
]
Result = dict[str, Any]


def result(folder: Path) -> Result:
    content: Result = json.loads((folder / "result.json").read_text())
    content["weights"] = load_file(folder / "weights.safetensors")
    return content


def assert_alike(found: Result, truth: Result) -> None:
    """The same curves of loss, accuracy and validation, and the same weights."""
    assert found["steps"] == truth["steps"]
    assert len(found["history"]) == len(truth["history"]) > 10
    for row, true in zip(found["history"], truth["history"], strict=True):
        assert row == pytest.approx(true, rel=2e-4, abs=2e-5)
    assert found["best_step"] == truth["best_step"]
    for name, weight in truth["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=2e-3, atol=2e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of one process, this one."""
    found = {}
    for system in SYSTEMS:
        folder = tmp_path_factory.mktemp(system)
        run_case(folder, system, "ddp")
        found[system] = result(folder)
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], Result]:
    """Results of several; all cases of a number of processes are one job."""
    found = {}
    for count in (2, 3):
        cases = [case for case in CASES if case[1] == count]
        folders = [tmp_path_factory.mktemp("_".join(map(str, case))) for case in cases]
        given = [
            part
            for (system, _, mode), folder in zip(cases, folders, strict=True)
            for part in (str(folder), system, mode)
        ]
        done = torchrun(count, SCRIPT, *given)
        assert done.returncode == 0, done.stderr[-3000:]
        found |= dict(zip(cases, map(result, folders), strict=True))
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_curves_are_those_of_one_process(
    case: tuple[str, int, str], alone: dict[str, Result], together: dict[Any, Result]
) -> None:
    found, truth = together[case], alone[case[0]]
    assert_alike(found, truth)
    assert found["alike"]
    # Every sample is ranked, and ranked once.
    assert all(len(ranked) == found["rows"] for ranked in found["ranked"])
    for ranked, true in zip(found["ranked"], truth["ranked"], strict=True):
        same = np.mean(np.array(ranked) == np.array(true))
        assert same > 0.95  # two beams with scores apart by rounding may change places


def test_the_last_batch_has_fewer_rows_than_processes() -> None:
    rows = len(DATASET.samples("train"))
    assert 0 < rows % TRAIN.batch_size < 3


@pytest.mark.parametrize(
    ("before", "after", "mode"), [(2, 1, "ddp"), (1, 3, "ddp"), (2, 1, "fsdp2")]
)
def test_resumes_with_another_number_of_processes(
    before: int, after: int, mode: str, alone: dict[str, Result], tmp_path: Path
) -> None:
    case = (str(tmp_path), "glass", mode)
    if before == 1:
        with pytest.raises(StoppedError):
            run_case(tmp_path, *case[1:], steps=5)
    else:
        assert torchrun(before, SCRIPT, *case, "--steps", "5").returncode != 0
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 4
    if after == 1:
        run_case(tmp_path, *case[1:])
    else:
        done = torchrun(after, SCRIPT, *case)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_alike(result(tmp_path), alone["glass"])


def test_killed_process_ends_the_job_and_leaves_a_checkpoint(
    alone: dict[str, Result], tmp_path: Path
) -> None:
    case = (str(tmp_path), "glass", "ddp")
    killed = torchrun(2, SCRIPT, *case, "--die-at", "5")
    assert killed.returncode != 0
    assert "Signal 9 (SIGKILL)" in killed.stderr
    assert not (tmp_path / "result.json").exists()
    made_with = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["fingerprint"]
    state = load_checkpoint(tmp_path / "checkpoint.pt", made_with=made_with)
    assert state is not None
    assert state["step"] == 4
    run_case(tmp_path, "glass", "ddp")
    assert_alike(result(tmp_path), alone["glass"])


@pytest.mark.parametrize("system", list(TRAINED))
def test_terms_add_up_to_the_loss(system: str) -> None:
    kind = TRAINED[system]
    dataset = random_dataset(6, seed=2)
    small = SequenceConfig(
        d_model=16, num_layers=1, num_heads=2, head_dim=8, d_ff=32, max_items=6, uid_dim=8
    )
    config = RunConfig(model=SMALL, sequence=small)
    torch.manual_seed(0)
    model = kind.make(config, toy_sids(), dataset).train()
    rows = kind.training_rows(kind.settings(config), dataset)
    output = model(rows.collate(np.arange(5)))
    torch.testing.assert_close(
        output.loss, torch.stack([term.value for term in output.terms.values()]).sum()
    )
    assert all(float(torch.as_tensor(term.count)) > 0 for term in output.terms.values())
    assert int(torch.as_tensor(output.terms["rec"].count)) == int(output.present.sum())


@pytest.mark.parametrize("system", ["glass", "intrr_hstu"])
@pytest.mark.parametrize("training", [True, False])
def test_a_part_is_those_rows_of_the_batch(system: str, training: bool) -> None:
    dataset = random_dataset(8, seed=3)
    kind = TRAINED[system]
    config = RunConfig(model=SMALL, sequence=SequenceConfig(max_items=5))
    settings = kind.settings(config)
    collate = kind.training_rows(settings, dataset).collate
    if not training:
        collate = kind.collator(settings, dataset, dataset.samples("train"))
    rows = np.array([5, 1, 7, 3, 0, 6])

    def batch(part: np.ndarray | None) -> Any:
        rng = np.random.default_rng(4)
        return collate(rows, max_targets=1, rng=rng, part=part)

    whole, part = batch(None), np.array([1, 2, 5])
    mine = batch(part)
    assert mine.rows.tolist() == rows[part].tolist()
    if system == "glass":
        assert torch.equal(mine.targets, whole.targets[part])
        again = whole.part(torch.from_numpy(part))
        assert torch.equal(
            mine.short_items[mine.short_items >= 0], again.short_items[again.short_items >= 0]
        )
        assert torch.equal(mine.long_items, again.long_items)
        assert torch.equal(mine.long_offsets, again.long_offsets)
    else:
        kept = torch.isin(whole.owners, torch.from_numpy(part))
        assert torch.equal(mine.targets, whole.targets[kept])
        number = {int(old): new for new, old in enumerate(part)}
        assert mine.owners.tolist() == [number[int(o)] for o in whole.owners[kept]]
        plain = collate(rows[part])
        assert torch.equal(mine.items, plain.items)
        assert torch.equal(mine.states, plain.states)


def test_one_process_needs_no_job() -> None:
    assert (distributed.count(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert distributed.gathered(3) == [3]
    assert distributed.from_first("x") == "x"
    rows = np.arange(7).reshape(7, 1)
    assert np.array_equal(distributed.interleaved(distributed.own_part(rows)), rows)
    total = torch.tensor(2.0)
    assert distributed.summed(total) is total
