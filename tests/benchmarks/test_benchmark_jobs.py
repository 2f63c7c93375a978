"""The benchmarks refuse to time what is wrong, and their opponents and inputs are right."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as command
from benchmarks import eager, sid_tier, sid_tier_embeddings, sid_tier_growth, sid_tier_update
from benchmarks.agreement import DiffersError
from benchmarks.contest import Contest
from benchmarks.histories import Batch, make_batch, make_edges, make_table, same_lengths
from benchmarks.machine import Floors, peak_extra_mib
from benchmarks.output import Row

FLOORS = Floors(copy_bytes=1e10, gemm_flops=1e11)


def table_contest(tiers: int = 5) -> Contest:
    """On the reference alone, so that it runs without the C++ library too."""
    contest = sid_tier.make_contest(sid_tier.Setup(users=3, codes=6, tiers=tiers, items=50), 2)
    return replace(contest, ours=contest.reference)


def test_lengths_have_the_same_sum_and_the_form_that_is_named() -> None:
    paper = [make_batch("paper", 40, 100, seed) for seed in range(3)]
    tail = make_batch("long tail", 256, 100, 0)
    assert {len(batch.ids) for batch in paper} == {40 * 900}
    assert all(int(batch.lengths.max()) == 1_000 for batch in paper)
    assert all(int(batch.lengths.min()) < 900 for batch in paper)
    assert int(tail.lengths.max()) == 10_000
    assert int(tail.lengths[::16].max()) == 0
    assert len(tail.ids) == int(tail.lengths.sum()) == 256 * 900


def test_padded_histories_hold_the_same_events() -> None:
    batch = Batch(torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]))
    assert batch.padded.tolist() == [[5, 6], [0, 0], [7, 0]]
    assert batch.users.tolist() == [0, 0, 2]
    assert batch.offsets.tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("form", ["bincount", "scatter_add", "index_add", "comparison"])
def test_plain_forms_are_the_reference(form: str) -> None:
    contest = table_contest()
    batch = Batch(torch.arange(30) % 50, torch.tensor([4, 0, 26]))
    forms = eager.table_forms(make_table(50, 6, 5), 5, waste=1.0)
    torch.testing.assert_close(forms[form](batch), contest.reference(batch))


def test_one_hot_form_is_the_reference() -> None:
    contest = table_contest()
    contest.check({"embedding_bag": contest.others["embedding_bag"]})
    assert eager.one_hot_form(torch.zeros(1 << 20, 128, dtype=torch.uint8), 4) is None


@pytest.mark.parametrize(
    "form", ["bincount", "scatter_add", "index_add", "comparison", "unique + bincount"]
)
def test_plain_forms_over_vectors_are_the_reference(form: str) -> None:
    setup = sid_tier_embeddings.Setup(tiers=5, items=50, users=3, dim=8, codes=6)
    contest = sid_tier_embeddings.make_contest(setup, compiled=False)
    batches = [same_lengths(3, 40, 50, 0)]
    contest = replace(contest, batches=batches, ours=contest.reference)
    contest.check({form: contest.plain[form]})


def wrong(batch: Batch) -> Tensor:
    counts = torch.zeros(len(batch.lengths), 6, 5)
    counts[..., 0] = 1.0
    return counts


def test_a_wrong_result_of_ours_is_not_timed() -> None:
    with pytest.raises(DiffersError, match="ours differs from the reference"):
        replace(table_contest(), ours=wrong).run(seconds=0.0)


def test_one_event_in_the_next_tier_is_seen() -> None:
    contest = table_contest()

    def almost(batch: Batch) -> Tensor:
        shares = contest.reference(batch)
        one = 1.0 / float(batch.lengths[0])
        shares[0, 0, 0] += one
        shares[0, 0, 1] -= one
        return shares

    with pytest.raises(DiffersError, match="eager almost: 1 of"):
        replace(contest, plain={"almost": almost}, others={}).run(seconds=0.0)


def test_not_a_number_is_seen() -> None:
    contest = table_contest()
    broken = {"broken": lambda batch: contest.reference(batch) * float("nan")}
    with pytest.raises(DiffersError, match="broken"):
        replace(contest, plain={}, others=broken).run(seconds=0.0)


def test_columns_of_a_contest() -> None:
    row = table_contest().run(seconds=0.0, least=2)
    assert row["eager form"] in ("bincount", "scatter_add", "index_add", "comparison")
    for name in (
        "ours ms",
        "ours ms q1",
        "eager ms, pages kept",
        "eager / ours",
        "index_select ms",
    ):
        assert isinstance(row[name], float)
        assert row[name] > 0


def test_a_job_that_fails_prints_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def wrong_job(quick: bool, floors: Floors) -> list[Row]:
        raise DiffersError("ours differs from the reference")

    right = command.Job(lambda quick, floors: [{"ours ms": 1.5}], lambda rows, path: None, "right")
    jobs = {"wrong": command.Job(wrong_job, lambda rows, path: None, "wrong"), "right": right}
    monkeypatch.setattr(command, "JOBS", jobs)
    monkeypatch.setattr(command, "measure_floors", lambda rounds: FLOORS)
    assert command.main(["wrong", "--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "ours differs from the reference" in captured.err
    assert "ms" not in captured.out
    assert not list(tmp_path.iterdir())
    assert command.main(["right", "--threads", "1", "--output", str(tmp_path)]) == 0
    with (tmp_path / "right.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["ours ms"] == "1.5"
    assert line["torch"] == torch.__version__
    assert "cores" in line["machine"]
    assert line["threads"] == "1"


def test_list_names_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(command.JOBS)
    with pytest.raises(SystemExit):
        command.main(["sid_teir"])


def test_update_is_compared_with_a_recount() -> None:
    setup = sid_tier_update.Setup(users=4, tiers=5, events=4096)
    table = make_table(50, 6, 5)
    stream = sid_tier_update.make_stream(setup)
    stream = replace(
        stream,
        items=stream.items[:2] % 50,
        users=stream.users[:2],
        counts=torch.zeros(4, 6, 5).int(),
    )
    sides = sid_tier_update.sides_of(table)
    sid_tier_update.check(stream, table, sides)
    sides["add"] = sides["eager remove"]
    with pytest.raises(DiffersError, match="add"):
        sid_tier_update.check(stream, table, sides)


def test_growth_is_drawn_without_every_side(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"path": path, "sweep": "L", "L": length, "threads": 1, "ours ms": 1.0, "floor ms": 0.5}
        for path in ("table", "embeddings")
        for length in (10, 100)
    ]
    sid_tier_growth.plot(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 0


def test_floor_is_that_of_the_contract() -> None:
    assert sid_tier.floor_bytes(events=10, users=2, codes=8, tiers=4) == 10 * 12 + 4 * 2 * 8 * 4
    setup = sid_tier_embeddings.Setup(tiers=4)
    assert sid_tier_embeddings.floor_of(FLOORS, setup, 1_000) == pytest.approx(
        1e3 * 2 * 1_000 * 128 * 128 / FLOORS.gemm_flops
    )


def test_peak_memory_sees_what_is_freed() -> None:
    if peak_extra_mib(lambda: None) is None:
        pytest.skip("Linux only")
    peak = peak_extra_mib(lambda: torch.ones(64 << 20, dtype=torch.uint8).max())
    assert peak is not None
    assert 60 < peak < 120


def test_edges_of_the_paper() -> None:
    assert make_edges(4).tolist() == pytest.approx([-1.0, -0.1, 0.0, 0.1, 1.0])
    assert len(make_edges(20)) == 21
