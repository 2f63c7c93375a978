"""KuaiRec in the files of its release, captions with all the quoting that a parser trips over."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_tables import Read, read

from glass.config import DataConfig, KuaiRecConfig
from glass.data import Dataset, prepare
from glass.data.preparation import check_config, compute_fingerprint

MATRIX = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
HEADER = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,"
    "first_level_category_name,second_level_category_id,second_level_category_name,"
    "third_level_category_id,third_level_category_name"
)
TAIL = "8,颜值,673,颜值随拍,-124,UNKNOWN"
NAMES = "颜值, 颜值随拍"
FIRST = 1593878903  # 2020-07-05 00:08:23 in China
CAPTIONS = [
    f"148,UNKNOWN,精神小伙路难走 程哥你狗粮慢点撒,[],{TAIL}",
    "183,UNKNOWN,,[],27,高新数码,-124,UNKNOWN,-124,UNKNOWN",
    f'3649,封面,"#搞笑 真美, 好","[五爱市场,搞笑]",{TAIL}',
    f"9598,封面,,[灵魂],{TAIL}",
]
Write = Callable[..., DataConfig]


def view(user: object, video: object, time: object, ratio: object, date: str = "20200705") -> str:
    clock = "2020-07-05 00:08:23.438" if time != "" else ""
    return f"{user},{video},13838,10867,{clock},{date if time != '' else ''},{time},{ratio}"


BIG = [
    view(0, 3649, f"{FIRST}.438", 1.2733971),
    view(0, 9598, f"{FIRST + 2}.1", 1.0),
    view(0, 148, f"{FIRST + 9}.95", 1.0000001),
    view(7, 148, f"{FIRST + 3}.0", 2.5),
    view(7, 183, f"{FIRST + 5}", 0.0),
    view(7, 183, f"{FIRST + 6}.5", "573.4571"),
]
SMALL = [
    view(14, 148, f"{FIRST}.378", 0.7221031811438932, "20200705.0"),
    view(14, 183, "", 1.9073770491),
    view(14, 183, f"{FIRST + 1}.5", 1.9073770491, "20200705.0"),
    view(19, 183, "", 0.2),
]


def text(header: str, rows: Sequence[str], end: str = "\n") -> bytes:
    return "".join(line + end for line in (header, *rows)).encode()


def write_captions(path: Path, rows: Sequence[str], end: str = "\n") -> None:
    (path / "kuairec_caption_category.csv").write_bytes(text(HEADER, rows, end))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the files of the release; returns the settings that read them."""

    def files(
        captions: Sequence[str] = CAPTIONS,
        big: Sequence[str] = BIG,
        small: Sequence[str] = SMALL,
        folder: str = "release",
        **changes: Any,
    ) -> DataConfig:
        path = tmp_path / folder
        path.mkdir(exist_ok=True, parents=True)
        for name, rows in (("big", big), ("small", small)):
            (path / f"{name}_matrix.csv").write_bytes(text(MATRIX, rows))
        write_captions(path, captions)
        given = {
            "name": "kuairec",
            "format": "kuairec",
            "path": str(tmp_path / "release"),
            "folder": str(tmp_path / "data"),
            "ties": "stable",
            "target_group": "event",
            "min_user_events": 2,
            "min_item_events": 1,
            "num_test_events": 1,
            "num_valid_events": 1,
            "max_malformed_share": 0.0,
        }
        kuairec = KuaiRecConfig(**changes.pop("kuairec", {}))
        return DataConfig(**{**given, **changes}, kuairec=kuairec)

    return files


def events(raw: Read) -> list[tuple[Any, ...]]:
    return raw.events.select("raw_user_id", "raw_item_id", "time", "row").rows()


def items(raw: Read) -> dict[str, tuple[str, str]]:
    return {row[0]: row[1:] for row in raw.items.select("raw_item_id", "title", "text").rows()}


def malformed(raw: Read, report: int) -> list[tuple[int, str]]:
    """(line, reason) of the first malformed rows."""
    return [(place["row"], place["reason"]) for place in raw.reports[report].first()]


class TestViews:
    def test_big_matrix(self, write: Write) -> None:
        raw = read(write())
        assert events(raw) == [
            ("0", "3649", FIRST, 2),
            ("0", "148", FIRST + 9, 4),
            ("7", "148", FIRST + 3, 5),
            ("7", "183", FIRST + 6, 7),
        ]
        # A ratio of exactly 1.0 is no event.
        assert raw.dropped == {"without_time": 0, "watched_too_little": 2, "repeated_items": 0}
        assert raw.time_unit == "seconds"
        assert [report.malformed for report in raw.reports] == [0, 0]
        assert [report.rows for report in raw.reports] == [len(BIG), len(CAPTIONS)]

    def test_small_matrix_has_rows_without_a_time(self, write: Write) -> None:
        raw = read(write(kuairec={"matrix": "small"}))
        assert events(raw) == [("14", "183", FIRST + 1, 4)]
        assert raw.dropped["without_time"] == 2
        assert raw.dropped["watched_too_little"] == 1
        assert raw.reports[0].malformed == 0

    @pytest.mark.parametrize(
        ("ratio", "rows"), [(0.0, [2, 3, 4, 5, 7]), (0.9, [2, 3, 4, 5, 7]), (2.5, [7])]
    )
    def test_least_ratio(self, write: Write, ratio: float, rows: list[int]) -> None:
        raw = read(write(kuairec={"watch_ratio": ratio}))
        assert raw.events["row"].to_list() == rows
        assert raw.dropped["watched_too_little"] == len(BIG) - len(rows)

    def test_bad_rows_are_counted_with_their_lines(self, write: Write) -> None:
        bad = [
            view("", 148, FIRST, 2),
            view(0, "", FIRST, 2),
            view(0, 148, "soon", 2),
            view(0, 148, FIRST, ""),
            view(0, 148, FIRST, "much"),
            view(0, 148, FIRST, "inf"),
            "0,148,2",
        ]
        config = write(big=[BIG[0], *bad, BIG[3]])
        raw = read(config)
        assert [row for *_, row in events(raw)] == [2, 10]
        assert malformed(raw, 0) == [
            (3, "missing user"),
            (4, "missing item"),
            (5, "unreadable time"),
            (6, "missing watch_ratio"),
            (7, "unreadable watch_ratio"),
            (8, "unreadable watch_ratio"),
            (9, "wrong number of columns"),
        ]
        assert raw.dropped["watched_too_little"] == 0
        with pytest.raises(ValueError, match=r"7 of 9 interactions .*big_matrix\.csv:3 missing"):
            prepare(config)


class TestItems:
    def test_titles_and_texts(self, write: Write) -> None:
        first = "精神小伙路难走 程哥你狗粮慢点撒"
        third = "#搞笑 真美, 好"
        assert items(read(write())) == {
            "148": (first, f"{first}, {NAMES}"),
            "183": ("", "高新数码"),
            "3649": (third, f"{third}, 五爱市场, 搞笑, {NAMES}"),
            "9598": ("封面", f"灵魂, {NAMES}"),
        }

    def test_other_columns(self, write: Write) -> None:
        columns = ("manual_cover_text", "third_level_category_id", "first_level_category_id")
        config = write(text_columns=columns, title_column="second_level_category_name")
        assert items(read(config)) == {
            "148": ("颜值随拍", "8"),
            "183": ("", "27"),
            "3649": ("颜值随拍", "封面, 8"),
            "9598": ("颜值随拍", "封面, 8"),
        }

    @pytest.mark.parametrize(
        ("middle", "expected"),
        [
            ('a "b" c', 'a "b" c'),
            ('"a ""b"", c"', 'a "b", c'),
            ('"a, b', "a, b"),
            ('a, b"', "a, b"),
            ('"a" b, c', 'a" b, c'),
            ('"a",b"', 'a",b'),
            ("a, b,, c", "a, b,, c"),
            ("一,二 😀🇨🇳,三", "一,二 😀🇨🇳,三"),
            ("a\nb", "a b"),
            ('"a\nb', "a b"),
            ('"a\n\n, b"', "a , b"),
            ("a\rb", "a b"),
            ("a\r7,b", "a 7,b"),
            ("[a],[b", "[a],[b"),
            ("a\u2028b\x0bc", "a b c"),
            ('"""', ""),
            ("", ""),
            (" ", ""),
            ("UNKNOWN", ""),
        ],
    )
    @pytest.mark.parametrize("tags", ["[]", '"[x,y]"', "[x,y]", "", "UNKNOWN"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_captions(self, write: Write, middle: str, expected: str, tags: str, end: str) -> None:
        """A record between two others, of which none may be lost or changed."""
        config = write(text_columns=("caption",))
        path, record = Path(str(config.path)), f"7,UNKNOWN,{middle},{tags},{TAIL}"
        others = ["6,UNKNOWN,six,[],1,a,2,b,3,c", "8,UNKNOWN,eight,[],1,a,2,b,3,c"]
        write_captions(path, [others[0], record, others[1]], end)
        raw = read(config)
        assert items(raw) == {"6": ("six",) * 2, "7": (expected,) * 2, "8": ("eight",) * 2}
        raw = read(dataclasses.replace(config, text_columns=("topic_tag", *CATEGORY_NAMES)))
        found = "x, y, " if "x" in tags else ""
        assert items(raw)["7"][1] == found + NAMES
        assert raw.reports[1].to_dict()["count"] == 0
        assert raw.reports[1].rows == 3

    @pytest.mark.parametrize("caption", ["a\n7,3,1\nb", "1,2,3,4,5,6\n7,8,9,10,11,12,13\nb"])
    def test_quoted_lines_of_numbers(self, write: Write, caption: str) -> None:
        """They look like the start and the end of records."""
        rows = [f'6,UNKNOWN,"{caption}",[],{TAIL}', f'8,UNKNOWN,b,"[x,y]",{TAIL}']
        assert list(items(read(write(rows)))) == ["6", "8"]
        assert items(read(write(rows)))["6"][0] == caption.replace("\n", " ")

    def test_two_quotes_that_are_never_closed(self, write: Write) -> None:
        """Together they are valid CSV: one record with a caption of two lines."""
        rows = [f'1,UNKNOWN,"a,[],{TAIL}', f'2,UNKNOWN,b",[],{TAIL}']
        assert len(list(csv.reader(io.StringIO("\n".join(rows)), strict=True))) == 1
        raw = read(write(rows, text_columns=("caption",)))
        assert {name: text for name, (_, text) in items(raw).items()} == {"1": "a", "2": 'b"'}

    def test_cover_texts(self, write: Write) -> None:
        rows = [
            f'1,"a, ""b""",,[],{TAIL}',
            f'2,"a,b",[],{TAIL}',
            f'3,a "b,,[],{TAIL}',
            f"4,UNKNOWN,UNKNOWN,[],{TAIL}",
        ]
        titles = {
            name: title for name, (title, _) in items(read(write(rows[:1] + rows[2:]))).items()
        }
        assert titles == {"1": 'a, "b"', "3": 'a "b', "4": ""}
        # One comma too few to tell the cover text from the caption.
        assert items(read(write(rows[1:2], text_columns=("manual_cover_text",))))["2"][1] == "a"

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_carriage_returns_break_no_quotes(self, write: Write, end: str) -> None:
        """pandas leaves a caption with a carriage return alone without quotes."""
        config = write(text_columns=("manual_cover_text", "caption"))
        quoted = ",".join(f'"{value}"' for value in TAIL.split(","))
        rows = [f'1,"a,b",c\rd,[],{TAIL}', f'"2","a,b","c\r\nd","[]",{quoted}']
        write_captions(Path(str(config.path)), rows, end)
        assert items(read(config)) == {"1": ("c d", "a,b, c d"), "2": ("c d", "a,b, c d")}

    def test_records_that_cannot_be_repaired(self, write: Write) -> None:
        rows = [
            CAPTIONS[0],
            "5,UNKNOWN,cut off",
            f"6,UNKNOWN,six,[],{TAIL}",
            f"a word,UNKNOWN,x,[],{TAIL}",
            "7,UNKNOWN,x,y,[],8,颜值,673,颜值随拍,-124",
            f"8,UNKNOWN,[],{TAIL}",
            'loose "words',
            f"10,UNKNOWN,ten,[],{TAIL}",
            "9,UNKNOWN,nine,[],8.0,a,-124.0,,,",
            f"12,UNKNOWN,twelve,[],{TAIL}",
            "11,UNKNOWN",
        ]
        config = write(rows)
        raw = read(config)
        assert list(items(raw)) == ["148", "6", "10", "9", "12"]
        assert items(raw)["6"] == ("six", f"six, {NAMES}")
        assert items(raw)["9"] == ("nine", "nine, a")
        wrong = "wrong number of columns"
        assert malformed(raw, 1) == [(line, wrong) for line in (3, 5, 6, 7, 8, 12)]
        assert raw.reports[1].rows == len(rows)
        with pytest.raises(ValueError, match=r"6 of 11 items .*caption_category\.csv:3 wrong"):
            prepare(config)

    def test_bytes_that_are_not_utf8(self, write: Write) -> None:
        config = write()
        path = Path(str(config.path)) / "kuairec_caption_category.csv"
        rows = [b"1,UNKNOWN,a\xff,[],", b"\xff2,UNKNOWN,b,[],", b"3,UNKNOWN,c,[],"]
        lines = [row + TAIL.encode() for row in rows]
        path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([HEADER.encode(), *lines]))
        raw = read(config)
        assert {name: title for name, (title, _) in items(raw).items()} == {
            "1": "a\ufffd",
            "3": "c",
        }
        assert malformed(raw, 1) == [(3, "wrong number of columns")]

    def test_of_repeated_videos_the_first_counts(self, write: Write) -> None:
        raw = read(write([f"1,UNKNOWN,a,[],{TAIL}", f"1,UNKNOWN,b,[],{TAIL}"]))
        assert items(raw)["1"][0] == "a"
        assert raw.dropped["repeated_items"] == 1


CATEGORY_NAMES = tuple(HEADER.split(",")[5::2])
SIMPLE = st.characters(exclude_categories=["Cs"])
NASTY = st.sampled_from(
    ['"', '""', ",", "\n", "\r", "\r\n", "7,", "[", "],", ',"[', " ", "颜", "😀"]
)
CAPTION = st.text(SIMPLE, max_size=30) | st.lists(NASTY, max_size=12).map("".join)
IDS = st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True)


def plain(value: str) -> str:
    """As a text is shown: without runs of blanks, and without what stands for nothing."""
    value = " ".join(value.split())
    return "" if value == "UNKNOWN" else value


def starts_a_record(caption: str) -> bool:
    """Whether a line within, written without quotes, looks like the start of a record."""
    return re.search(r"\n[0-9]+,", caption.replace("\r\n", "\n") + ",") is not None


class TestAnyCaption:
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(ids=IDS, data=st.data(), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    def test_quoted_as_csv_wants_it(
        self, write: Write, ids: list[int], data: st.DataObject, quoting: Any
    ) -> None:
        size = {"min_size": len(ids), "max_size": len(ids)}
        captions = data.draw(st.lists(CAPTION, **size))
        covers = data.draw(st.lists(CAPTION, **size))
        out = io.StringIO()
        writer = csv.writer(out, quoting=quoting, lineterminator="\n")
        for row in zip(ids, covers, captions, strict=True):
            writer.writerow([*row, "[x,y]", *TAIL.split(",")])
        config = write([out.getvalue().removesuffix("\n")])
        for columns, values in ((("caption",), captions), (("manual_cover_text",), covers)):
            raw = read(dataclasses.replace(config, text_columns=columns))
            found = {name: plain(text) for name, (_, text) in items(raw).items()}
            assert found == {str(k): plain(v) for k, v in zip(ids, values, strict=True)}
            assert raw.reports[1].malformed == 0

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(ids=IDS, data=st.data(), tags=st.sampled_from(["[]", "[x]", "[x,y]"]))
    def test_not_quoted_at_all(
        self, write: Write, ids: list[int], data: st.DataObject, tags: str
    ) -> None:
        caption = CAPTION.filter(lambda caption: not starts_a_record(caption))
        captions = data.draw(st.lists(caption, min_size=len(ids), max_size=len(ids)))
        rows = [f"{k},UNKNOWN,{c},{tags},{TAIL}" for k, c in zip(ids, captions, strict=True)]
        config = write(rows, text_columns=("caption",))
        raw = read(config)
        found = {name: plain(text.replace('"', "")) for name, (_, text) in items(raw).items()}
        wanted = [plain(caption.replace('"', "")) for caption in captions]
        assert found == dict(zip(map(str, ids), wanted, strict=True))
        assert raw.reports[1].malformed == 0
        names = read(dataclasses.replace(config, text_columns=CATEGORY_NAMES))
        assert {text for _, text in items(names).values()} == {NAMES}


class TestFilesAndSettings:
    @pytest.mark.parametrize("folder", ["release/data", "release/KuaiRec 2.0/data"])
    def test_folders_of_the_release(self, write: Write, folder: str, tmp_path: Path) -> None:
        config = write(folder=folder)
        assert len(events(read(config))) == 4
        # The captions can be downloaded on their own; what lies nearer counts.
        write_captions(tmp_path / "release", CAPTIONS[:1])
        assert list(items(read(config))) == ["148"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"path": None}, r"data\.path is empty"),
            ({"path": "nowhere"}, r"nowhere has no big_matrix\.csv, and no folder data or"),
            ({"min_rating": 1.0}, r"remove them and set data\.kuairec\.watch_ratio"),
            ({"rating_column": "watch_ratio"}, r"remove them and set data\.kuairec\.watch_ratio"),
            ({"text_columns": ("captions",)}, r"data\.text_columns is .* Did you mean 'caption'"),
            ({"title_column": "name"}, r"data\.title_column is 'name', but the columns are video"),
        ],
    )
    def test_wrong_settings(self, write: Write, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read(dataclasses.replace(write(), **changes))

    @pytest.mark.parametrize("name", ["small_matrix.csv", "kuairec_caption_category.csv"])
    def test_missing_and_empty_files(self, write: Write, name: str) -> None:
        config = write(kuairec={"matrix": "small"})
        path = Path(str(config.path)) / name
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=rf"data\.path: .*{name} is empty"):
            read(config)
        path.unlink()
        with pytest.raises(ValueError, match=rf"has no {name}"):
            read(config)

    def test_other_columns(self, write: Write) -> None:
        config = write()
        folder = Path(str(config.path))
        captions = folder / "kuairec_caption_category.csv"
        content = captions.read_text().replace("caption,topic_tag", "topic_tag,caption", 1)
        captions.write_text(content)
        with pytest.raises(
            ValueError, match=r"line has to be video_id,manual_cover_text,caption,topic"
        ):
            read(config)
        (folder / "big_matrix.csv").write_bytes(text(MATRIX.replace("timestamp", "stamp"), BIG))
        with pytest.raises(ValueError, match="'timestamp', but the columns are user_id, video_id"):
            read(config)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"matrix": "large"}, r"data\.kuairec\.matrix is 'large', .*'big', 'small'"),
            ({"watch_ratio": -0.1}, r"data\.kuairec\.watch_ratio is -0\.1, .*0 or more"),
            ({"watch_ratio": float("inf")}, r"data\.kuairec\.watch_ratio is inf"),
            ({"watch_ratio": float("nan")}, r"data\.kuairec\.watch_ratio is nan"),
        ],
    )
    def test_settings_out_of_range(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_config(DataConfig(kuairec=KuaiRecConfig(**changes)))
        check_config(DataConfig(kuairec=KuaiRecConfig("small", 0.0)))

    def test_its_settings_count_for_no_other_format(self) -> None:
        def fingerprint(format: str, ratio: float) -> str:
            config = DataConfig(format=format, kuairec=KuaiRecConfig(watch_ratio=ratio))  # type: ignore[arg-type]
            return compute_fingerprint(config, [])

        assert fingerprint("table", 1.0) == fingerprint("table", 2.0)
        assert fingerprint("kuairec", 1.0) != fingerprint("kuairec", 2.0)


def test_prepared(write: Write) -> None:
    videos = [148, 183, 3649, 9598]
    rows = [view(u, videos[(u + k) % 4], f"{FIRST + k}.5", 1.5) for u in range(3) for k in range(4)]
    little = [view(u, 148, FIRST + 50, 1.0) for u in range(3)]
    broken = [*CAPTIONS[:2], CAPTIONS[2].replace('"#', "#"), CAPTIONS[3]]
    dataset = Dataset.load(prepare(write(broken, big=[*rows, *little])))
    raw = dataset.item_table["raw_item_id"].to_list()
    for user, name in enumerate(dataset.user_table["raw_user_id"]):
        at = slice(dataset.user_offsets[user], dataset.user_offsets[user + 1])
        found = [int(raw[item]) for item in dataset.items[at]]
        assert found == [videos[(int(name) + k) % 4] for k in range(4)]
        assert dataset.split[at].tolist() == [0, 0, 1, 2]
    titles = dict(dataset.item_table.select("raw_item_id", "title").rows())
    assert titles["3649"] == "#搞笑 真美, 好"
    assert titles["183"] == "183"
    assert dataset.manifest["dropped"]["rows"]["watched_too_little"] == 3
    assert dataset.manifest["malformed"]["items"]["count"] == 0
    assert [source["file"] for source in dataset.manifest["sources"]] == [
        "big_matrix.csv",
        "kuairec_caption_category.csv",
    ]
    assert np.bincount(dataset.split).tolist() == [6, 3, 3]
