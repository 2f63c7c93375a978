"""Wording of the headline, numbers as text, and the terminal summary."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glass.report import ExampleUser, ReportInput, ShownItem, print_summary, summary_text
from glass.report.tables import cutoff_metrics, difference_table, metric_table
from glass.report.tables_data import data_facts, step_table
from glass.report.text import (
    clean,
    decimal,
    duration,
    floats,
    interval,
    key_label,
    memory,
    metric_label,
    ordered_systems,
    percent,
    signed,
)
from glass.report.verdict import compare, main_system, verdict


def metrics(differences: dict[str, Any] | None = None, **scores: float) -> dict[str, Any]:
    systems = {name: {"all": {"ndcg@10": value}} for name, value in scores.items()}
    return {"systems": systems, "differences": differences or {}}


@pytest.mark.parametrize(
    ("stored", "tone", "told"),
    [
        ([0.01, 0.004, 0.016], "good", "GLASS beats TIGER by +0.0100 NDCG@10 (95 % CI +0.0040 to"),
        (
            [-0.01, -0.016, -0.004],
            "bad",
            "GLASS loses to TIGER by 0.0100 NDCG@10 (95 % CI \u22120.0160",
        ),
        ([0.01, -0.004, 0.024], "mixed", "GLASS and TIGER cannot be told apart on NDCG@10"),
        ([0.01, 0.0, 0.02], "mixed", "cannot be told apart"),
    ],
)
def test_win_loss_and_tie(stored: list[float], tone: str, told: str) -> None:
    said = verdict(
        metrics({"glass - tiger": {"ndcg@10": stored}}, tiger=0.1, glass=0.1 + stored[0])
    )
    assert said.tone == tone
    assert told in said.headline
    assert said.headline.count("10.0 %") == 1


def test_strongest_baseline_is_named_and_can_spoil_the_verdict() -> None:
    differences = {
        "glass - tiger": {"ndcg@10": [0.02, 0.01, 0.03]},
        "glass - own_frequency": {"ndcg@10": [-0.02, -0.03, -0.01]},
    }
    said = verdict(metrics(differences, popularity=0.04, own_frequency=0.14, tiger=0.1, glass=0.12))
    assert said.tone == "mixed"
    assert said.headline.startswith("GLASS beats TIGER")
    assert said.details[0].startswith(
        "GLASS loses to Own frequency (the strongest baseline) by 0.0200"
    )
    assert "do not cover the choice of seed" in said.details[-1]


def test_mirrored_difference_is_turned_round() -> None:
    data = metrics({"tiger - glass": {"ndcg@10": [-0.02, -0.03, -0.01]}}, tiger=0.1, glass=0.12)
    found = compare(data, "glass", "tiger", "ndcg@10")
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, 0.01, 0.03))
    assert found.relative == pytest.approx(0.2)
    assert found.outcome == "win"


def test_without_an_interval_nothing_is_claimed() -> None:
    said = verdict(metrics(tiger=0.1, glass=0.12))
    assert said.tone == "mixed"
    assert said.headline == (
        "GLASS scores 0.0200 NDCG@10 above TIGER; no confidence interval was computed, "
        "so this may be chance."
    )
    assert said.details == ()


def test_runs_without_glass_or_without_rivals() -> None:
    assert verdict({}).headline == "No metrics are available for this run."
    assert "there is no other system" in verdict(metrics(glass=0.1)).headline
    assert verdict(metrics(tiger=0.1, popularity=0.05)).headline.startswith("TIGER scores 0.0500")
    assert verdict(metrics(glass=float("nan"), tiger=0.1, popularity=0.05)).headline.startswith(
        "TIGER"
    )


def test_equal_scores_are_not_all_best() -> None:
    table = metric_table(metrics(tiger=0.1, glass=0.1), "sid")
    assert table is not None
    assert not any(cell.best for row in table.rows for cell in row)
    # Equal as printed, so equally bold.
    table = metric_table(metrics(popularity=0.05, tiger=0.10001, glass=0.10004), "sid")
    assert table is not None
    assert [row[1].best for row in table.rows] == [False, True, True]


def test_cutoffs_are_in_order_and_levels_apart() -> None:
    names = ("ndcg@20", "hit@10", "hit@1", "ndcg@1", "ndcg@3", "mrr", "hit@x")
    item_names = ("item_hit@5", "split_item_ndcg@5", "split_item_hit@20")
    data = {"systems": {"glass": {"all": dict.fromkeys(names + item_names, 0.1)}}}
    assert cutoff_metrics(data, "sid") == ["hit@1", "hit@10", "ndcg@3", "ndcg@20"]
    assert cutoff_metrics(data, "item") == ["item_hit@5"]
    assert cutoff_metrics(data, "split_item") == ["split_item_hit@20", "split_item_ndcg@5"]
    table = metric_table(data, "split_item")
    assert table is not None
    assert table.caption == "All targets, item level, credit split"
    assert table.head == ("System", "Hit@20", "NDCG@5")


def test_names_of_metrics() -> None:
    assert metric_label("ndcg@10") == "NDCG@10"
    assert metric_label("item_hit@5") == "Hit@5 (item)"
    assert metric_label("split_item_hit@5") == "Hit@5 (item, split)"


def test_difference_table_row() -> None:
    data = metrics({"glass - tiger": {"ndcg@10": [-0.02, -0.03, -0.01]}}, tiger=0.1, glass=0.08)
    found = compare(data, "glass", "tiger", "ndcg@10")
    assert found is not None
    table = difference_table([found], "Differences")
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == [
        "GLASS \u2212 TIGER",
        "\u22120.0200",
        "worse",
        "\u22120.0300 to \u22120.0100",
        "\u221220.0 %",
    ]
    assert table.rows[0][2].tone == "bad"


def test_steps_add_up() -> None:
    table = step_table([("a", 30.0, 500.0), ("b", 90.0, None)])
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "30.0 s", "25.0 %", "500 MB"],
        ["b", "1 min 30 s", "75.0 %", "\u2013"],
        ["Total", "2 min 00 s", "100.0 %", "500 MB"],
    ]


def test_period_of_the_data() -> None:
    card = {"users": 3, "first_time": 1483228800, "last_time": 1514764799, "time_unit": "seconds"}
    assert dict(data_facts(card)[0][1])["Period"] == "2017-01-01 to 2017-12-31"
    facts = data_facts(card | {"time_unit": "ordinal"})
    assert "Period" not in dict(facts[0][1])


def test_period_that_starts_at_the_epoch() -> None:
    card = {"first_time": 0, "last_time": 86400, "time_unit": "seconds"}
    assert dict(data_facts(card)[0][1])["Period"] == "1970-01-01 to 1970-01-02"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (duration(59.96), "1 min 00 s"),
        (duration(3599.7), "1 h 00 min"),
        (duration(4.24), "4.2 s"),
        (memory(999.6), "1.0 GB"),
        (decimal(-0.5, 1), "\u22120.5"),
        (decimal(None), "\u2013"),
        (decimal(float("inf")), "\u2013"),
        (signed(0.25, 2), "+0.25"),
        (percent(0.123), "12.3 %"),
        (interval([0.1, 0.25]), ".1000\u2013.2500"),
        (interval([-0.1, 10.25]), "\u2212.1000\u201310.2500"),
        (interval([None, 1]), ""),
        (key_label("test_targets_outside"), "Test targets outside"),
        (key_label("num_sids"), "Num SIDs"),
        (clean("  a\t\nb  "), "a b"),
        (clean("x" * 10, 5), "xxxx…"),
    ],
)
def test_numbers_and_words(text: str, wanted: str) -> None:
    assert text == wanted


def test_floats_keeps_holes() -> None:
    assert np.array_equal(floats([1, None, "x", 2.5]), [1, np.nan, np.nan, 2.5], equal_nan=True)
    assert floats(None).size == 0


def test_systems_are_ordered_from_simple_to_ours() -> None:
    names = dict.fromkeys(["glass", "dualgr", "tiger", "popularity", "item_knn"])
    assert ordered_systems(names) == ["popularity", "item_knn", "dualgr", "tiger", "glass"]


def run_input(**changes: Any) -> ReportInput:
    data = metrics({"glass - tiger": {"ndcg@10": [0.02, 0.01, 0.03]}}, tiger=0.1, glass=0.12)
    data["systems"]["glass"]["ci"] = {"ndcg@10": [0.11, 0.13]}
    users = [
        ExampleUser(
            f"u{i}",
            1234,
            [ShownItem("BANANAS")],
            recommendations={"glass": [ShownItem("EGGS \x1b[2J 蛋", hit=True, repeat=True)]},
            targets=[ShownItem("EGGS")],
        )
        for i in range(5)
    ]
    values: dict[str, Any] = {"name": "x", "folder": Path("x"), "metrics": data, "examples": users}
    return ReportInput(**(values | changes))


def test_summary_has_verdict_table_users_and_paths() -> None:
    text = summary_text(run_input(), report=Path("runs/x/report.html"), metrics=Path("m.json"))
    lines = text.splitlines()
    assert lines[0].startswith("GLASS beats TIGER")
    assert [line for line in lines if line.startswith("User ")] == [
        f"User u{i}: 1,234 events in the history" for i in range(3)
    ]
    assert "     1 +r EGGS [2J 蛋" in lines
    assert lines[-2:] == ["Report:  runs/x/report.html", "Metrics: m.json"]
    assert "\x1b" not in text


def test_summary_table_is_aligned() -> None:
    lines = summary_text(run_input(examples=[])).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("System"))
    assert lines[start + 2 : start + 5] == [
        "TIGER         0.1000",
        "GLASS         0.1200*",
        "        [.1100\u2013.1300]",
    ]


def test_terminal_that_knows_only_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_summary(run_input(), file=stream)
    assert b"EGGS [2J ?" in raw.getvalue()


def test_summary_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="num_examples is -1"):
        summary_text(run_input(), num_examples=-1)


def test_summary_of_an_empty_run() -> None:
    assert summary_text(ReportInput("x", Path("x"))) == "No metrics are available for this run.\n"


def test_intrr_is_set_against_its_own_baseline_on_each_backbone() -> None:
    differences = {
        "intrr_transformer - flattened_transformer": {"ndcg@10": [0.02, 0.01, 0.03]},
        "intrr_hstu - flattened_hstu": {"ndcg@10": [-0.01, -0.02, -0.004]},
        "intrr_transformer - popularity": {"ndcg@10": [0.06, 0.05, 0.07]},
    }
    scores = {
        "popularity": 0.04,
        "flattened_hstu": 0.12,  # the best of all, and yet not what the run is about
        "intrr_hstu": 0.11,
        "flattened_transformer": 0.08,
        "intrr_transformer": 0.10,
    }
    data = metrics(differences, **scores)
    assert main_system(data, "ndcg@10") == "intrr_transformer"
    said = verdict(data)
    assert said.tone == "mixed"
    assert said.headline.startswith("IntRR (Transformer) beats Flattened (Transformer) by +0.0200")
    assert said.details[0].startswith(
        "IntRR (Transformer) beats Popularity (the strongest baseline) by +0.0600"
    )
    assert said.details[1].startswith("IntRR (HSTU) loses to Flattened (HSTU) by 0.0100")


def test_glass_comes_first_in_a_run_with_both() -> None:
    data = metrics(None, tiger=0.1, glass=0.09, intrr_hstu=0.2, flattened_hstu=0.1)
    assert main_system(data, "ndcg@10") == "glass"
    headlines = (verdict(data).headline, *verdict(data).details)
    assert headlines[0].startswith("GLASS scores 0.0100 NDCG@10 below TIGER")
    assert headlines[1].startswith("IntRR (HSTU) scores 0.1000 NDCG@10 above Flattened (HSTU)")


def test_without_a_paper_of_its_own_the_strongest_system_leads() -> None:
    assert main_system(metrics(None, tiger=0.1, item_knn=0.2), "ndcg@10") == "item_knn"
