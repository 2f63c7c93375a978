"""P5's sequences, numbers and metadata."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doc_examples import example
from raw_tables import Read, read

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.data.readers.amazon import p5

# As the published files have them: numbers from 1 in no order, one line a user, no times.
SEQUENCES = "1 3 1 3 2\n2 4 2 1\n"
MAPS = {
    "user2id": {"A1YJEY40YUW4SE": "1", "A3E5V5TSTAY3R9": "2"},
    "item2id": {"B004756YJA": "3", "7806397051": "1", "B002WLWX82": "2", "B0020YLEYK": "4"},
    "id2user": {"1": "A1YJEY40YUW4SE", "2": "A3E5V5TSTAY3R9"},
    "id2item": {"3": "B004756YJA", "1": "7806397051", "2": "B002WLWX82", "4": "B0020YLEYK"},
    "attribute2id": {"Makeup": 1},
}
META = [  # Python dicts, as str writes them
    {
        "asin": "7806397051",
        "description": 'WAWO 15 Color "Professional" Makeup, it\'s new',
        "title": "WAWO 15 Color Palette",
        "price": 8.26,
        "salesRank": {"Beauty": 2303},
        "related": {"also_bought": ["B000EBZ85W"]},
        "categories": [["Beauty", "Makeup", "Face"]],
    },
    {"asin": "B002WLWX82", "categories": [["Beauty"]], "brand": "Xtreme \xe9"},
    {"asin": "0205616461", "title": "Of another list"},
]
Write = Callable[..., DataConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the files that are given; returns the settings that read them."""

    def files(
        sequences: str | bytes = SEQUENCES, maps: Any = MAPS, meta: Any = META, **changes: Any
    ) -> DataConfig:
        folder = tmp_path / "beauty"
        folder.mkdir(exist_ok=True)
        content = sequences if isinstance(sequences, bytes) else sequences.encode()
        (folder / "sequential_data.txt").write_bytes(content)
        if maps is not None:
            (folder / "datamaps.json").write_text(json.dumps(maps))
        if meta is not None:
            lines = "".join(f"{entry}\n" for entry in meta)
            (folder / "meta.json.gz").write_bytes(gzip.compress(lines.encode()))
        settings = {
            "format": "p5",
            "path": str(folder),
            "min_user_events": 2,
            "num_test_events": 1,
            "num_valid_events": 1,
            "folder": str(tmp_path / "data"),
            "max_malformed_share": 1.0,
        }
        return DataConfig(**{**settings, **changes})

    return files


def events(raw: Read) -> list[tuple[Any, ...]]:
    return raw.events.select("raw_user_id", "raw_item_id", "time", "row").rows()


def test_the_example_of_the_page(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = example("published_data.md", "p5_beauty")
    monkeypatch.chdir(tmp_path)
    published = Path(write().path or "")
    Path("P5/data").mkdir(parents=True)
    published.rename(config.path or "")
    dataset = Dataset.load(prepare(config))
    raw = dataset.item_table["raw_item_id"].to_list()
    assert raw == ["1", "2", "3", "4"]
    assert [raw[item] for item in dataset.items] == ["3", "1", "3", "2", "4", "2", "1"]
    assert dataset.split.tolist() == [0, 0, 1, 2, 0, 1, 2]
    assert dataset.item_table["title"].to_list() == [
        "WAWO 15 Color Palette",
        "B002WLWX82",
        "B004756YJA",
        "B0020YLEYK",
    ]
    assert dataset.manifest["dropped"]["rows"] == {
        "users_without_events": 0,
        "items_not_in_datamaps": 1,
        "repeated_items": 0,
    }


def test_sequences_and_texts(write: Write) -> None:
    raw = read(write())
    assert events(raw)[:2] == [("1", "3", 1, 1), ("1", "1", 2, 2)]
    assert events(raw)[-1] == ("2", "1", 7, 7)
    assert raw.time_unit == "ordinal"
    texts = dict(raw.items.select("raw_item_id", "text").rows())
    assert texts["1"] == (
        "WAWO 15 Color Palette, Beauty, Makeup, Face, "
        'WAWO 15 Color "Professional" Makeup, it\'s new'
    )
    assert texts["2"] == "Xtreme \xe9, Beauty"
    assert texts["3"] == texts["4"] == ""
    named = read(write(text_columns=("title", "price"), title_column="brand")).items.rows()
    assert named[0] == ("1", "7806397051", "WAWO 15 Color Palette, 8.26")


def test_companions_may_be_missing(write: Write) -> None:
    assert read(write(maps=None, meta=None)).items.is_empty()
    raw = read(write(meta=None))
    assert raw.items.rows()[0] == ("3", "B004756YJA", "")
    assert raw.items.height == 4


def test_any_text_file_of_such_lines(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "user_sequence.txt"
    path.write_text("A1YJEY40YUW4SE B004756YJA 7806397051\r\n")
    raw = read(write(path=str(path)))
    assert [row[:2] for row in events(raw)] == [
        ("A1YJEY40YUW4SE", "B004756YJA"),
        ("A1YJEY40YUW4SE", "7806397051"),
    ]


def test_malformed_lines_are_counted_with_their_places(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glass.data.readers.amazon.lines.MAX_LINE", 64)
    monkeypatch.setattr(p5, "_BATCH_EVENTS", 2)
    long = b"9 " + b"1 " * 60
    lines = [b"\xef\xbb\xbf1 3 1", b"", b"2 \xff 4", b"1 4 4 4", b"3", long, b"4 2", long]
    raw = read(write(b"\n".join(lines)))
    assert events(raw) == [
        ("1", "3", 1, 1),
        ("1", "1", 2, 2),
        ("2", "4", 4, 4),
        ("4", "2", 9, 9),
    ]
    report = raw.reports[0].to_dict()
    assert (report["rows"], report["blank"], report["count"]) == (10, 1, 6)
    assert report["reasons"] == {"broken item": 1, "repeated user": 3, "line is too long": 2}
    places = {(entry["row"], entry["reason"]) for entry in report["first"]}
    assert ("line 3, item 1", "broken item") in places
    assert ("line 4, item 3", "repeated user") in places
    assert ("line 6, item 1", "line is too long") in places
    assert ("line 8, item 1", "line is too long") in places
    assert raw.dropped["users_without_events"] == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"path": None}, r"data\.path is empty: format 'p5' needs sequential_data\.txt"),
        ({"min_rating": 3}, "p5 has no ratings"),
        ({"split": "time"}, r"data\.split is 'time', but p5 has no times; use 'last_n'"),
        ({"maps": None}, r"meta\.json\.gz names items by ASIN; put datamaps\.json"),
        ({"meta": None, "text_columns": ("title",)}, r"fields of meta\.json\.gz, but .* none"),
        ({"text_columns": ("titel",)}, r"'titel', but the columns are .*Did you mean 'title'"),
        ({"maps": {"item2index": {}}}, r"has no item2id; it is not P5's datamaps\.json"),
        ({"maps": {"item2id": {"a": "1", "b": "1"}}}, "needs a number of its own"),
        ({"maps": {"item2id": {"a": [1]}}}, "needs a number of its own"),
        ({"sequences": ""}, r"sequential_data\.txt is empty"),
    ],
)
def test_bad_files_and_settings(write: Write, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(**files))


def test_a_folder_without_sequences(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sequential_data\.txt does not exist"):
        read(write(path=str(tmp_path)))
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(ValueError, match=r"a\.csv has to be sequential_data\.txt or another"):
        read(write(path=str(tmp_path / "a.csv")))
