"""Amazon's reviews and metadata of 2014, 2018 and 2023."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doc_examples import example
from raw_tables import Read, read

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.data.readers.amazon import lines, reviews

DAY = 86400


def review_2014(user: str, item: str, day: int, stars: float = 5.0) -> dict[str, Any]:
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'J. "Mac" McDonald',
        "helpful": [2, 3],
        "reviewText": "I bought this for my husband.\tIt's {fine}",
        "overall": stars,
        "summary": "Heavenly",
        "unixReviewTime": day * DAY,
        "reviewTime": "09 13, 2009",
    }


def review_2018(user: str, item: str, day: int, stars: float = 5.0) -> dict[str, Any]:
    return {
        "overall": stars,
        "verified": True,
        "reviewTime": "09 1, 2016",
        "reviewerID": user,
        "asin": item,
        "style": {"Size:": " 7.0 oz"},
        "reviewText": "As advertised.",
        "unixReviewTime": day * DAY,
    }


def review_2023(user: str, item: str, day: int, stars: float = 5.0) -> dict[str, Any]:
    return {
        "rating": stars,
        "title": "Such a lovely scent",
        "text": "This spray is really nice.",
        "images": [],
        "asin": "B0VARIANT1",
        "parent_asin": item,
        "user_id": user,
        "timestamp": day * DAY * 1000 + 923,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


EVENTS = [(user, item, day) for user in "AB" for day, item in enumerate(["p", "q", "p", "r", "q"])]
META_2014 = [
    {
        "asin": "p",
        "title": "Girls' Tutu",
        "price": 3.17,
        "imUrl": "http://x/51.jpg",
        "related": {"also_bought": ["B00"]},
        "salesRank": {"Toys & Games": 211836},
        "brand": "Cox\\lures",
        "categories": [["Sports & Outdoors", "Dance"], ["Toys"]],
    },
    {"asin": "unsold", "title": "Never bought"},
]
META_2018 = [
    {
        "category": ["Industrial", "Caliper"],
        "tech1": "",
        "description": ["Measures", ""],
        "title": "Caliper",
        "also_buy": [],
        "brand": "Neiko",
        "rank": [">#2,623"],
        "details": {"Shipping Weight:": "4 ounces"},
        "price": "$1.99",
        "asin": "p",
    }
]
META_2023 = [
    {
        "main_category": "All Beauty",
        "title": "Howard Conditioner",
        "average_rating": 4.8,
        "features": [],
        "description": ["Soft"],
        "price": None,
        "images": [{"thumb": "https://x"}],
        "store": "Howard",
        "categories": ["Care"],
        "details": {"UPC": "1"},
        "parent_asin": "p",
        "bought_together": None,
    }
]


def write(path: str | None, texts: Iterable[str]) -> None:
    content = "".join(f"{text}\n" for text in texts).encode()
    file = Path(path or "")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("name", "make", "meta", "dump", "text"),
    [
        (
            "beauty_2014",
            review_2014,
            META_2014,
            str,
            "Girls' Tutu, Cox\\lures, Sports & Outdoors, Dance, Toys",
        ),
        ("scientific_2018", review_2018, META_2018, json.dumps, "Caliper, Neiko, Industrial, Cal"),
        ("beauty_2023", review_2023, META_2023, json.dumps, "Howard Conditioner, Howard, Care, So"),
    ],
)
def test_the_examples_of_the_page(
    name: str,
    make: Any,
    meta: list[Any],
    dump: Any,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config, _ = example("published_data.md", name)
    # The users' events lie apart in the file, and each comes several times, for min_item_events.
    users = [f"{user}{copy}" for user, *_ in EVENTS[::5] for copy in range(3)]
    events = [(user, *event) for _, *event in EVENTS[:5] for user in users]
    write(config.path, (json.dumps(make(*event)) for event in events))
    write(config.items_path, map(dump, meta))
    dataset = Dataset.load(prepare(config))
    raw = dataset.item_table["raw_item_id"].to_list()
    assert dataset.num_users == 6
    assert set(raw) <= {"p", "q", "r"}
    assert dataset.item_table["text"][raw.index("p")].startswith(text)
    first = dataset.items[: dataset.user_offsets[1]]
    assert [raw[item] for item in first][:3] == ["p", "q", "p"]
    assert dataset.times[: dataset.user_offsets[1]].tolist()[:3] == [0, DAY, 2 * DAY]
    assert dataset.manifest["time_unit"] == "seconds"
    assert {0, 2} <= set(dataset.split)


def test_csv_of_2023(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, _ = example("published_data.md", "games_2023")
    rows = [f"{user},{item},5.0,{day * DAY * 1000 + 923}" for user, item, day in EVENTS]
    write(config.path, ["user_id,parent_asin,rating,timestamp", *rows])
    dataset = Dataset.load(prepare(config))
    assert dataset.num_users == 2
    assert dataset.times[:3].tolist() == [0, DAY, 2 * DAY]
    write(config.path, ["user_id,parent_asin,rating,timestamp", "u,i,3.5,x", "u,i,,1999", "u,i,4,"])
    raw = read(config)
    assert raw.events.select("time", "row").rows() == [(1, 3)]
    assert raw.reports[0].reasons == {"unreadable time": 1, "missing time": 1}


def settings(tmp_path: Path, texts: Iterable[str], **changes: Any) -> DataConfig:
    path = str(tmp_path / changes.pop("file", "reviews.json"))
    write(path, texts)
    return DataConfig(**{"format": "amazon_reviews", "path": path, **changes})


def rows(raw: Read) -> list[tuple[Any, ...]]:
    return raw.events.select("raw_user_id", "raw_item_id", "time", "row").rows()


def test_ratings(tmp_path: Path) -> None:
    texts = [json.dumps(review_2018("A", "p", day, stars)) for day, stars in enumerate([1, 4, 5])]
    config = settings(tmp_path, texts, min_rating=4)
    raw = read(config)
    assert rows(raw) == [("A", "p", DAY, 2), ("A", "p", 2 * DAY, 3)]
    assert raw.dropped["below_min_rating"] == 1


def test_malformed_lines_are_counted_with_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 512)
    monkeypatch.setattr(reviews, "_BATCH_EVENTS", 2)
    good = review_2014("A", "p", 1)
    texts = [
        json.dumps(good),
        "",
        "{'reviewerID': 'A', 'asin': 'q', 'unixReviewTime': 86400, 'overall': -1.5e-05}",
        json.dumps(good | {"reviewerID": ["A"]}),
        json.dumps(good | {"asin": None}),
        json.dumps(good | {"unixReviewTime": {"$date": 3}}),
        json.dumps(good | {"unixReviewTime": "\ud800"}),
        json.dumps(good)[:-5],
        "[1, 2]",
        json.dumps(good | {"reviewText": "x" * 600}),
        "x" * 1500,
        json.dumps(good | {"reviewerID": 7, "unixReviewTime": "172800"}),
    ]
    raw = read(settings(tmp_path, texts))
    assert rows(raw) == [("A", "p", DAY, 1), ("A", "q", DAY, 3), ("7", "p", 2 * DAY, 12)]
    report = raw.reports[0].to_dict()
    assert (report["rows"], report["blank"], report["count"]) == (11, 1, 8)
    assert report["reasons"] == {
        "missing item": 1,
        "unreadable time": 2,
        "line is too long": 2,
        "unreadable user": 1,
        "no object": 2,
    }
    assert {"file": "reviews.json", "row": 8, "reason": "no object"} in report["first"]


@pytest.mark.parametrize(
    "text",
    [
        "{'reviewerID': __import__('os').getcwd()}",
        "{'reviewerID': 'a' + 'b'}",
        "{'reviewerID': 1 -1 -1}",
        "{'reviewerID': " + "-" * 100_000 + "1}",
        "{'reviewerID': " + "(" * 100_000 + ")" * 100_000 + "}",
        "{'reviewerID': " + "[" * 100_000 + "]" * 100_000 + "}",
        '{"reviewerID": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "{[]: 1}",
        "{'a': e5}",
        "{'a': " + "9" * 5000 + "}",
        "{'a': f'{1}'}",
        "{'a': '" + "\\'" * 200_000,
        "{'a': " + "0, " * 400_000 + "}",
    ],
)
def test_nothing_but_plain_values_is_parsed(text: str) -> None:
    assert lines._parse(text) is None


def test_plain_values_as_python_writes_them() -> None:
    entry = {"t": 'it\'s "x" \\ \n \xe9', "n": [1.5, -2, 1e-07, 3e20, True, None], "d": {"k": []}}
    assert lines._parse(str(entry)) == entry
    assert lines._parse(ascii(entry)) == entry
    assert lines._parse("{u'a': u\"b\", 'c': - 3}") is None
    assert lines._parse("{u'a': u\"b\", 'c':  -3, 'd': '\\d'}") == {"a": "b", "c": -3, "d": "\\d"}


def test_gzip_that_expands_too_far_or_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = ["x" * 1000] * 5000
    config = settings(tmp_path, bomb, file="reviews.json.gz", max_malformed_share=1.0)
    assert read(config).reports[0].malformed == 5000  # 5 MB: any file may unpack to this much
    monkeypatch.setattr(lines, "UNJUDGED", 1 << 20)
    with pytest.raises(ValueError, match=r"more than 100 times its size; .*gunzip.*reviews\.json$"):
        read(config)
    path = Path(config.path or "")
    write(config.path, (json.dumps(review_2018("A", "p", day)) for day in range(2000)))
    assert read(config).events.height == 2000
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"data\.path: .*is damaged .*get it again"):
        read(config)
    path.write_bytes(b"\x1f\x8b\x08\x00" + b"\xff" * 100)
    with pytest.raises(ValueError, match="is damaged"):
        read(config)
    path.write_text("no gzip")
    with pytest.raises(ValueError, match="is damaged"):
        read(config)
    path.with_suffix("").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ValueError, match=r"reviews\.json is compressed \(gzip\); unpack it first"):
        read(replace(config, path=str(path.with_suffix(""))))


def test_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glass.data.readers.item_objects._BATCH_CHARACTERS", 10)
    items = [
        {"asin": "p", "title": "Soap\n bar", "brand": "Ah", "categories": [["Bath"], "Skin"]},
        {"asin": "q", "title": {"en": "Comb"}},
        {"asin": "r", "title": [[[]]] * 3, "price": 3.5},
        {"title": "lost"},
        {"asin": "s", "title": json.loads("[" * 60 + "]" * 60)},
        {"asin": "p", "title": "again"},
        {"asin": "t", "title": "\ud800 half"},
    ]
    write(str(tmp_path / "meta.json"), [*map(json.dumps, items), "7"])
    config = settings(tmp_path, [], items_path=str(tmp_path / "meta.json"))
    Path(config.path or "").write_text(json.dumps(review_2018("A", "p", 1)))
    raw = read(config)
    assert raw.items.rows() == [
        ("p", "Soap bar", "Soap bar, Ah, Bath, Skin"),
        ("r", "", ""),
        ("t", "\ufffd\ufffd\ufffd half", "\ufffd\ufffd\ufffd half"),
    ]
    assert raw.reports[1].reasons == {"missing item": 1, "no object": 1, "unreadable title": 2}
    assert raw.dropped["repeated_items"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, r"data\.path is empty: format 'amazon_reviews' needs a file of reviews"),
        ({"path": "."}, "is a folder; name one file in it"),
        ({"path": "missing.json"}, r"data\.path: missing\.json does not exist"),
        ({"path": "a.parquet"}, r"a\.parquet has to end in one of \.json, \.jsonl"),
        ({"path": "meta.json"}, r"holds no reviews: its first object has the fields asin, title"),
        ({"path": "none.csv"}, r"is 'user_id', but the columns are A1, B1, 5\.0, 1377302400"),
        ({"title_column": "title"}, r"data\.items_path, which is empty"),
        ({"items_path": "a.csv"}, r"data\.items_path: a\.csv does not exist"),
        ({"items_path": "none.csv"}, r"data\.items_path: none\.csv has to end in one of \.json"),
        (
            {"items_path": "meta.json", "text_columns": ("titel",)},
            r"meta\.json: data\.text_columns is 'titel', .*Did you mean 'title'",
        ),
    ],
)
def test_wrong_settings(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("reviews.json", [json.dumps(review_2018("A", "p", 1))])
    write("meta.json", ['{"asin": "p", "title": "Soap"}'])
    write("none.csv", ["A1,B1,5.0,1377302400"])
    write("a.parquet", ["x"])
    config = DataConfig(**{"format": "amazon_reviews", "path": "reviews.json", **changes})
    with pytest.raises(ValueError, match=message):
        read(config)
