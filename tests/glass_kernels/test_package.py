"""What a wheel and an sdist carry, asked of setuptools itself, and what `make` pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from setuptools import Distribution

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("glass", "glass_kernels")
BUILT = {".py", ".pyc", ".so", ".txt"}  # sources are no package data; _build.txt is written later


def test_wheel_carries_every_file_that_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files(["pyproject.toml"])
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    carried = {
        Path(source, name).as_posix() for _, source, _, names in build.data_files for name in names
    }
    present = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in BUILT
    }
    assert carried >= present
    assert present >= {"glass/py.typed", "glass_kernels/py.typed", "glass/report/template.html"}
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    names = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert set(distribution.packages) == names


def test_sdist_can_be_built_from(tmp_path: Path) -> None:
    wanted = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"]
    wanted += ["constraints.txt", "Makefile"]
    for name in wanted:
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("csrc", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
        wanted += [
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".cpp", ".cu", ".h", ".yaml"}
        ]
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    command = [sys.executable, "setup.py", "-q", "sdist", "--formats=tar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("dist/*.tar")
    with tarfile.open(archive) as content:
        carried = {name.partition("/")[2] for name in content.getnames()}
    assert set(wanted) <= carried


def test_constraints_are_versions_and_cover_what_is_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.+!]+", pin)] == []
    pinned = {normal(pin.partition("==")[0]) for pin in pins}
    distribution = Distribution()
    distribution.parse_config_files([str(ROOT / "pyproject.toml")])
    asked = list(distribution.install_requires)
    for extra in ("text", "test", "dev", "bench", "datasets"):
        asked += distribution.extras_require[extra]
    names = {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in asked}
    assert names <= pinned


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
