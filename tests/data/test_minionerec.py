"""MiniOneRec's samples, split and items."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doc_examples import example
from raw_tables import Read, read

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.sid import build

# User, item, number of the event; cut as convert_dataset.py does: 8 : 1 : 1 of all but the users'
# first events, by time.
EVENTS = [
    ("A0", 3),
    ("A1", 0),
    ("A0", 1),
    ("A1", 2),
    *[("A0", item) for item in (3, 3, 0, 10, 1, 2, 0, 3, 1, 2, 3)],
    ("A2", 2),
    ("A0", 0),
    ("A1", 10),
    ("A2", 10),
    ("A1", 1),
]
FILE = "Industrial_and_Scientific_5_2016-10-2018-11.csv"
INDEX = {str(item): [f"<a_{item}>", "<b_7>", "<c_0>"] for item in (0, 1, 2, 3, 10, 12)}
ITEMS = {
    str(item): {
        "title": f'Screw {item}, 1/2"',
        "description": "['Steel.', \"It's plain\"]",
        "brand": "Kreg",
        "categories": "",
    }
    for item in (0, 1, 2, 3, 10, 12)
}
Write = Callable[..., DataConfig]


def samples() -> list[dict[str, Any]]:
    """Rows in the columns of the published files."""
    before: dict[str, list[int]] = {}
    found = []
    for user, item in EVENTS:
        history = before.setdefault(user, [])
        if history:
            found.append(
                {
                    "user_id": user,
                    "history_item_title": [ITEMS[str(i)]["title"] for i in history[-10:]],
                    "item_title": ITEMS[str(item)]["title"],
                    "history_item_id": history[-10:],
                    "item_id": item,
                    "history_item_sid": ["".join(INDEX[str(i)]) for i in history[-10:]],
                    "item_sid": "".join(INDEX[str(item)]),
                }
            )
        history.append(item)
    return found


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (by default 17: 13, 2 and 2) and the files about the items."""

    def files(rows: list[dict[str, Any]] | None = None, **changes: Any) -> DataConfig:
        rows = samples() if rows is None else rows
        root = tmp_path / "Amazon"
        parts = {"train": rows[:13], "valid": rows[13:15], "test": rows[15:]}
        for split, part in parts.items():
            (root / split).mkdir(parents=True, exist_ok=True)
            with (root / split / FILE).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(samples()[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(part)
        (root / "index").mkdir(exist_ok=True)
        for kind, content in (("index", INDEX), ("item", ITEMS)):
            name = f"Industrial_and_Scientific.{kind}.json"
            (root / "index" / name).write_text(json.dumps(content, indent=2))
        (root / "index" / "Office_Products.item.json").write_text("{}")
        settings = {
            "format": "minionerec",
            "path": str(root / "train" / FILE),
            "folder": str(tmp_path / "data"),
            "min_user_events": 2,
            "max_malformed_share": 1.0,
        }
        return DataConfig(**{**settings, **changes})

    return files


def events(raw: Read) -> list[tuple[Any, ...]]:
    return raw.events.select("raw_user_id", "raw_item_id").rows()


def test_the_example_of_the_page(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write()
    Path("MiniOneRec/data").mkdir(parents=True)
    Path("Amazon").rename("MiniOneRec/data/Amazon")
    config, sid = example("published_data.md", "industrial")
    dataset = Dataset.load(prepare(config))
    raw = dataset.item_table["raw_item_id"].to_list()
    assert raw == ["0", "1", "10", "12", "2", "3"]
    users = dataset.user_table["raw_user_id"].to_list()
    told = [
        (users[user], int(raw[item]))
        for user, item in zip(dataset.event_users(), dataset.items, strict=True)
    ]
    assert told == sorted(EVENTS, key=lambda event: event[0])
    # Every row is a sample with all events before it as its history, and there are no others.
    for split, part in (("train", samples()[:13]), ("valid", samples()[13:15])):
        found = dataset.samples(split)
        targets = sorted(
            (users[user], int(raw[dataset.items[end]]), end - start)
            for user, start, end in zip(
                found.users, found.history_start, found.history_end, strict=True
            )
        )
        assert [target[:2] for target in targets] == sorted(
            (row["user_id"], row["item_id"]) for row in part
        )
    assert len(dataset.samples("test")) == 2
    assert dataset.train_counts[raw.index("12")] == 0
    assert dataset.item_table["text"][0].startswith("Screw 0, 1/2\", Kreg, ['Steel.', \"It's pl")
    table = build(sid, dataset, tmp_path / "sid")
    assert np.array_equal(table.codes[:, 0], [0, 1, 10, 12, 2, 3])


def test_a_first_event_belongs_to_the_split_of_its_row(write: Write) -> None:
    dataset = Dataset.load(prepare(write(min_item_events=0)))
    users = dataset.user_table["raw_user_id"].to_list()
    newcomer = users.index("A2")
    start, stop = dataset.user_offsets[newcomer : newcomer + 2]
    assert dataset.split[start:stop].tolist() == [2, 2]
    assert dataset.samples("test").users.tolist().count(newcomer) == 1


def test_a_folder_with_one_data_set(write: Write, tmp_path: Path) -> None:
    config = write()
    assert events(read(write(path=str(tmp_path / "Amazon")))) == events(read(config))
    (tmp_path / "Amazon" / "train" / "Office_Products_5.csv").write_text("x")
    with pytest.raises(ValueError, match=r"holds Industrial_.*, Office_.*; name the one to read"):
        read(write(path=str(tmp_path / "Amazon")))


def test_rows_that_are_left_out_are_seen(write: Write) -> None:
    rows = samples()
    del rows[4]
    raw = read(write(rows))
    assert raw.reports[0].reasons["history is not that of the user's rows before"] >= 1
    late = [row for row in samples() if row["user_id"] != "A1"][12:]
    alone = read(write([*samples()[:13], *late[-3:], samples()[15]]))
    assert "history is not that of the user's rows before" in alone.reports[0].reasons


def test_malformed_rows(write: Write) -> None:
    rows = samples()
    rows[0]["history_item_id"] = "['3'"
    rows[1]["item_id"] = ""
    raw = read(write(rows))
    reasons = raw.reports[0].reasons
    assert (reasons["unreadable history"], reasons["missing item"]) == (1, 1)
    assert {"file": f"train/{FILE}", "row": 2, "reason": "unreadable history"} in (
        raw.reports[0].first()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, r"data\.path is empty: format 'minionerec' needs train/"),
        ({"min_rating": 3}, "minionerec has no ratings"),
        ({"path": "x/valid/a.csv"}, "has to be a .csv file in a folder named train"),
        ({"path": "x/train/a.csv"}, r"train/a\.csv does not exist"),
        ({"text_columns": ("colour",)}, "data.text_columns is 'colour', but the columns are brand"),
    ],
)
def test_wrong_settings(write: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(**changes))


def test_missing_files_and_columns(write: Write, tmp_path: Path) -> None:
    config = write(title_column="title")
    root = tmp_path / "Amazon"
    (root / "index" / "Industrial_and_Scientific.item.json").unlink()
    with pytest.raises(ValueError, match=r"index has none for Industrial_and_Scientific_5"):
        read(config)
    config = write()
    (root / "valid" / FILE).write_text("user_id,item_id\nA0,1\n")
    with pytest.raises(ValueError, match="minionerec is 'history_item_id', but the columns are"):
        read(config)
    (root / "test" / FILE).unlink()
    with pytest.raises(ValueError, match=r"test/.*does not exist"):
        read(config)
