from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.data import preparation as prepare_module
from glass.data.assembly import spill, steps
from glass.data.preparation import compute_fingerprint
from glass.data.store import FILES, MANIFEST

EVENTS = [
    ("b", "y", 1),
    ("b", "x", 1),
    ("b", "x", 2),
    ("b", "z", 3),
    ("b", "y", 4),
    ("a", "x", 1),
    ("a", "y", 2),
    ("a", "w", 3),
    ("c", "x", 9),
]
Writer = Callable[..., DataConfig]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


class TestResult:
    def test_tables_by_hand(self, table: Writer) -> None:
        folder = prepare(table(EVENTS, ties="stable"))
        assert folder.name == "set"
        # Test: b's y at 4 and a's w at 3; validation: b's z at 3 and a's y at 2; the items
        # w and z have no training event.
        assert pl.read_parquet(folder / "interactions.parquet").rows() == [
            (0, 0, 1, 0, 0),
            (0, 1, 2, 1, 1),
            (1, 1, 1, 0, 0),
            (1, 0, 1, 0, 0),
            (1, 0, 2, 1, 0),
            (1, 1, 4, 2, 2),
        ]
        assert pl.read_parquet(folder / "items.parquet").rows() == [
            (0, "x", "x", "", 3),
            (1, "y", "y", "", 1),
        ]
        assert pl.read_parquet(folder / "users.parquet").rows() == [(0, "a"), (1, "b")]

    def test_manifest_accounts_for_every_event(self, table: Writer) -> None:
        manifest = json.loads((prepare(table(EVENTS)) / MANIFEST).read_text())
        assert manifest["format_version"] == 1
        assert manifest["counts"] == {
            "users": 2,
            "items": 2,
            "events": 6,
            "groups": 5,
            "items_without_text": 2,
            "source_users": 3,
            "source_items": 4,
            "source_events": 9,
            "first_time": 1,
            "last_time": 4,
        }
        assert manifest["split"] == {
            "train": {"events": 4, "groups": 3},
            "valid": {"events": 1, "groups": 1},
            "test": {"events": 1, "groups": 1},
        }
        assert manifest["dropped"] == {
            "rows": {},
            "users_with_one_event": {"users": 1, "events": 1},
            "users_with_few_events": {"users": 0, "events": 0},
            "rare_items": {"items": 2, "events": 2},
            "users_without_training_events": {"users": 0, "events": 0},
            "by_split": {
                "train": {"events": 0, "share": 0.0},
                "valid": {"events": 1, "share": 0.5},
                "test": {"events": 1, "share": 0.5},
            },
            "items_without_events": 0,
        }
        assert [source["file"] for source in manifest["sources"]] == ["events.csv"]
        assert DataConfig(**manifest["config"]).min_item_events == 1

    def test_items_of_the_item_file_stay_without_events(
        self, table: Writer, tmp_path: Path
    ) -> None:
        path = tmp_path / "items.csv"
        path.write_text("item_id,name,kind\nx,Xylo,wood\nq,Queue,line\nw,,\n")
        config = table(
            EVENTS,
            items_path=str(path),
            title_column="name",
            text_columns=("kind",),
            min_item_events=0,
        )
        dataset = Dataset.load(prepare(config))
        assert dataset.item_table.rows() == [
            (0, "q", "Queue", "line", 0),
            (1, "w", "w", "", 0),
            (2, "x", "Xylo", "wood", 3),
            (3, "y", "y", "", 1),
        ]
        assert dataset.manifest["counts"]["items_without_text"] == 2
        assert dataset.manifest["dropped"]["items_without_events"] == 1

    def test_user_filter_counts_all_events(self, table: Writer) -> None:
        # a has three events, of which the item filter leaves two.
        dataset = Dataset.load(prepare(table(EVENTS, min_user_events=3)))
        assert dataset.user_table["raw_user_id"].to_list() == ["a", "b"]
        dataset = Dataset.load(prepare(table(EVENTS, min_user_events=4)))
        assert dataset.user_table["raw_user_id"].to_list() == ["b"]
        few = dataset.manifest["dropped"]["users_with_few_events"]
        assert few == {"users": 1, "events": 3}

    def test_item_filter_counts_training_events(self, table: Writer) -> None:
        # y has four events in all, one of them in training.
        dataset = Dataset.load(prepare(table(EVENTS, min_item_events=2)))
        assert dataset.item_table["raw_item_id"].to_list() == ["x"]

    def test_users_without_training_events_are_dropped(self, table: Writer) -> None:
        late = [("late", "x", 50 + k) for k in range(3)]
        early = [(user, "x", k) for user in "ab" for k in range(10)]
        dataset = Dataset.load(
            prepare(table(early + late, split="time", test_share=0.2, valid_share=0.0))
        )
        assert dataset.user_table["raw_user_id"].to_list() == ["a", "b"]
        dropped = dataset.manifest["dropped"]
        assert dropped["users_without_training_events"] == {"users": 1, "events": 3}
        # Test is everything from time 9 on: one event of a, one of b, three of late.
        assert dropped["by_split"]["test"] == {"events": 3, "share": 0.6}

    def test_complete_journey(self, complete_journey_package: Path, tmp_path: Path) -> None:
        config = DataConfig(folder=str(tmp_path), min_item_events=1, min_user_events=2)
        dataset = Dataset.load(prepare(config))
        assert dataset.item_table["raw_item_id"].to_list() == ["25", "31"]
        assert dataset.manifest["dropped"]["rows"]["quantity_zero"] == 1


class TestRepeats:
    EVENTS = (
        *(("a", item, time) for item, time in (("x", 1), ("y", 2), ("x", 1), ("y", 3), ("x", 1))),
        *(("b", item, 1) for item in ("x", "y")),
        *(("c", "x", 2) for _ in range(2)),
    )

    @pytest.mark.parametrize("rows_in_memory", [1_000, 4])
    def test_dropped_where_a_config_asks_for_it(
        self, table: Writer, rows_in_memory: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spill, "ROWS_IN_MEMORY", rows_in_memory)
        kept = Dataset.load(prepare(table(self.EVENTS)))
        assert (kept.num_users, kept.num_events) == (3, 9)
        assert "repeated_events" not in kept.manifest["dropped"]
        once = Dataset.load(prepare(table(self.EVENTS, drop_repeats=True)))
        # c has one event left, and goes.
        assert (once.num_users, once.num_events) == (2, 5)
        assert once.manifest["dropped"]["repeated_events"] == {"events": 3}
        assert once.manifest["dropped"]["users_with_one_event"] == {"users": 1, "events": 1}


def test_fingerprints_stay_when_settings_come() -> None:
    known = {
        "complete_journey": "347bb6943a331ad3",
        "taobao_mm": "21c5855dd7d5ccae",
        "table": "bbd8201bc832b6e9",
    }
    for format_, start in known.items():
        config = DataConfig(format=format_)  # type: ignore[arg-type]
        assert compute_fingerprint(config, [])[:16] == start
    changed = compute_fingerprint(DataConfig(drop_repeats=True), [])
    assert changed != compute_fingerprint(DataConfig(), [])


class TestIdempotence:
    def test_second_call_reads_nothing(
        self, table: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = table(EVENTS)
        folder = prepare(config)
        stamp = (folder / MANIFEST).stat().st_mtime_ns
        monkeypatch.setattr(prepare_module, "assemble", None)
        assert prepare(config) == folder
        assert (folder / MANIFEST).stat().st_mtime_ns == stamp
        with pytest.raises(TypeError):
            prepare(config, force=True)
        with pytest.raises(TypeError):
            prepare(dataclasses.replace(config, seed=1))

    def test_changed_source_is_read_again(self, table: Writer) -> None:
        prepare(table(EVENTS))
        assert Dataset.load(prepare(table(EVENTS[:-2]))).num_events == 5 + 1

    def test_same_input_gives_the_same_bytes(self, table: Writer) -> None:
        first = content(prepare(table(EVENTS)))
        assert content(prepare(table(EVENTS), force=True)) == first

    def test_moved_sources_and_folders_keep_the_fingerprint(
        self, table: Writer, tmp_path: Path
    ) -> None:
        config = table(EVENTS)
        first = Dataset.load(prepare(config))
        (tmp_path / "moved").mkdir()
        moved = tmp_path / "moved" / "events.csv"
        Path(str(config.path)).rename(moved)
        again = dataclasses.replace(config, path=str(moved), folder=str(tmp_path / "other"))
        second = Dataset.load(prepare(again))
        assert first.manifest["fingerprint"] == second.manifest["fingerprint"]

    @pytest.mark.parametrize("file", [*FILES, MANIFEST])
    def test_damaged_folder_is_made_anew(self, table: Writer, file: str) -> None:
        folder = prepare(table(EVENTS))
        (folder / file).unlink()
        if file == MANIFEST:
            with pytest.raises(ValueError, match="is not a prepared data set"):
                prepare(table(EVENTS))
        else:
            Dataset.load(prepare(table(EVENTS)))

    def test_caches_survive_a_new_version(self, table: Writer) -> None:
        folder = prepare(table(EVENTS))
        (folder / "cache").mkdir()
        (folder / "cache" / "vectors").write_text("v")
        prepare(table(EVENTS, seed=1))
        assert (folder / "cache" / "vectors").read_text() == "v"


class TestInterruption:
    @pytest.mark.parametrize(
        ("module", "step"),
        [
            (prepare_module, "assemble"),
            (steps, "sort_users"),
            (steps, "write_events"),
            (prepare_module, "write_json"),
        ],
    )
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_nothing_is_left(
        self,
        table: Writer,
        monkeypatch: pytest.MonkeyPatch,
        module: object,
        step: str,
        error: type[BaseException],
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error("stop")

        config = table(EVENTS)
        with monkeypatch.context() as patch:
            patch.setattr(module, step, fail)
            with pytest.raises(error):
                prepare(config)
        assert list(Path(config.folder).iterdir()) == []
        before = content(prepare(config))
        with monkeypatch.context() as patch:
            patch.setattr(module, step, fail)
            with pytest.raises(error):
                prepare(dataclasses.replace(config, seed=1))
        assert content(Path(config.folder) / "set") == before
        assert beside(Path(config.folder) / "set") == ["set"]

    def test_killed_process_leaves_no_data_set(self, table: Writer) -> None:
        config = table(EVENTS)
        code = (
            "import os, signal\n"
            "from glass.config import DataConfig, KuaiRecConfig, TaobaoMmConfig\n"
            "from glass.data import preparation, prepare\n"
            "preparation.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"prepare({config!r})\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True)
        assert done.returncode == -signal.SIGKILL
        (left,) = Path(config.folder).iterdir()
        assert ".tmp-" in left.name
        with pytest.raises(ValueError, match="is not a prepared data set"):
            Dataset.load(left)
        Dataset.load(prepare(config))
        assert beside(Path(config.folder) / "set") == ["set"]

    def test_folders_of_living_processes_stay(self, table: Writer) -> None:
        config = table(EVENTS)
        folder = Path(config.folder)
        living = folder / f"set.tmp-{os.getppid()}"
        other = folder / "other.tmp-999999999"
        for path in (living, other, folder / "set.tmp-999999999", folder / "set.old-999999999"):
            path.mkdir(parents=True)
        prepare(config)
        assert beside(folder / "set") == sorted(["set", living.name, other.name])


class TestFailures:
    def test_too_many_malformed_rows(self, table: Writer) -> None:
        events = [*EVENTS, ("d", "", 4), ("d", "x", "soon"), ("d", "x,y", 4)]
        with pytest.raises(ValueError, match=r"3 of 12 interactions .*events\.csv:11 missing item"):
            prepare(table(events))
        folder = prepare(table(events, max_malformed_share=0.25))
        malformed = json.loads((folder / MANIFEST).read_text())["malformed"]["interactions"]
        assert malformed["reasons"] == {
            "wrong number of columns": 1,
            "missing item": 1,
            "unreadable time": 1,
        }
        assert [place["row"] for place in malformed["first"]] == [11, 12, 13]

    def test_no_events(self, table: Writer) -> None:
        with pytest.raises(ValueError, match=r"events\.csv has no events"):
            prepare(table([]))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"min_user_events": 6}, "no user has at least 6 events .*has 5.*min_user_events"),
            ({"min_item_events": 4}, "no item has 4 training events .*has 3.*min_item_events"),
            ({"name": "a/b"}, r"data\.name"),
            ({"name": ""}, r"data\.name"),
            ({"format": "excel"}, r"data\.format is 'excel'.*'table'"),
            ({"ties": "random"}, r"data\.ties"),
            ({"test_share": 1.0}, r"data\.test_share"),
            ({"valid_share": -0.1}, r"data\.valid_share"),
            ({"num_test_events": -1}, r"data\.num_test_events"),
            ({"max_malformed_share": 2}, r"data\.max_malformed_share"),
        ],
    )
    def test_settings(self, table: Writer, changes: dict[str, object], message: str) -> None:
        config = table(EVENTS, **changes)
        with pytest.raises(ValueError, match=message):
            prepare(config)
        assert not Path(config.folder).exists() or not list(Path(config.folder).iterdir())

    def test_time_split_without_training_events(self, table: Writer) -> None:
        events = [(user, "x", 7) for user in "aabb"]
        with pytest.raises(ValueError, match=r"no training event.*data\.test_share"):
            prepare(table(events, split="time", test_share=0.5))

    def test_foreign_folder_is_left_alone(self, table: Writer) -> None:
        config = table(EVENTS)
        folder = Path(config.folder) / "set"
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("precious")
        with pytest.raises(ValueError, match=r"holds thesis\.txt"):
            prepare(config, force=True)
        assert content(folder) == {"thesis.txt": b"precious"}

    def test_folder_below_a_file(self, table: Writer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        config = table(EVENTS, folder=str(tmp_path / "file" / "data"))
        with pytest.raises(OSError, match=r"cannot write the data set .*data\.folder"):
            prepare(config)

    def test_unwritable_folder_is_found_before_reading(
        self, table: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        config = table(EVENTS)
        monkeypatch.setattr(Path, "mkdir", denied)
        monkeypatch.setattr(prepare_module, "assemble", None)
        with pytest.raises(PermissionError, match="a folder that you may write to"):
            prepare(config)

    def test_full_disk(self, table: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
        config = table(EVENTS)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(prepare_module, "write_json", full)
        with pytest.raises(OSError, match=r"No space left .*free some disk space") as caught:
            prepare(config)
        assert caught.value.errno == errno.ENOSPC
        assert list(Path(config.folder).iterdir()) == []

    def test_write_that_breaks_off_in_a_table(self, table: Writer) -> None:
        config = table([(user, f"i{user}{k}", k) for user in range(30) for k in range(40)])
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                prepare(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert caught.value.errno == errno.EFBIG
        assert list(Path(config.folder).iterdir()) == []
