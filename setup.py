"""The extensions only; everything else about the package is in pyproject.toml.

GLASS_BUILD_CPP and GLASS_BUILD_CUDA: `auto` (default: build if it can be, else say why not), `0`
(leave out) or `1` (fail if it cannot be built). CUDA is `auto`-built only where torch has CUDA:
nothing else could use it. GLASS_CUDA_ARCHS, such as `90` or `80,90a`, builds for these alone.
MAX_JOBS is how many files are compiled at once (default: what ninja makes of the cores).
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, __version__, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

if int(__version__.partition(".")[0]) < 77:
    raise SystemExit(
        f"setuptools {__version__} cannot read pyproject.toml; pip install 'setuptools>=77'"
    )

ROOT = Path(__file__).resolve().parent
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # loads under torch 2.11 and later
CXX_FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-Wno-unused-parameter"]
CXX_FLAGS += ["-g0", STABLE_ABI]  # Python's own flags ask for debug information: 20 MB of it
NVCC_FLAGS = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", STABLE_ABI]
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


def find_ninja() -> str:
    # pip's isolated builds have it on PATH; a virtual environment need not be activated
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    ninja = shutil.which("ninja", path=path)
    if ninja is None:
        raise CannotBuildError("no ninja, which runs the compilers; pip install ninja")
    return ninja


def extension(name: str, files: list[str]) -> Extension:
    torch = torch_folder()
    find_ninja()
    return Extension(
        f"glass_kernels._{name}",
        files,
        include_dirs=[str(torch / "include")],
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu", "c10"],
        py_limited_api=True,
    )


def cpp_extension() -> Extension:
    return extension("cpp", ["csrc/registration.cpp", *sources("cpu", "*.cpp")])


def cuda_extension() -> Extension:
    files = sources("cuda", "*.cu")
    if not files:
        raise CannotBuildError("this version has no CUDA sources; use a Triton or C++ backend")
    if mode("cuda") == "auto" and not (torch_folder() / "lib" / "libtorch_cuda.so").exists():
        raise CannotBuildError(
            "torch here has no CUDA; install a torch that has, or set GLASS_BUILD_CUDA=1"
        )
    find_nvcc()
    return extension("cuda", [*files, *sources("cuda", "*.cpp")])


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


def run_ninja(
    folder: Path, library: Path, ext: Extension, compiler: list[str], linker: list[str]
) -> None:
    """Makes `library` out of what `ext` names; compiles only what has changed since the last time.

    A file has changed if one that it includes has, or the command that compiles it.
    """
    compiler = [*compiler, *(f"-I{path}" for path in ext.include_dirs)]
    libraries = [f"-L{path}" for path in ext.library_dirs] + [f"-l{name}" for name in ext.libraries]
    # past nvcc, which would write the folder into the library
    libraries = [word for name in libraries for word in ("-Xlinker", name)]
    objects = {source: f"{folder / source}.o" for source in ext.sources}

    def command(*words: str) -> str:
        return shlex.join(words).replace("$", "$$")

    def path(name: object) -> str:
        return str(name).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    lines = [
        f"builddir = {path(folder)}",
        "rule compile",
        f"  command = {command(*compiler)} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $in",
        "rule link",
        f"  command = {command(*linker)} $in {command(*libraries)} -o $out",
        "  description = link $out",
        *(f"build {path(objects[source])}: compile {path(source)}" for source in ext.sources),
        f"build {path(library)}: link {' '.join(map(path, objects.values()))}",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    jobs = os.environ.get("MAX_JOBS")
    arguments = ["-f", str(folder / "build.ninja"), *(["-j", jobs] if jobs else [])]
    if subprocess.run([find_ninja(), *arguments], check=False).returncode:
        name = Path(compiler[0]).name
        raise RuntimeError(f"compiling with {name} failed (`pip install -v` shows its messages)")


class Build(build):
    """Begins without the last build's files: a wheel takes all that lies in the folder."""

    # build_ext leaves its note where there is nothing to compile, too
    sub_commands: ClassVar = [
        (name, None if name == "build_ext" else needed) for name, needed in build.sub_commands
    ]

    def run(self) -> None:
        folder = Path(self.build_lib).resolve()
        if ROOT / "build" in folder.parents:  # not one that somebody named
            shutil.rmtree(folder, ignore_errors=True)
        super().run()


class BuildExtensions(build_ext):
    """Builds what it can, and writes what became of it to `glass_kernels/_build.txt`."""

    def run(self) -> None:
        if self.editable_mode:  # else a temporary folder, and every file compiled each time
            self.build_temp = str(Path("build", "editable"))
        folder = ROOT if self.inplace else Path(self.build_lib)
        super().run()
        note = folder / "glass_kernels" / "_build.txt"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("".join(f"{name}: {text}\n" for name, text in sorted(OUTCOME.items())))
        for name, text in OUTCOME.items():
            if text != "built":
                for earlier in note.parent.glob(f"_{name}.*so"):
                    earlier.unlink()
        # then a wheel is for every machine; an editable one has its name by now
        if "built" not in OUTCOME.values() and not self.editable_mode:
            self.distribution.ext_modules = []
            self.get_finalized_command("bdist_wheel").root_is_pure = True

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition("._")[2]
        library = Path(self.get_ext_fullpath(ext.name))
        # torch's checks carry the names of its headers: not where they lie on this machine
        names = f"-ffile-prefix-map={ext.include_dirs[0]}=torch"
        try:
            if name == "cuda":
                compiler, linker = self._nvcc()
                compiler.append(f"-Xcompiler={names}")
            else:
                compiler = [*self.compiler.compiler_so_cxx, *CXX_FLAGS, names]
                linker = self.compiler.linker_so_cxx
            run_ninja(Path(self.build_temp, name), library, ext, compiler, linker)
        except Exception as error:  # compilers fail in many ways
            library.unlink(missing_ok=True)  # an earlier one, of other sources
            reason = " ".join(str(error).split()) or type(error).__name__
            if name == "cpp":
                reason += "; install a C++20 compiler (g++ 11, clang 14 or later) and install again"
            if not ext.optional:
                raise SystemExit(f"GLASS_BUILD_{name.upper()}=1 failed: {reason}") from error
            OUTCOME[name] = f"not built: {reason}"
            print(f"warning: the {name} operators are left out: {reason}", file=sys.stderr)
            raise BaseError(reason) from error
        OUTCOME[name] = "built"

    @staticmethod
    def _nvcc() -> tuple[list[str], list[str]]:
        """How to compile and to link; nvcc hands the .cpp files to the host compiler."""
        nvcc = find_nvcc()
        archs = cuda_archs(nvcc)
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        # PTX of the newest plain one, for cards that come later
        plain = [arch for arch in archs if arch.isdecimal()]
        codes += [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in plain[-1:]]
        return [nvcc, *NVCC_FLAGS, *codes], [nvcc, "-shared", "-cudart=static", *codes]


setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build": Build, "build_ext": BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if EXTENSIONS else {},
)
