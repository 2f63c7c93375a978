"""A package serves in a process that cannot import `glass`, and gives what generate() gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import CONFIGS, EXAMPLE, HISTORIES, assert_same, example, expected, sharp_model
from safetensors.torch import load_file

import glass.export.package as package
from glass.export import EncoderForExport, Graph, Limits, StepForExport, export_model
from glass.models import Glass
from glass_kernels import library

pytestmark = pytest.mark.skipif(not library.load("cpp")[0], reason="the C++ library is not built")

CALLS = [(HISTORIES, 6), (HISTORIES[:1], 1), (HISTORIES[1:2], 3), (HISTORIES[1:3], 50)]
SERVE = """
import importlib.util, json, sys
sys.modules["glass"] = None  # any import of it fails
from safetensors.torch import save_file
example, folder, calls, result = sys.argv[1:]
spec = importlib.util.spec_from_file_location("serve_exported", example)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
server = module.Server.load(folder)
found = {}
for i, (histories, width) in enumerate(json.loads(calls)):
    codes, scores = server.generate(histories, width)
    found |= {f"codes.{i}": codes.contiguous(), f"scores.{i}": scores.contiguous()}
assert not any(name.startswith("glass.") for name in sys.modules)
save_file(found, result)
"""


@pytest.mark.static
def test_package_serves_without_glass(tmp_path: Path) -> None:
    model = sharp_model(CONFIGS["copying"])
    folder = export_model(model, tmp_path / "exported", max_batch=8, max_beams=64)
    calls, result = json.dumps(CALLS), tmp_path / "found.safetensors"
    subprocess.run(
        [sys.executable, "-c", SERVE, str(EXAMPLE), str(folder), calls, str(result)],
        check=True,
        cwd=EXAMPLE.parents[1],
        timeout=600,
    )
    found = load_file(result)
    for i, (histories, width) in enumerate(CALLS):
        beams = expected(model, histories, width)
        assert_same(found[f"codes.{i}"], found[f"scores.{i}"], beams)


def graphs_alone(model: Glass, limits: Limits) -> Iterator[Graph]:
    """The graphs of `export_graphs` without their programs, which take seconds."""
    program: Any = None
    yield Graph("encoder", EncoderForExport(model), program)
    for level in range(model.num_levels):
        yield Graph(f"decoder_step_{level}", StepForExport(model, level), program)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export whose graphs were not compiled: everything of it but the native code."""
    monkeypatch.setattr(package, "export_graphs", graphs_alone)
    monkeypatch.setattr(package, "compile_graph", lambda graph, path: path.write_bytes(b"code"))
    return export_model(sharp_model(CONFIGS["tiger"]), tmp_path / "exported")


def test_manifest_names_every_file(folder: Path) -> None:
    manifest = example().read_manifest(folder)
    graphs = ["encoder", *(f"decoder_step_{level}" for level in range(3))]
    assert list(manifest["graphs"]) == graphs
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert manifest["torch"] == torch.__version__
    assert manifest["graphs"]["encoder"]["inputs"] == ["short_items"]
    assert load_file(folder / "sids.safetensors")["codes"].shape == (40, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("torch", "2.0.0", "made with torch 2.0.0, here is"),
        ("format_version", 2, "is of another format; export the model again"),
        ("machine", "pdp11", "made for pdp11 with"),
        ("cpu", "AVX9", "with AVX9, here is"),
        ("files", {}, "has no digest of decoder_step_0.pt2"),
    ],
)
def test_example_refuses_another_machines_export(
    folder: Path, field: str, value: object, message: str
) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=message):
        example().read_manifest(folder)


def test_example_refuses_changed_files(folder: Path) -> None:
    (folder / "encoder.pt2").write_bytes(b"other code")
    with pytest.raises(ValueError, match=r"encoder\.pt2 is missing or not what was exported"):
        example().Server.load(folder)
    (folder / "encoder.pt2").unlink()
    with pytest.raises(ValueError, match=r"encoder\.pt2 is missing or not what was exported"):
        example().Server.load(folder)


@pytest.mark.parametrize("name", ["../encoder.pt2", "/x/encoder.pt2", "sub/encoder.pt2", "..", ""])
def test_example_reads_files_of_the_folder_alone(folder: Path, name: str) -> None:
    (folder.parent / "encoder.pt2").write_bytes(b"code")  # as the digest says
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = manifest["files"].pop("encoder.pt2")
    manifest["graphs"]["encoder"]["file"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"names '{name}', which is no file of the folder"):
        example().Server.load(folder)


def test_example_follows_no_links(folder: Path) -> None:
    (folder / "encoder.pt2").rename(folder.parent / "encoder.pt2")
    (folder / "encoder.pt2").symlink_to(folder.parent / "encoder.pt2")
    with pytest.raises(ValueError, match=r"names 'encoder\.pt2', which is no file of the folder"):
        example().Server.load(folder)


@pytest.mark.parametrize("manifest", ["{", "[]", "[" * 100_000, '{"format": "glass-rec"}'])
def test_example_refuses_a_damaged_manifest(folder: Path, manifest: str) -> None:
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=r"manifest\.json .* export the model again"):
        example().Server.load(folder)


def test_example_refuses_a_folder_without_an_export(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no exported model; make one with `glass export`"):
        example().Server.load(tmp_path)


def test_killed_export_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(graph: Graph, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "compile_graph", fails)
    with pytest.raises(KeyboardInterrupt):
        export_model(sharp_model(CONFIGS["tiger"]), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_wrong_arguments(tmp_path: Path) -> None:
    model = sharp_model(CONFIGS["tiger"])
    with pytest.raises(ValueError, match="device is 'tpu'; it must be 'cpu' or 'cuda'"):
        export_model(model, tmp_path / "out", device="tpu")
    with pytest.raises(ValueError, match="max_batch must be at least 1, was 0"):
        export_model(model, tmp_path / "out", max_batch=0)
    with pytest.raises(ValueError, match="model is in training mode"):
        export_model(model.train(), tmp_path / "out")
    with pytest.raises(ValueError, match="holds no trained model"):
        export_model(tmp_path, tmp_path / "out")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no CUDA device"):
            export_model(model, tmp_path / "out", device="cuda")
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    # Not by monkeypatch, which would take the setting for one that was not there, and delete it.
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and there is none"),
    ):
        export_model(model.eval(), tmp_path / "out")
    cpp_builder.cpp_compiler_search.cache_clear()
    assert not (tmp_path / "out").exists()
