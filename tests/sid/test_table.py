import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from glass.sid import SidTable


def table():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, (4, 6), (9, 2)).astype(np.int32)
    vectors = rng.normal(size=(9, 5)).astype(np.float32)
    books = {"codebook_0": vectors[:4], "codebook_1": vectors[:6]}
    return SidTable(codes, (4, 6), vectors, books, {"fingerprint": "f"})


def test_round_trip(tmp_path):
    before = table()
    before.save(tmp_path / "run" / "sid")
    after = SidTable.load(tmp_path / "run" / "sid")
    assert np.array_equal(after.codes, before.codes)
    assert after.codes.dtype == np.int32
    assert after.codebook_sizes == (4, 6)
    assert np.array_equal(after.vectors, before.vectors)
    assert set(after.quantizer) == {"codebook_0", "codebook_1"}
    assert np.array_equal(after.quantizer["codebook_1"], before.quantizer["codebook_1"])
    assert after.manifest["fingerprint"] == "f"
    assert (after.num_items, after.num_levels) == (9, 2)
    files = {p.name for p in (tmp_path / "run" / "sid").iterdir()}
    assert files == {
        "sids.parquet",
        "vectors.safetensors",
        "quantizer.safetensors",
        "manifest.json",
    }
    # A loaded table saves and loads the same again.
    after.save(tmp_path / "copy")
    assert SidTable.load(tmp_path / "copy").manifest == after.manifest


def test_parquet_is_readable_by_others(tmp_path):
    before = table()
    before.save(tmp_path / "sid")
    frame = pl.read_parquet(tmp_path / "sid" / "sids.parquet")
    assert frame.columns == ["item_id", "sid_1", "sid_2"]
    assert set(frame.dtypes) == {pl.Int32}
    assert np.array_equal(frame.select("sid_1", "sid_2").to_numpy(), before.codes)


def test_views_are_saved_as_they_look(tmp_path):
    base = table()
    vectors = np.asfortranarray(base.vectors)
    SidTable(np.asfortranarray(base.codes), (4, 6), vectors).save(tmp_path / "sid")
    after = SidTable.load(tmp_path / "sid")
    assert np.array_equal(after.vectors, base.vectors)
    assert np.array_equal(after.codes, base.codes)


def test_saving_replaces_and_leaves_nothing_beside(tmp_path):
    table().save(tmp_path / "sid")
    (tmp_path / "sid" / "stray").write_text("")
    changed = replace(table(), vectors=2 * table().vectors)
    changed.save(tmp_path / "sid")
    assert np.array_equal(SidTable.load(tmp_path / "sid").vectors, changed.vectors)
    assert [p.name for p in tmp_path.iterdir()] == ["sid"]
    assert not (tmp_path / "sid" / "stray").exists()


@pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_save_keeps_the_old_folder(kind, tmp_path, monkeypatch):
    table().save(tmp_path / "sid")

    def fail(*_):
        raise kind

    monkeypatch.setattr("glass.sid.table.save_file", fail)
    with pytest.raises(type(kind)) as raised:
        replace(table(), vectors=2 * table().vectors).save(tmp_path / "sid")
    if isinstance(kind, OSError):
        assert "No space left on device" in str(raised.value)
        assert str(tmp_path / "sid") in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["sid"]
    assert np.array_equal(SidTable.load(tmp_path / "sid").vectors, table().vectors)


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .* choose a folder"):
        table().save(tmp_path / "file" / "sid")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        table().save(tmp_path / "file")


def test_other_peoples_folders_are_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"holds notes\.txt and no semantic IDs"):
        table().save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    table().save(tmp_path / "empty")
    assert SidTable.load(tmp_path / "empty").num_items == 9


def test_leftovers_of_dead_processes_go(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"sid.tmp-{dead.pid}", f"sid.old-{dead.pid}", "sid.tmp-1", "other.tmp-1"):
        (tmp_path / name).mkdir()
    table().save(tmp_path / "sid")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"sid", "sid.tmp-1", "other.tmp-1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": table().codes.astype(np.int64)}, r"int64 \[9, 2\]; they must be int32"),
        ({"codes": table().codes[:, :1]}, r"int32 \[9, 1\]"),
        ({"codebook_sizes": (4, 6, 6)}, r"int32 \[9, 2\]; they must be int32 \[V, 3\]"),
        ({"codebook_sizes": (4, 2)}, r"codes outside the codebook sizes \[4, 2\]"),
        ({"codes": table().codes - 4}, "codes outside"),
        ({"vectors": table().vectors[:8]}, r"float32 \[8, 5\]; they must be float32 \[9, D\]"),
        ({"vectors": table().vectors.astype(np.float64)}, "float64"),
        ({"vectors": np.full((9, 5), np.nan, np.float32)}, "not all finite"),
    ],
)
def test_a_table_must_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(table(), **changes)


def rewrite(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def reverse(folder):
    path = folder / "sids.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "holds no semantic IDs"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "is not a JSON object"),
        (lambda f: rewrite(f, format_version=9), "has format_version 9; this version reads 1"),
        (lambda f: rewrite(f, codebook_sizes=[4, 6, 6]), "sid_3"),
        (lambda f: rewrite(f, codebook_sizes=[1, 1]), "codes outside"),
        (lambda f: rewrite(f, codebook_sizes=None), "not a complete folder"),
        (lambda f: rewrite(f, num_items=8), "does not list the items 0 to 7"),
        (lambda f: rewrite(f, num_items="x"), "not a complete folder"),
        (reverse, "does not list the items 0 to 8 in order"),
        (lambda f: (f / "sids.parquet").unlink(), "not a complete folder"),
        (lambda f: (f / "sids.parquet").write_bytes(b"PAR1"), "not a complete folder"),
        (lambda f: (f / "vectors.safetensors").write_bytes(b"\0" * 4), "not a complete folder"),
        (lambda f: (f / "quantizer.safetensors").unlink(), "not a complete folder"),
        (
            lambda f: save_file({"other": np.zeros(1)}, f / "vectors.safetensors"),
            "not a complete folder",
        ),
        (
            lambda f: save_file({"vectors": np.zeros((3, 2), "f4")}, f / "vectors.safetensors"),
            r"float32 \[3, 2\]",
        ),
    ],
)
def test_damaged_folders_are_refused(damage, message, tmp_path):
    table().save(tmp_path / "sid")
    damage(tmp_path / "sid")
    with pytest.raises(ValueError, match=message):
        SidTable.load(tmp_path / "sid")
