"""What is shipped: the sdist, its wheels, and a wheel at work away from the sources.

torch and the other requirements are those of the Python that runs the tests; nothing is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from glass_kernels import __version__, library

ROOT = Path(__file__).resolve().parent.parent
NAME = f"glass_rec-{__version__}"
PACKAGES = ("glass", "glass_kernels")
NOT_SHIPPED = {".gitignore", ".ci/run"}
NO_LIBRARIES = {"GLASS_BUILD_CPP": "0", "GLASS_BUILD_CUDA": "0"}
NO_CUDA = {"GLASS_BUILD_CPP": "1", "GLASS_BUILD_CUDA": "0"}
STABLE_SYMBOL = re.compile(
    r"(aoti_)?torch_\w+"  # torch's C functions, which stay
    r"|\w+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+"
    r"|_Z(N[KRO]*)?St(?!.*(2at|3c10|5torch))\w+"  # of std, found in libtorch_cpu as well
)

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no binutils")


def run(
    *command: str | Path, cwd: Path, fails: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GLASS_")}
    clean.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def committed() -> set[str]:
    return listed("--cached")


def listed(*options: str) -> set[str]:
    """Files of the checkout; those that are new as well, if no options say otherwise."""
    options = options or ("--cached", "--others", "--exclude-standard")
    found = run("git", "ls-files", *options, cwd=ROOT).stdout.splitlines()
    return {name for name in found if (ROOT / name).is_file()}


def make(kind: str, source: Path, folder: Path, **environment: str) -> Path:
    """The `sdist` or `wheel` that the build backend makes of `source`, as pip has it do."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    folder.mkdir()
    run(sys.executable, "-c", code, cwd=source, **environment)
    (made,) = folder.iterdir()
    return made


def names(archive: Path) -> set[str]:
    """Files of a wheel, or of an sdist without its folder's name."""
    if archive.suffix == ".whl":
        with ZipFile(archive) as content:
            return set(content.namelist())
    with tarfile.open(archive) as content:
        return {m.name.partition("/")[2] for m in content.getmembers() if m.isfile()}


def read(wheel: Path, end: str) -> str:
    with ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith(end))
        return content.read(name).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dist")


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Path:
    """A copy, since a build writes into its folder; with what is new and not yet committed."""
    for name in listed():
        copy = folder / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    (folder / "checkout" / "docs" / "left_by_python.pyc").touch()
    return folder / "checkout"


@pytest.fixture(scope="module")
def sdist(folder: Path, checkout: Path) -> Path:
    return make("sdist", checkout, folder / "sdist")


@pytest.fixture(scope="module")
def unpacked(folder: Path, sdist: Path) -> Path:
    with tarfile.open(sdist) as content:
        content.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    return root


@pytest.fixture(scope="module")
def plain_wheel(folder: Path, unpacked: Path) -> Path:
    """Without libraries, of the sdist."""
    return make("wheel", unpacked, folder / "plain", **NO_LIBRARIES)


@needs_git
def test_sdist_is_the_checkout(sdist: Path) -> None:
    carried = {name for name in names(sdist) if not name.startswith("glass_rec.egg-info/")}
    assert committed() - NOT_SHIPPED <= carried
    assert carried <= listed() | {"PKG-INFO", "setup.cfg"}


@needs_git
def test_wheel_of_the_sdist_is_that_of_the_checkout(
    folder: Path, checkout: Path, plain_wheel: Path
) -> None:
    stale = checkout / "build" / "lib" / "glass" / "removed_since.py"  # of an earlier build
    stale.parent.mkdir(parents=True)
    stale.touch()
    wheel = make("wheel", checkout, folder / "of_checkout", **NO_LIBRARIES)
    assert wheel.name == plain_wheel.name
    assert read(wheel, "/RECORD") == read(plain_wheel, "/RECORD")  # names and hashes


@needs_git
def test_wheel_holds_the_packages_alone(plain_wheel: Path) -> None:
    carried = {name for name in names(plain_wheel) if f"{NAME}.dist-info/" not in name}
    ours = {name for name in listed() if name.split("/")[0] in PACKAGES}
    assert carried == ours | {"glass_kernels/_build.txt"}
    assert "glass = glass.cli:main" in read(plain_wheel, "/entry_points.txt")


@needs_git
def test_wheel_without_libraries_is_for_every_machine(plain_wheel: Path) -> None:
    assert plain_wheel.name == f"{NAME}-py3-none-any.whl"
    assert "Root-Is-Purelib: true" in read(plain_wheel, "/WHEEL")
    assert "cpp: left out: GLASS_BUILD_CPP=0" in read(plain_wheel, "/_build.txt")


@needs_git
@pytest.mark.usefixtures("plain_wheel")  # made first: both write into the same folder
def test_wheel_whose_compiler_failed_is_for_every_machine(folder: Path, unpacked: Path) -> None:
    failed = make("wheel", unpacked, folder / "failed", CXX="false", GLASS_BUILD_CUDA="0")
    assert failed.name == f"{NAME}-py3-none-any.whl"
    assert "Root-Is-Purelib: true" in read(failed, "/WHEEL")
    assert not [name for name in names(failed) if ".data/" in name]
    assert "cpp: not built: compiling with false failed" in read(failed, "/_build.txt")


def unstable_symbols(path: Path) -> list[str]:
    done = run("nm", "-D", "--undefined-only", path, cwd=path.parent)
    wanted = [line.split() for line in done.stdout.splitlines()]
    assert any(name.startswith("aoti_torch_") for _, name in wanted)
    needed = [name for kind, name in wanted if kind == "U"]  # a weak one may be absent
    return [name for name in needed if not STABLE_SYMBOL.fullmatch(name)]


@needs_nm
def test_libraries_need_the_stable_interface_alone() -> None:
    """So one wheel serves every Python 3 and torch: no name of ATen, of c10 or of Python."""
    found = sorted(library.FOLDER.glob("_c*.so"))
    if not found:
        pytest.skip("no library is built")
    for path in found:
        assert unstable_symbols(path) == []


def install(wheel: Path, folder: Path) -> Path:
    """Python of a new environment that has `wheel`, and this one's packages for the rest."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=wheel.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    # afterwards, so that pip sees no older glass-rec there; .pth files in there are not followed
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "requirements.pth").write_text("\n".join(others))
    return python


AT_WORK = """
import sys
from pathlib import Path

import torch

import glass
from glass_kernels import SidTrie, library, sid_tier, tier_table, trie_beam_step

device, *backends = sys.argv[1:]
for module in (glass, library):
    assert Path(module.__file__).is_relative_to(sys.prefix), module.__file__
torch.manual_seed(0)
items, offsets = torch.randint(0, 20, (30,)), torch.tensor([0, 7, 7, 30])
table = tier_table(torch.randn(20, 8), torch.randn(5, 8), [-1.0, -0.1, 0.0, 0.1, 1.0])
trie = SidTrie.build(torch.tensor([[0, 1], [0, 2], [2, 1]]), codebook_sizes=[3, 4])
logits, scores = torch.randn(2, 1, 3), torch.zeros(2, 1)
nodes = torch.zeros(2, 1, dtype=torch.int32)

def results(backend, device):
    moved = [x.to(device) for x in (items, offsets, table, logits, scores, nodes)]
    tiers = None
    if backend != "eager":
        tiers = sid_tier(*moved[:3], num_tiers=4, backend=backend)
    beam = dict(level=0, beam_width=2, backend=backend)
    return [tiers, *trie_beam_step(*moved[3:], trie.to(device), **beam)]

for backend in backends:
    for found, expected in zip(results(backend, device), results("reference", "cpu")):
        if found is not None:
            torch.testing.assert_close(found.cpu(), expected)
print("equal:", *backends)
"""


def at_work(
    python: Path, *backends: str, device: str = "cpu", fails: bool = False, **environment: str
) -> str:
    # in the environment's own folder: the working directory comes before installed packages
    command = [python, "-c", AT_WORK, device, *backends]
    done = run(*command, cwd=python.parent, fails=fails, **environment)
    return done.stderr if fails else done.stdout


def status(python: Path) -> str:
    return run(python, "-m", "glass_kernels.info", cwd=python.parent).stdout


@needs_git
@pytest.mark.slow
@pytest.mark.static
def test_a_machine_without_compiler(folder: Path, plain_wheel: Path) -> None:
    python = install(plain_wheel, folder / "plain_environment")
    assert at_work(python, "reference", "eager") == "equal: reference eager\n"
    assert "GLASS_BUILD_CPP=1 pip install" in at_work(python, "cpp", fails=True)
    assert re.search(r"^cpp +left out: GLASS_BUILD_CPP=0", status(python), re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(folder: Path, unpacked: Path) -> Path:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no compiler")
    return make("wheel", unpacked, folder / "wheel", **NO_CUDA)


@pytest.fixture(scope="module")
def python(folder: Path, wheel: Path) -> Path:
    return install(wheel, folder / "environment")


def check_library(wheel: Path, name: str, folder: Path) -> None:
    """Nothing of this machine is in it, and nothing that another Python or torch may lack."""
    with ZipFile(wheel) as content:
        path = Path(content.extract(f"glass_kernels/{name}.abi3.so", folder / name))
    assert unstable_symbols(path) == []
    sections = run("readelf", "--dynamic", path, cwd=folder).stdout
    assert "libtorch_cpu.so" in sections
    assert "PATH" not in sections  # torch is found since it is loaded first
    for here in (str(folder), str(ROOT), str(Path(torch.__file__).parents[1]), str(Path.home())):
        assert here.encode() not in path.read_bytes(), here


@needs_git
@needs_nm
@pytest.mark.slow
@pytest.mark.static
def test_one_wheel_for_every_python(folder: Path, wheel: Path, plain_wheel: Path) -> None:
    platform = re.sub(r"\W", "_", sysconfig.get_platform())
    assert wheel.name == f"{NAME}-cp310-abi3-{platform}.whl"
    assert names(wheel) == names(plain_wheel) | {"glass_kernels/_cpp.abi3.so"}
    assert "cpp: built\n" in read(wheel, "/_build.txt")
    check_library(wheel, "_cpp", folder)


@needs_git
@pytest.mark.slow
@pytest.mark.static
def test_installed_backends_agree(python: Path) -> None:
    assert at_work(python, "reference", "eager", "cpp") == "equal: reference eager cpp\n"
    assert at_work(python, "triton", TRITON_INTERPRET="1") == "equal: triton\n"


@needs_git
@pytest.mark.slow
@pytest.mark.static
def test_installed_commands(python: Path) -> None:
    text = status(python)
    assert re.search(r"^cpp +loaded _cpp\.abi3\.so$", text, re.MULTILINE)
    assert re.search(r"^cuda +left out: GLASS_BUILD_CUDA=0", text, re.MULTILINE)
    assert "recommend" in run(python.parent / "glass", "--help", cwd=python.parent).stdout


@pytest.fixture
def removed(python: Path) -> Iterator[None]:
    (path,) = python.parents[1].glob("lib/python*/site-packages/glass_kernels/_cpp.abi3.so")
    kept = path.rename(path.with_suffix(".kept"))
    yield
    kept.rename(path)


@needs_git
@pytest.mark.slow
@pytest.mark.static
@pytest.mark.usefixtures("removed")
def test_library_that_is_gone(python: Path) -> None:
    assert at_work(python, "reference", "eager") == "equal: reference eager\n"
    assert "GLASS_BUILD_CPP=1 pip install" in at_work(python, "cpp", fails=True)
    assert "reference" in status(python)


@pytest.fixture(scope="module")
def both_libraries(folder: Path, unpacked: Path, wheel: Path) -> Path:
    """Wheel with the CUDA library too, and the other's objects as they are."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    objects = {path: path.stat().st_mtime_ns for path in unpacked.glob("build/temp*/cpp/**/*.o")}
    assert objects
    cuda = {"GLASS_BUILD_CPP": "1", "GLASS_BUILD_CUDA": "1", "GLASS_CUDA_ARCHS": "90"}
    made = make("wheel", unpacked, folder / "both", **cuda)
    assert {path: path.stat().st_mtime_ns for path in objects} == objects
    assert names(made) == names(wheel) | {"glass_kernels/_cuda.abi3.so"}
    return made


@needs_git
@needs_nm
@pytest.mark.slow
@pytest.mark.static
def test_cuda_library_does_no_harm_without_a_card(folder: Path, both_libraries: Path) -> None:
    check_library(both_libraries, "_cuda", folder)
    python = install(both_libraries, folder / "both_environment")
    assert at_work(python, "cpp") == "equal: cpp\n"
    assert re.search(r"^cuda +loaded _cuda\.abi3\.so$", status(python), re.MULTILINE)
    if torch.cuda.is_available():
        assert at_work(python, "cuda", device="cuda") == "equal: cuda\n"
    else:
        assert "GLASS_BUILD_CUDA=1 pip install" in at_work(python, "cuda", fails=True)
