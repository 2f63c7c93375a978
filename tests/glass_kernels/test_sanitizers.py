"""The C++ ops under AddressSanitizer and UBSan, on every vector width, and compiled for arm64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CALLS = Path(__file__).with_name("sanitized_ops.py")
TORCH = Path(torch.__file__).parent
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
# checks of each pointer take minutes to compile, and AddressSanitizer sees what they would point to
SANITIZE = [
    "-fsanitize=address,undefined",
    "-fno-sanitize=pointer-overflow,null,object-size,alignment,vptr",
    "-fno-sanitize-recover=all",
]
RUNTIMES = ("libasan.so", "libubsan.so")

pytestmark = [pytest.mark.slow, pytest.mark.static]


def runtime_libraries(compiler: str) -> list[str]:
    """Paths of the sanitizers' libraries; an unknown one has no folder."""
    asked = (
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
        for name in RUNTIMES
    )
    return [done.stdout.strip() for done in asked]


def compile_all(compiler: str, flags: list[str], sources: list[Path], folder: Path) -> list[Path]:
    def run(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        command = [compiler, *FLAGS, *flags, f"-I{TORCH / 'include'}", "-c", str(source)]
        done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(run, sources))


def call(library: Path, runtimes: list[str], script: Path, **environment: str):
    settings = {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, str(script), str(library)],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def sanitizers() -> tuple[str, list[str]]:
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux")
    runtimes = runtime_libraries(compiler)
    if not all(os.path.isabs(path) for path in runtimes):
        pytest.skip("g++ has no AddressSanitizer")
    return compiler, runtimes


def link(compiler: str, objects: list[Path], library: Path) -> None:
    command = [compiler, "-shared", *SANITIZE, *map(str, objects), f"-L{TORCH / 'lib'}"]
    command += ["-ltorch_cpu", "-lc10", "-o", str(library)]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def library(sanitizers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    sources = [CSRC / "registration.cpp", *sorted((CSRC / "cpu").glob("*.cpp"))]
    objects = compile_all(sanitizers[0], SANITIZE, sources, folder)
    link(sanitizers[0], objects, folder / "_cpp.so")
    return folder / "_cpp.so"


@pytest.mark.parametrize("simd", ["base", "avx2", "avx512"])
def test_ops_touch_only_their_memory(simd: str, library: Path, sanitizers) -> None:
    """A width the processor lacks is its widest."""
    done = call(library, sanitizers[1], CALLS, GLASS_CPU_SIMD=simd)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout == "finished\n"


PLANTED = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
using torch::stable::Tensor;
STABLE_TORCH_LIBRARY(planted, m) {
  m.def("past_the_end(Tensor x) -> int");
  m.def("overflow(Tensor x) -> int");
}
int64_t past_the_end(const Tensor& x) { return x.const_data_ptr<int32_t>()[x.numel()]; }
int64_t overflow(const Tensor& x) { return x.const_data_ptr<int32_t>()[0] + 1; }
STABLE_TORCH_LIBRARY_IMPL(planted, CPU, m) {
  m.impl("past_the_end", TORCH_BOX(&past_the_end));
  m.impl("overflow", TORCH_BOX(&overflow));
}
"""


@pytest.mark.parametrize(
    ("op", "report"),
    [("past_the_end", "heap-buffer-overflow"), ("overflow", "signed integer overflow")],
)
def test_planted_mistakes_are_found(op: str, report: str, sanitizers, tmp_path: Path) -> None:
    (tmp_path / "planted.cpp").write_text(PLANTED)
    objects = compile_all(sanitizers[0], SANITIZE, [tmp_path / "planted.cpp"], tmp_path)
    link(sanitizers[0], objects, tmp_path / "planted.so")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "torch.ops.load_library(sys.argv[1])\n"
        f"torch.ops.planted.{op}(torch.full((5,), 2**31 - 1, dtype=torch.int32))\n"
    )
    done = call(tmp_path / "planted.so", sanitizers[1], script)
    assert done.returncode != 0
    assert report in done.stderr


def test_compiles_for_arm64(tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("needs aarch64-linux-gnu-g++")
    sources = sorted((CSRC / "cpu").glob("*.cpp"))
    assert all(path.stat().st_size for path in compile_all(compiler, [], sources, tmp_path))
