"""Which backend runs, and what a caller is told when it cannot."""

from __future__ import annotations

import threading

import pytest
import torch

from glass_kernels.backend import BACKENDS, active_backend, resolve, use_backend

CPU = torch.device("cpu")
OP = {name: (lambda x, name=name: name) for name in ("cpp", "eager", "reference")}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASS_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def run(requested: str | None = None, device: torch.device = CPU, op: dict = OP) -> str:
    return resolve("op", device, requested, op)(None)


def test_best_is_first_in_order() -> None:
    assert BACKENDS == ("cuda", "triton", "cpp", "eager", "reference")
    assert run() == "cpp"
    assert run(op={k: OP[k] for k in ("reference", "eager")}) == "eager"


def test_device_decides_what_is_available() -> None:
    op = {name: (lambda x, name=name: name) for name in BACKENDS}
    assert run(op=op) == "cpp"
    assert run(op=op, device=torch.device("cuda")) == "cuda"
    assert run(device=torch.device("cuda")) == "eager"


def test_order_of_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASS_BACKEND", "reference")
    assert run() == "reference"
    with use_backend("eager"):
        assert run() == "eager"
        with use_backend("cpp"):
            assert run() == "cpp"
        assert run() == "eager"
        assert run("cpp") == "cpp"
    assert run() == "reference"


def test_context_ends_with_an_error() -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert active_backend() is None
    assert run() == "cpp"


def enter(name: str) -> None:
    with use_backend(name):
        pass


def test_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "is 'fast'; it must be one of cuda, triton"
    with pytest.raises(ValueError, match=message):
        run("fast")
    with pytest.raises(ValueError, match=message):
        enter("fast")
    monkeypatch.setenv("GLASS_BACKEND", "fast")
    with pytest.raises(ValueError, match=message):
        run()


@pytest.mark.parametrize("ask", ["argument", "context", "environment"])
def test_missing_backend_says_how_to_get_it(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = {"reference": OP["reference"]}
    message = r"op: backend 'cpp' is not available .*GLASS_BUILD_CPP=1"
    if ask == "argument":
        with pytest.raises(RuntimeError, match=message):
            run("cpp", op=op)
    elif ask == "context":
        with use_backend("cpp"), pytest.raises(RuntimeError, match=message):
            run(op=op)
    else:
        monkeypatch.setenv("GLASS_BACKEND", "cpp")
        with pytest.raises(RuntimeError, match=message):
            run(op=op)


def test_backend_of_another_device_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not take tensors on cuda"):
        run("cpp", device=torch.device("cuda"))
    triton = {**OP, "triton": lambda x: "triton"}
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        run("triton", op=triton)


def test_interpreter_runs_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    triton = {**OP, "triton": lambda x: "triton"}
    assert run(op=triton) == "cpp"
    assert run("triton", op=triton) == "triton"


def test_context_is_local_to_its_thread() -> None:
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(active_backend()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_compiled_code_follows_the_context() -> None:
    op = {"cpp": lambda x: x * 2, "reference": lambda x: x + 1}
    compiled = torch.compile(
        lambda x: resolve("op", x.device, None, op)(x), fullgraph=True, backend="eager"
    )
    x = torch.tensor([5.0])
    assert compiled(x).item() == 10
    with use_backend("reference"):
        assert compiled(x).item() == 6
    assert compiled(x).item() == 10
