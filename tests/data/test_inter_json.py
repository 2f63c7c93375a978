"""Sequences, items and index of LC-Rec and LETTER as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_tables import Read, read

from glass.config import DataConfig
from glass.data import Dataset, prepare

SEQUENCES = {"7": [3, 1, 3, 10], "u 8": ["3", 2.0, 1], "9": []}
INDEX = {str(item): [f"<a_{item}>", "<b_0>"] for item in (1, 2, 3, 4, 10)}
ITEMS = {
    "1": {"title": "Soap\n bar", "brand": "Ah", "image": "x.png", "categories": [["Bath"], "Skin"]},
    "3": {"title": "", "description": None, "price": 3},
    "5": {"title": "Brush", "description": ["long", "soft"], "brand": 47},
}
Write = Callable[..., DataConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the files that are given into one folder; returns the settings that read it."""

    def files(inter: Any = SEQUENCES, index: Any = None, item: Any = None, **changes: Any) -> Any:
        folder = tmp_path / "shop"
        folder.mkdir(exist_ok=True)
        for kind, content in (("inter", inter), ("index", index), ("item", item)):
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                (folder / f"Shop.{kind}.json").write_text(text, encoding="utf-8")
        settings = {
            "format": "inter_json",
            "path": str(folder),
            "folder": str(tmp_path / "data"),
            "min_item_events": 0,
            "min_user_events": 2,
            "num_test_events": 1,
            "num_valid_events": 1,
            "max_malformed_share": 1.0,
        }
        return DataConfig(**{**settings, **changes})

    return files


def events(raw: Read) -> list[tuple[Any, ...]]:
    return raw.events.select("raw_user_id", "raw_item_id", "time", "row").rows()


def test_sequences_in_order(write: Write) -> None:
    raw = read(write())
    assert events(raw) == [
        ("7", "3", 1, 1),
        ("7", "1", 2, 2),
        ("7", "3", 3, 3),
        ("7", "10", 4, 4),
        ("u 8", "3", 5, 5),
        ("u 8", "2", 6, 6),
        ("u 8", "1", 7, 7),
    ]
    assert raw.time_unit == "ordinal"
    assert raw.dropped["users_without_events"] == 1
    assert raw.items.is_empty()
    assert raw.reports[0].to_dict()["rows"] == 7


def test_items_and_index(write: Write) -> None:
    raw = read(write(index=INDEX, item=ITEMS))
    assert raw.items.rows() == [
        ("1", "Soap bar", "Soap bar, Ah, Bath, Skin"),
        ("3", "", ""),
        ("5", "Brush", "Brush, 47, long, soft"),
        ("2", "", ""),
        ("4", "", ""),
        ("10", "", ""),
    ]
    raw = read(write(index=INDEX, item=ITEMS, title_column="brand", text_columns=("price",)))
    assert raw.items.rows()[:2] == [("1", "Ah", ""), ("3", "", "3")]


def test_files_as_letter_and_minionerec_write_them(write: Write) -> None:
    """Indented, with numbers as items and a list of descriptions as one text."""
    items = {
        "0": {"title": "The Great Greek", "description": "Diners, Greek"},
        "1": {
            "title": 'Stanley 1/2" Staples',
            "description": "['Heavy-duty.', \"It's steel\"]",
            "brand": "Stanley",
            "categories": "",
        },
    }
    config = write(
        inter=json.dumps({"0": [0, 1, 0], "1": [1, 0]}, indent=4), item=json.dumps(items, indent=2)
    )
    raw = read(config)
    assert [row[:2] for row in events(raw)] == [
        *[("0", item) for item in "010"],
        ("1", "1"),
        ("1", "0"),
    ]
    assert raw.items.rows() == [
        ("0", "The Great Greek", "The Great Greek, Diners, Greek"),
        (
            "1",
            'Stanley 1/2" Staples',
            "Stanley 1/2\" Staples, Stanley, ['Heavy-duty.', \"It's steel\"]",
        ),
    ]


def test_leave_one_out_keeps_every_item_of_the_index(write: Write) -> None:
    config = write(index=INDEX, target_group="event", ties="stable")
    dataset = Dataset.load(prepare(config))
    raw = dataset.item_table["raw_item_id"].to_list()
    assert raw == ["1", "10", "2", "3", "4"]
    assert [raw[item] for item in dataset.items] == ["3", "1", "3", "10", "3", "2", "1"]
    assert dataset.split.tolist() == [0, 0, 1, 2, 0, 1, 2]
    assert dataset.train_counts.tolist() == [1, 0, 0, 2, 0]
    assert np.diff(dataset.user_offsets).tolist() == [4, 3]


def test_an_unlisted_item_without_training_events_goes(write: Write) -> None:
    # What only validation and test events know must not shape the catalogue.
    dataset = Dataset.load(prepare(write(target_group="event")))
    assert dataset.item_table["raw_item_id"].to_list() == ["1", "3"]


def test_malformed_entries_are_counted_with_their_places(write: Write) -> None:
    text = (
        '{"a": [1, null, true, {"x": 1}, " ", 2.5, "v\\nw"], "b": 7, "c": [[1], 4],'
        ' "a": [8, 9], "d": [5]}'
    )
    raw = read(write(text))
    assert [row[:2] for row in events(raw)] == [("a", "1"), ("c", "4"), ("d", "5")]
    assert [row[3] for row in events(raw)] == [1, 10, 13]
    report = raw.reports[0].to_dict()
    assert (report["rows"], report["count"]) == (13, 10)
    assert report["reasons"] == {
        "unreadable item": 4,
        "no list of items": 1,
        "repeated user": 2,
        "missing item": 2,
        "broken item": 1,
    }
    places = {(entry["row"], entry["reason"]) for entry in report["first"]}
    assert ("user a, event 2", "missing item") in places
    assert ("user b, event 1", "no list of items") in places
    assert ("user c, event 1", "unreadable item") in places
    assert ("user a, event 2", "repeated user") in places
    halves = read(write(r'{"a": [1, "\ud800"], "b\ud800": [1], "é": ["ö"]}'))
    assert [row[:2] for row in events(halves)] == [("a", "1"), ("é", "ö")]
    assert halves.reports[0].reasons == {"broken item": 1, "broken user": 1}
    assert "Shop.inter.json:user b, event 1 no list of items" in raw.reports[0].summary()
    json.dumps(report)
    with pytest.raises(ValueError, match=r"10 of 13 interactions rows are malformed .*50\.00%"):
        prepare(write(text, max_malformed_share=0.5))


def test_malformed_items(write: Write) -> None:
    items = {
        "1": {"title": "Soap"},
        "2": "Brush",
        "3": {"title": {"en": "Comb"}},
        "": {"title": "x"},
    }
    raw = read(write(item=items))
    assert raw.items.rows() == [("1", "Soap", "Soap")]
    assert raw.reports[1].to_dict()["reasons"] == {
        "no object": 1,
        "unreadable title": 1,
        "missing item": 1,
    }
    assert {entry["row"] for entry in raw.reports[1].first()} == {"item 2", "item 3", "item "}
    twice = '{"1": {"title": "Soap"}, "1": {"title": "Other"}}'
    raw = read(write(item=twice))
    assert raw.items.rows() == [("1", "Soap", "Soap")]
    assert raw.dropped["repeated_items"] == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"inter": '{"1": [2,\n 3'}, r"Shop\.inter\.json:2 is not valid JSON"),
        ({"inter": "[1, 2]"}, r"Shop\.inter\.json holds a JSON list; it must be an object"),
        ({"inter": "[" * 100_000}, r"Shop\.inter\.json is nested too deeply"),
        ({"inter": '{"1": [' + "9" * 5000 + "]}"}, r"Shop\.inter\.json cannot be read: .*limit"),
        ({"index": "3"}, r"Shop\.index\.json holds a JSON int"),
        ({"item": "{}", "text_columns": ("name",)}, r"Shop\.item\.json: data\.text_columns"),
        ({"title_column": "name"}, r"has none beside Shop\.inter\.json"),
        ({"min_rating": 3}, "no ratings"),
        ({"split": "time"}, r"data\.split is 'time', but inter_json has no times"),
        ({"inter": ""}, r"Shop\.inter\.json is empty"),
        ({"path": None}, r"data\.path is empty: format 'inter_json' needs"),
    ],
)
def test_bad_files_and_settings(write: Write, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(**files))


def test_bytes_that_are_not_utf8(write: Write) -> None:
    config = write()
    Path(config.path or "", "Shop.inter.json").write_bytes(b'{"\xff": [1]}')
    with pytest.raises(ValueError, match="is not a text file in UTF-8"):
        read(config)


def test_path_names_one_file(write: Write, tmp_path: Path) -> None:
    config = write()
    file = Path(config.path or "", "Shop.inter.json")
    assert events(read(write(path=str(file)))) == events(read(config))
    file.with_name("Other.inter.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it holds Other\.inter\.json, Shop\.inter\.json"):
        read(config)
    with pytest.raises(ValueError, match=r"Shop\.json has to end in \.inter\.json"):
        read(write(path=str(file.with_name("Shop.json"))))
