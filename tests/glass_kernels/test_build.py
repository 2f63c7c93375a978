"""setup.py: what it builds, leaves out and refuses, run on a copy of the build files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")

AFTER_TORCH_2_11 = ("STABLE_TORCH_ERROR_CODE_CHECK",)
"""Names that the headers of torch 2.11 lack, and that once were used."""


def test_sources_use_nothing_that_the_oldest_torch_lacks() -> None:
    for path in ROOT.glob("csrc/**/*.*"):
        if path.suffix in (".h", ".cpp", ".cu"):
            assert not [name for name in AFTER_TORCH_2_11 if name in path.read_text()], path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for package in ("glass", "glass_kernels"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def build(
    checkout: Path, *, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py after the Python statements `before`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GLASS_")}
    return subprocess.run(
        [sys.executable, "-c", f"{before}\n{RUN}", "-q", "build_ext", "--inplace"],
        cwd=checkout,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def note(checkout: Path) -> str:
    return (checkout / "glass_kernels" / "_build.txt").read_text()


RUN = "import runpy; runpy.run_path('setup.py', run_name='__main__')"
NO_COMPILER = {"CC": "false", "CXX": "false"}
NO_NINJA = """
import shutil
which = shutil.which
shutil.which = lambda name, **where: None if name == "ninja" else which(name, **where)
"""


def test_failing_compiler_is_a_note_by_default(checkout: Path) -> None:
    done = build(checkout, **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert "the cpp operators are left out" in done.stderr
    assert "cpp: not built: " in note(checkout)
    assert "install a C++20 compiler" in note(checkout)
    assert not list(checkout.glob("glass_kernels/_cpp*"))


def test_failing_compiler_is_an_error_on_request(checkout: Path) -> None:
    done = build(checkout, GLASS_BUILD_CPP="1", **NO_COMPILER)
    assert done.returncode != 0
    assert "GLASS_BUILD_CPP=1 failed: " in done.stderr
    assert "install a C++20 compiler" in done.stderr


def test_left_out_on_request(checkout: Path) -> None:
    done = build(checkout, GLASS_BUILD_CPP="0", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr


def test_no_cuda_sources(checkout: Path) -> None:
    shutil.rmtree(checkout / "csrc" / "cuda", ignore_errors=True)
    done = build(checkout, GLASS_BUILD_CPP="0", GLASS_BUILD_CUDA="1")
    assert done.returncode != 0
    assert "GLASS_BUILD_CUDA=1 cannot be done: this version has no CUDA sources" in done.stderr


def test_cuda_without_nvcc(checkout: Path) -> None:
    (checkout / "csrc" / "cuda").mkdir(exist_ok=True)
    (checkout / "csrc" / "cuda" / "op.cu").touch()
    nowhere = {"CUDA_HOME": str(checkout), "PATH": str(checkout)}
    done = build(checkout, GLASS_BUILD_CPP="0", GLASS_BUILD_CUDA="1", **nowhere)
    assert done.returncode != 0
    assert "set CUDA_HOME" in done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch here has CUDA")
def test_cuda_is_left_to_a_torch_that_has_it(checkout: Path) -> None:
    done = build(checkout, GLASS_BUILD_CPP="0")
    assert done.returncode == 0, done.stderr
    assert not list(checkout.glob("glass_kernels/_cuda*"))
    assert "cuda: not built: torch here has no CUDA" in note(checkout)
    assert "GLASS_BUILD_CUDA=1" in note(checkout)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.static
def test_cuda_library_loads_without_a_gpu(checkout: Path) -> None:
    shutil.rmtree(checkout / "csrc" / "cpu")
    done = build(checkout, GLASS_BUILD_CPP="0", GLASS_BUILD_CUDA="1", GLASS_CUDA_ARCHS="90")
    assert done.returncode == 0, done.stderr
    assert "cuda: built\n" in note(checkout)
    (library,) = checkout.glob("glass_kernels/_cuda*")
    code = (
        f"import torch; torch.ops.load_library({str(library)!r}); "
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('glass::sid_tier', 'CUDA'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_without_ninja(checkout: Path) -> None:
    done = build(checkout, before=NO_NINJA)
    assert done.returncode == 0, done.stderr
    assert "cpp: not built: no ninja, which runs the compilers; pip install ninja" in note(checkout)
    done = build(checkout, before=NO_NINJA, GLASS_BUILD_CPP="1")
    assert done.returncode != 0
    assert "GLASS_BUILD_CPP=1 cannot be done: no ninja" in done.stderr


def test_setuptools_that_is_too_old(checkout: Path) -> None:
    done = build(checkout, before="import setuptools; setuptools.__version__ = '76.1.0'")
    assert done.returncode != 0
    assert done.stderr.endswith("pip install 'setuptools>=77'\n")


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")


@pytest.fixture
def small(checkout: Path) -> Path:
    """Two sources that compile in no time; the first includes a header."""
    shutil.rmtree(checkout / "csrc")
    for name, text in {
        "registration.cpp": "",
        "common/own.h": "",
        "cpu/first.cpp": '#include "../common/own.h"\n',
        "cpu/second.cpp": "",
    }.items():
        (checkout / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "csrc" / name).write_text(text)
    return checkout


def compiled(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^\[\d+/\d+\] compile csrc/(\S+)$", done.stdout, re.MULTILINE))


EVERY = {"registration.cpp", "cpu/first.cpp", "cpu/second.cpp"}


@needs_compiler
def test_what_has_changed_is_compiled(small: Path) -> None:
    assert compiled(build(small)) == EVERY
    assert compiled(build(small)) == set()
    (small / "csrc/common/own.h").write_text("// changed\n")
    assert compiled(build(small)) == {"cpu/first.cpp"}
    assert compiled(build(small, CXXFLAGS="-DOTHER")) == EVERY
    assert "cpp: built\n" in note(small)


@needs_compiler
def test_editable_builds_keep_what_they_compiled(small: Path) -> None:
    editable = "from setuptools import build_meta; build_meta.build_editable('wheels')"
    (small / "wheels").mkdir()
    for expected in (EVERY, set()):
        command = [sys.executable, "-c", editable]
        done = subprocess.run(command, cwd=small, capture_output=True, text=True, check=False)
        assert compiled(done) == expected
        assert (small / "glass_kernels" / "_cpp.abi3.so").exists()


@needs_compiler
def test_library_of_earlier_sources_is_not_left(small: Path) -> None:
    library = small / "glass_kernels" / "_cpp.abi3.so"
    for broken in ({"GLASS_BUILD_CPP": "0"}, NO_COMPILER):
        assert build(small).returncode == 0
        assert library.exists()
        assert build(small, **broken).returncode == 0
        assert not library.exists()


@needs_compiler
def test_jobs_are_for_ninja(small: Path) -> None:
    done = build(small, GLASS_BUILD_CPP="1", MAX_JOBS="several")
    assert done.returncode != 0
    assert "invalid -j parameter" in done.stderr


def test_misspelt_mode(checkout: Path) -> None:
    done = build(checkout, GLASS_BUILD_CPP="yes")
    assert done.returncode != 0
    assert "GLASS_BUILD_CPP is 'yes'; it must be auto, 0 or 1" in done.stderr


@needs_compiler
def test_compiler_builds_the_library(checkout: Path) -> None:
    shutil.rmtree(checkout / "csrc" / "cpu")  # the schemas alone: compiling kernels takes a while
    done = build(checkout, GLASS_BUILD_CPP="1")
    assert done.returncode == 0, done.stderr
    assert "cpp: built\n" in note(checkout)
    assert [path.name for path in checkout.glob("glass_kernels/_cpp*")] == ["_cpp.abi3.so"]


def test_version_is_the_same_everywhere() -> None:
    import glass_kernels

    assert f'version = "{glass_kernels.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {glass_kernels.__version__}\n" in (ROOT / "CITATION.cff").read_text()
