"""The page: safe against hostile text, self-contained, whole, and tolerant of missing parts."""

from __future__ import annotations

import dataclasses
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glass.report import (
    ExampleUser,
    ReportInput,
    ShownBucket,
    ShownItem,
    render,
    sid_health_facts,
    write_report,
)
from glass.report.html import SECTIONS
from glass.sid.health import LevelHealth, SidHealth

# Names are cut to 40 characters: the quote and the tag come first.
HOSTILE = "\"'></td><script>alert('x')</script>"
HOSTILE += "<img src=http://evil.example/a onerror=x>&{{7*7}}"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting and gathers tags, attributes, ids and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def metrics() -> dict[str, Any]:
    def scores(value: float) -> dict[str, float]:
        return {
            "hit@1": value / 2,
            "hit@10": 2 * value,
            "ndcg@10": value,
            "item_ndcg@10": value / 3,
        }

    systems = {
        name: {
            "all": scores(value),
            "repeat": scores(2 * value),
            "first_time": scores(value / 4),
            "ci": {"ndcg@10": [value - 0.01, value + 0.01]},
            "generation": {"acc_1": 0.25, "crp_2": crp, "crp_3": 0.25} if crp else {},
        }
        for name, value, crp in (
            ("own_frequency", 0.10, 0.0),
            ("tiger", 0.11, 1.5),
            ("glass", 0.125, 1.0),
        )
    }
    differences = {
        "glass - tiger": {"ndcg@10": [0.015, 0.005, 0.025], "hit@1": [0.01, -0.01, 0.03]},
        "glass - own_frequency": {"ndcg@10": [0.025, 0.015, 0.035]},
    }
    counts = {"samples": 40, "targets": 90, "repeat": 50, "first_time": 40}
    return {
        "format_version": 1,
        "systems": systems,
        "differences": differences,
        "counts": counts,
    }


def full_input(folder: Path, **changes: Any) -> ReportInput:
    log = [{"step": i, "epoch": i / 2, "loss": 5 - i / 10} for i in range(1, 9)]
    log[3]["valid_ndcg@20"], log[7]["valid_ndcg@20"] = 0.0625, 0.05
    values: dict[str, Any] = {
        "name": "run one",
        "folder": folder,
        "metrics": metrics(),
        "data_card": {
            "name": "groceries",
            "users": 2464,
            "items": 13343,
            "events": 1264110,
            "splits": {
                "test": {"events": 25390, "repeat_share": 0.5, "history_length": {"p50": 349}}
            },
            "malformed": {
                "items": {
                    "rows": 20,
                    "count": 2,
                    "reasons": {"no item": 2},
                    "first": [{"file": "i.csv", "row": 7, "reason": "no item"}],
                }
            },
            "sources": [{"file": "transactions.parquet", "sha256": "76623b3d04ca2dca"}],
            "licence": "see https://example.org/terms",
        },
        "sid_health": {
            "num_sids": 10432,
            "levels": [
                {"size": 4, "used": 3, "dead": 1, "perplexity": 2.5, "counts": [5, 3, 1, 0]}
            ],
            "bucket_sizes": {"target's bucket": [0, 1, 2, 3, 9]},
            "relative_error": [0.375],
        },
        "tier_occupancy": [0.25, 0.5, 0.25],
        "tier_edges": [-1.0, -0.1, 0.1, 1.0],
        "training_logs": {"glass": log},
        "gates": {
            "glass": {"length": [0, 1, 2, 3], "mean_gate": [0, 0.2, 0.3, 0.4], "count": [9] * 4}
        },
        "by_history": {
            "bins": ["1-49", "50+"],
            "count": [30, 60],
            "metric": "ndcg@10",
            "systems": {"tiger": [0.1, 0.2], "glass": [0.15, 0.3]},
            "ci": {"glass": [[0.1, 0.2], [0.2, 0.4]]},
        },
        "examples": [
            ExampleUser(
                user="u7",
                history_length=512,
                history=[ShownItem("WHITE BREAD, 20 OZ"), ShownItem("BANANAS")],
                buckets=[ShownBucket(17, 42, ("FLUID MILK",))],
                recommendations={"glass": [ShownItem("EGGS", (1, 2, 3), repeat=True, hit=True)]},
                targets=[ShownItem("EGGS", repeat=True, hit=True), ShownItem("AVOCADO")],
            )
        ],
        "steps": [("Prepare data", 21.4, 2210.0), ("Train GLASS", 2605.0, None)],
        "config_yaml": "name: run one\nmodel:\n  d_model: 96\n",
        "environment": {"command": "glass run x.yaml", "torch": "2.13.0"},
        "created": "2026-02-03",
    }
    return ReportInput(**(values | changes))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The full page; drawing its figures takes most of the time."""
    return render(full_input(tmp_path_factory.mktemp("run")))


def test_every_section_is_there_and_linked(html: str) -> None:
    page = Page(html)
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sorted(ids) == sorted(name for name, _ in SECTIONS)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{name}" for name, _ in SECTIONS]
    assert page.open == []
    assert not any("not available" in text.lower() for text in page.text)


def test_content_of_each_section(html: str) -> None:
    text = " ".join(" ".join(Page(html).text).split())
    for told in (
        "GLASS beats TIGER by +0.0150 NDCG@10 (95 % CI +0.0050 to +0.0250, +13.6 %).",
        "GLASS also beats Own frequency (the strongest baseline) by +0.0250",
        "2,464 users",
        "76623b3d04ca2dca",
        "see https://example.org/terms",
        "2 of 20 rows; no item 2; i.csv:7 no item",
        "sid_1 4 3 75.0 % 1 2.5 62.5 % 0.375",
        "User u7 512 events",
        "17 42 FLUID MILK",
        "43 min 46 s",
        "2.2 GB",
        "glass run x.yaml",
        "d_model: 96",
        "GLASS: the mean gate rises",
    ):
        assert told in text


def test_all_ids_are_unique_and_all_references_resolve(html: str) -> None:
    ids = [attrs["id"] for _, attrs in Page(html).tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"""(?:href="#|url\(#|labelledby=")([^")]+)""", html))
    assert used
    assert used <= set(ids)


def assert_fetches_nothing(html: str) -> None:
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attrs.get(name) or "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    assert not re.search(r"@import|url\((?!#)", html)


def test_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    assert_fetches_nothing(html)
    assert "default-src 'none'" in html
    # Not even a namespace is left of matplotlib's addresses; the licence is text of the data card.
    assert re.findall(r"https?:[^<]*", html) == ["https://example.org/terms"]


def test_hostile_text_is_escaped_everywhere(tmp_path: Path) -> None:
    item = ShownItem(HOSTILE)
    user = ExampleUser(
        HOSTILE, 3, [item], [ShownBucket(1, 2, (HOSTILE,))], {HOSTILE: [item]}, [item]
    )
    data = metrics()
    data["systems"][HOSTILE] = data["systems"]["glass"]
    data["differences"][f"{HOSTILE} - tiger"] = {"ndcg@10": [0.1, 0.0, 0.2]}
    run = full_input(
        tmp_path,
        name=HOSTILE,
        metrics=data,
        data_card={
            "name": HOSTILE,
            HOSTILE: HOSTILE,
            "licence": HOSTILE,
            "sources": [{"file": HOSTILE, "sha256": HOSTILE}],
            "malformed": {HOSTILE: {"count": 1, "rows": 2, "first": [HOSTILE]}},
        },
        sid_health={HOSTILE: [HOSTILE], "bucket_sizes": {HOSTILE: [1, 2]}},
        training_logs={HOSTILE: [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]},
        gates={HOSTILE: {"length": [1, 2, 3], "mean_gate": [0.1, 0.2, 0.3], "count": [1, 1, 1]}},
        by_history={"bins": [HOSTILE], "systems": {HOSTILE: [0.1]}},
        examples=[user],
        steps=[(HOSTILE, 1.0, 1.0)],
        config_yaml=HOSTILE,
        environment={HOSTILE: HOSTILE},
        created=HOSTILE,
    )
    html = render(run)
    assert_fetches_nothing(html)
    page = Page(html)
    assert page.open == []
    assert "&lt;script&gt;alert" in html
    # Escaped and not evaluated: the text is there as it was.
    assert HOSTILE in "".join(page.text)


def test_sid_health_of_the_sid_package(tmp_path: Path) -> None:
    health = SidHealth(
        num_items=9,
        num_sids=8,
        colliding_items=2,
        largest_sid=2,
        levels=(LevelHealth(np.array([5, 3, 1, 0])),),
        target_buckets=np.array([0, 4, 4]),
        bucket_histogram=np.array([0, 2, 0, 1]),
    )
    facts = sid_health_facts(health)
    assert facts["bucket_sizes"]["all non-empty"].tolist() == [1, 1, 3]
    html = render(ReportInput("run", tmp_path, sid_health=facts))
    assert "target's bucket (median 4)" in html
    text = " ".join(" ".join(Page(html).text).split())
    assert "sid_1 4 3 75.0 % 1" in text
    assert "Num SIDs 8" in text


def test_steering_characters_are_removed(tmp_path: Path) -> None:
    title = "AB\x1b[31m\u202eevil\x00\ud800\ntail"
    user = ExampleUser("u", 1, [ShownItem(title)])
    run = ReportInput("run", tmp_path, examples=[user], config_yaml="a: \ud800")
    html = write_report(run).read_text(encoding="utf-8")
    assert "AB[31mevil tail" in html
    assert not set("\x1b\x00\u202e") & set(html)


def test_empty_input_says_not_available(tmp_path: Path) -> None:
    page = Page(render(ReportInput("empty", tmp_path)))
    text = " ".join(page.text)
    assert page.open == []
    assert "No metrics are available for this run." in text
    assert len(re.findall("not available", text, flags=re.I)) >= 15
    assert sum(tag == "section" for tag, _ in page.tags) == len(SECTIONS)


@pytest.mark.parametrize(
    "field",
    [f.name for f in dataclasses.fields(ReportInput) if f.name not in ("name", "folder")],
)
def test_each_part_is_enough_alone(tmp_path: Path, field: str) -> None:
    values = {field: getattr(full_input(tmp_path), field)}
    if field == "tier_edges":
        values["tier_occupancy"] = [0.25, 0.5, 0.25]
    page = Page(render(ReportInput("run", tmp_path, **values)))
    assert page.open == []
    assert sum(tag == "section" for tag, _ in page.tags) == len(SECTIONS)


@pytest.mark.parametrize("part", ["all", "repeat", "first_time", "ci", "generation"])
@pytest.mark.parametrize("value", [None, {"ndcg@10": None, "crp_2": float("nan")}])
def test_holes_in_the_metrics_are_dashes(tmp_path: Path, part: str, value: Any) -> None:
    data = metrics()
    data["systems"]["glass"][part] = value
    data["differences"] = {"glass - tiger": {"ndcg@10": [None, None, None]}}
    html = render(ReportInput("holes", tmp_path, metrics=data))
    assert Page(html).open == []
    assert not re.search(r">[^<]*\bnan\b|>None<", html)


def test_best_of_a_column_is_bold(html: str) -> None:
    assert "<b>0.1250</b>" in html
    assert "<b>0.1100</b>" not in html


def test_report_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ReportInput("one", tmp_path / "runs" / "one")
    path = write_report(run)
    assert path == tmp_path / "runs" / "one" / "report.html"
    before = path.read_bytes()

    def broken(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="No space left"):
        write_report(dataclasses.replace(run, name="other"))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_same_input_gives_the_same_page(html: str, tmp_path: Path) -> None:
    assert render(full_input(tmp_path)) == html


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("")
    with pytest.raises(ValueError, match="folder is a file"):
        write_report(ReportInput("x", file))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("metrics", [1], "metrics must be a mapping"),
        ("metrics", {"systems": {"glass": 3}}, "metrics of 'glass'"),
        ("training_logs", {"glass": [1]}, "training_logs"),
        ("gates", {"glass": {"length": [1], "mean_gate": [1, 2]}}, "different lengths"),
        ("by_history", {"bins": ["a"], "systems": {"glass": [1, 2]}}, "2 values for 1 bins"),
        ("tier_edges", [0.0], "tier_edges has 1 values for 3 tiers"),
        ("steps", [("a", 1.0)], "steps must be"),
        ("examples", ["x"], "examples must be"),
        ("sid_health", {"levels": [4]}, "sid_health"),
    ],
)
def test_malformed_input_is_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        full_input(tmp_path, **{field: value})


def test_items_that_moved_have_a_section_of_their_own(tmp_path: Path) -> None:
    example = {
        "items": [3, 5],
        "titles": [HOSTILE, "Rouge"],
        "codes": [[0, 1], [0, 1]],
        "assigned": [[0, 1], [2, 1]],
        "levels": [
            {"codes": [0, 2], "shares": [[0.75, 0.25], [0.125, 0.5]]},
            {"codes": [1], "shares": [[0.5], [1.0]]},
        ],
    }
    moved = {
        "intrr_hstu": {
            "moved": [0.25, 0.5],
            "moved_events": [0.125, 0.375],
            "moved_any": 0.625,
            "pairs": {"levels": 1, "count": 9, "distance": [0.3125], "random": [0.875]},
            "example": example,
        },
        "intrr_transformer": {"moved": [0.0, 1.0]},
    }
    page = Page(render(ReportInput("x", tmp_path, redistribution=moved)))
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert [f"#{name}" for name in ids] == links
    assert len(ids) == len(SECTIONS) + 1
    assert page.open == []
    text = " ".join(" ".join(page.text).split())
    assert "IntRR (HSTU) 25.0 % 12.5 % of events 50.0 % 37.5 % of events 62.5 % 0.31" in text
    assert "IntRR (Transformer) 0.0 %" in text
    assert "random 0.88" in text
    assert "Rouge" in text
    assert "0*" in text  # the code of the SID is marked
    assert not any(tag == "script" for tag, _ in page.tags)
