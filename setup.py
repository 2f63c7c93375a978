"""The extensions only; everything else about the package is in pyproject.toml.

GLASS_BUILD_CPP and GLASS_BUILD_CUDA: `auto` (default: build if it can be, else say why not), `0`
(leave out) or `1` (fail if it cannot be built). CUDA is `auto`-built only where torch has CUDA:
nothing else could use it. GLASS_CUDA_ARCHS, such as `90` or `80,90a`, builds for these alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

ROOT = Path(__file__).resolve().parent
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # loads under torch 2.11 and later
CXX_FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-Wno-unused-parameter", STABLE_ABI]
NVCC_FLAGS = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-cudart=static"]
NVCC_ARCHS = ("75", "80", "86", "89", "90", "100", "120")


class CannotBuildError(Exception):
    """A library cannot be built here; the message ends with the remedy."""


def sources(folder: str, pattern: str) -> list[str]:
    return [str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc" / folder).glob(pattern))]


def mode(name: str) -> str:
    variable = f"GLASS_BUILD_{name.upper()}"
    value = os.environ.get(variable, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{variable} is {value!r}; it must be auto, 0 or 1")
    return value


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")  # found, not imported: that takes seconds
    if spec is None or spec.origin is None:
        raise CannotBuildError("torch is not installed where this is built; install it first")
    return Path(spec.origin).parent


def find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")
    if nvcc is None:
        raise CannotBuildError("no nvcc; install the CUDA toolkit and set CUDA_HOME to its folder")
    return nvcc


def cpp_extension() -> Extension:
    torch = torch_folder()
    return Extension(
        "glass_kernels._cpp",
        ["csrc/registration.cpp", *sources("cpu", "*.cpp")],
        depends=sources("common", "*.h") + sources("cpu", "*.h"),
        include_dirs=[str(torch / "include")],
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu", "c10"],
        extra_compile_args=CXX_FLAGS,
        language="c++",
        py_limited_api=True,
    )


def cuda_extension() -> Extension:
    files = sources("cuda", "*.cu")
    if not files:
        raise CannotBuildError("this version has no CUDA sources; use a Triton or C++ backend")
    torch = torch_folder()
    if mode("cuda") == "auto" and not (torch / "lib" / "libtorch_cuda.so").exists():
        raise CannotBuildError(
            "torch here has no CUDA; install a torch that has, or set GLASS_BUILD_CUDA=1"
        )
    find_nvcc()
    return Extension(
        "glass_kernels._cuda",
        [*files, *sources("cuda", "*.cpp")],
        depends=sources("common", "*.h") + sources("cuda", "*.h"),
        include_dirs=[str(torch / "include")],
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu", "c10"],
        language="c++",
        py_limited_api=True,
    )


def cuda_archs(nvcc: str) -> list[str]:
    """Architectures to compile for: those asked for, else of ours all that this nvcc knows."""
    asked = os.environ.get("GLASS_CUDA_ARCHS", "").replace(",", " ").split()
    if asked:
        return asked
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    return [arch for arch in NVCC_ARCHS if f"sm_{arch}" in known.stdout.split()]


def planned() -> tuple[list[Extension], dict[str, str]]:
    """Extensions to build, and why the others are left out."""
    extensions, left_out = [], {}
    for name, make in (("cpp", cpp_extension), ("cuda", cuda_extension)):
        wanted = mode(name)
        if wanted == "0":
            left_out[name] = f"left out: GLASS_BUILD_{name.upper()}=0 when it was installed"
            continue
        try:
            extension = make()
        except CannotBuildError as error:
            if wanted == "1":
                raise SystemExit(f"GLASS_BUILD_{name.upper()}=1 cannot be done: {error}") from error
            left_out[name] = f"not built: {error}"
            continue
        extension.optional = wanted == "auto"  # setuptools goes on when an optional one fails
        extensions.append(extension)
    return extensions, left_out


EXTENSIONS, OUTCOME = planned()


class BuildExtensions(build_ext):
    """Builds what it can, and writes what became of it to `glass_kernels/_build.txt`."""

    def run(self) -> None:
        folder = ROOT if self.inplace else Path(self.build_lib)
        super().run()
        note = folder / "glass_kernels" / "_build.txt"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("".join(f"{name}: {text}\n" for name, text in sorted(OUTCOME.items())))

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition("._")[2]
        try:
            if name == "cuda":
                self._build_cuda(ext)
            else:
                super().build_extension(ext)
        except Exception as error:  # compilers fail in many ways
            reason = " ".join(str(error).split()) or type(error).__name__
            if name == "cpp":
                reason += "; install a C++20 compiler (g++ 11, clang 14 or later) and install again"
            if not ext.optional:
                raise SystemExit(f"GLASS_BUILD_{name.upper()}=1 failed: {reason}") from error
            OUTCOME[name] = f"not built: {reason}"
            print(f"warning: the {name} operators are left out: {reason}", file=sys.stderr)
            raise BaseError(reason) from error
        OUTCOME[name] = "built"

    def _build_cuda(self, ext: Extension) -> None:
        """Compiles and links with nvcc alone, which hands the .cpp files to the host compiler."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        nvcc = find_nvcc()
        archs = cuda_archs(nvcc)
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        # PTX of the newest plain one, for cards that come later
        plain = [arch for arch in archs if arch.isdecimal()]
        codes += [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in plain[-1:]]
        command = [nvcc, "-shared", *NVCC_FLAGS, STABLE_ABI, *codes]
        command += [f"-I{folder}" for folder in ext.include_dirs]
        command += [f"-L{folder}" for folder in ext.library_dirs]
        command += [*ext.sources, *(f"-l{name}" for name in ext.libraries), "-o", str(target)]
        subprocess.run(command, check=True)


setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if EXTENSIONS else {},
)
