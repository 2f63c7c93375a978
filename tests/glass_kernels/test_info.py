"""`python -m glass_kernels.info` and what it knows about a library that is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import glass_kernels
from glass_kernels import info, library
from glass_kernels.backend import BACKENDS


@pytest.fixture
def _fresh_load():
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_command_prints_every_op_and_backend() -> None:
    command = [sys.executable, "-m", "glass_kernels.info"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    for op in info.op_backends():
        assert any(line.split()[:1] == [op] for line in lines), op
    for name in BACKENDS:
        assert any(line.startswith(name) for line in lines), name
    table = [line for line in lines if line.startswith(("op ", "sid_tier "))]
    assert table[0].index("reference") == table[1].rindex("yes")  # columns line up


def test_every_op_has_a_reference() -> None:
    for op, backends in info.op_backends().items():
        assert backends[-1] == "reference", op
        assert op in glass_kernels.__all__


def test_every_public_op_is_a_function_not_a_module() -> None:
    for op in info.op_backends():
        assert callable(getattr(glass_kernels, op)), op


@pytest.mark.usefixtures("_fresh_load")
def test_absent_library_says_what_the_build_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "BUILD_NOTE", tmp_path / "_build.txt")
    assert library.load("cpp")[0] is False
    assert "GLASS_BUILD_CPP=1" in library.load("cpp")[1]
    library.load.cache_clear()
    (tmp_path / "_build.txt").write_text("cpp: not built: g++ broke\ncuda: left out\n")
    assert library.load("cpp") == (False, "not built: g++ broke")
    assert library.load("cuda") == (False, "left out")
    library.load.cache_clear()
    (tmp_path / "_build.txt").write_text("cpp: built\n")
    assert library.load("cpp") == (False, "built, but its file is gone; install again")


@pytest.mark.usefixtures("_fresh_load")
def test_broken_library_does_not_stop_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_cpp.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    loaded, reason = library.load("cpp")
    assert not loaded
    assert "cannot load it" in reason


@pytest.mark.usefixtures("_fresh_load")
def test_library_of_older_sources_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if not library.load("cpp")[0]:
        pytest.skip("the C++ library is not built")
    library.load.cache_clear()
    monkeypatch.setattr(library, "OPERATORS", (*library.OPERATORS, "newest_of_all"))
    loaded, reason = library.load("cpp")
    assert not loaded
    assert "without newest_of_all; build it again" in reason


def test_every_schema_is_expected_of_the_library() -> None:
    registration = library.FOLDER.parent / "csrc" / "registration.cpp"
    assert set(re.findall(r'"(\w+)\(', registration.read_text())) == set(library.OPERATORS)


def test_it_says_for_which_cards_settings_are_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "TUNING", tmp_path)
    assert "settings of Triton kernels: none\n" in info.report()
    (tmp_path / "sm_80.json").write_text('{"measured": {"card": "A100"}, "settings": {}}')
    (tmp_path / "sm_90.json").write_text('{"measured": null, "settings": {}}')
    assert "sm_80 (measured), sm_90 (guesses, never measured)\n" in info.report()
