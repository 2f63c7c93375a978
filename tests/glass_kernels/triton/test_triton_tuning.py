"""Which setting of a Triton kernel runs: the card's shipped one, the fastest, or the first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from benchmarks import gpu_guesses
from benchmarks.gpu_builds.table import read_table
from glass_kernels import gated_fusion, residual_quantize, triton_tuning
from glass_kernels.backend import use_backend

SMALL = triton.Config({"BM": 16}, num_warps=4, num_stages=2)
LARGE = triton.Config({"BM": 64}, num_warps=8, num_stages=3)
USE_LARGE = {"BM": 64, "warps": 8, "stages": 3}
USE_SMALL = {"BM": 16, "warps": 4, "stages": 2}
KNOWN = {"x": torch.zeros(2), "D": 128, "FEW": False}
KEY = ("D", "FEW")
Ship = Callable[[dict[str, Any]], None]


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ship]:
    """Makes every launch one on a card for which these settings are shipped."""

    def write(settings: dict[str, Any]) -> None:
        (tmp_path / "sm_1.json").write_text(json.dumps({"measured": None, "settings": settings}))
        triton_tuning.read.cache_clear()

    monkeypatch.setattr(triton_tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(triton_tuning, "card_of", lambda known: "sm_1")
    write({})
    yield write
    triton_tuning.read.cache_clear()


def shipped(found: list[triton.Config] | None = None) -> list[triton.Config]:
    return triton_tuning.shipped("op.kernel", found or [SMALL, LARGE], KNOWN, KEY)


def test_first_entry_that_holds(ship) -> None:
    other = {"when": {"D": 64}, "use": USE_SMALL}
    ship({"op.kernel": [other, {"when": {"D": 128}, "use": USE_LARGE}]})
    assert shipped() == [LARGE]
    ship({"op.kernel": [other, {"when": {"dtypes": ["torch.bfloat16"]}, "use": USE_LARGE}]})
    assert shipped() == [SMALL, LARGE]
    ship({"op.kernel": [{"when": {"dtypes": ["torch.float32"]}, "use": USE_LARGE}]})
    assert shipped() == [LARGE]


def test_setting_that_does_not_fit_the_launch_is_passed_over(ship) -> None:
    unknown = {"when": {}, "use": {**USE_LARGE, "BM": 32}}
    ship({"op.kernel": [unknown, {"when": {}, "use": USE_SMALL}]})
    assert shipped() == [SMALL]
    ship({"op.kernel": [unknown], "op.other": [{"when": {}, "use": USE_SMALL}]})
    assert shipped() == [SMALL, LARGE]


def test_nothing_is_shipped_for_a_cpu() -> None:
    assert triton_tuning.card_of(KNOWN) is None
    assert triton_tuning.shipped("op.kernel", [SMALL, LARGE], KNOWN, KEY) == [SMALL, LARGE]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not triton_tuning.asked_to_tune()
    monkeypatch.setenv("GLASS_AUTOTUNE", "1")
    assert triton_tuning.asked_to_tune()
    monkeypatch.setenv("GLASS_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="GLASS_AUTOTUNE is 'yes'; it must be 0 or 1"):
        triton_tuning.asked_to_tune()


def fused(width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(Triton's, the reference's) for rows of a width that no other test has: caches are empty."""
    torch.manual_seed(0)
    rows = torch.randn(2, 600, width, device=device)
    weight, bias = torch.randn(width, 2 * width, device=device), torch.randn(width, device=device)
    with use_backend("triton"):
        ours = gated_fusion(rows[0], rows[1], weight, bias)
    with use_backend("reference"):
        return ours, gated_fusion(rows[0], rows[1], weight, bias)


FUSION = "gated_fusion._gated_fusion_fwd_kernel"


@pytest.mark.parametrize("number", [0, 1])
def test_launch_takes_what_is_shipped(ship, number: int, device: torch.device) -> None:
    from glass_kernels.gated_fusion.triton_kernel import FLOAT_CONFIGS, _gated_fusion_fwd_kernel

    use = triton_tuning.plain(FLOAT_CONFIGS[number])
    ship({FUSION: [{"when": {}, "use": use}]})
    ours, truth = fused(19 + number, device)
    assert triton_tuning.plain(_gated_fusion_fwd_kernel.best_config) == use
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)


def test_asked_to_tune_ignores_what_is_shipped(ship, monkeypatch, device) -> None:
    from glass_kernels.gated_fusion.triton_kernel import FLOAT_CONFIGS, _gated_fusion_fwd_kernel

    if device.type == "cuda":
        pytest.skip("the fastest may be the one that is shipped")
    ship({FUSION: [{"when": {}, "use": triton_tuning.plain(FLOAT_CONFIGS[1])}]})
    monkeypatch.setenv("GLASS_AUTOTUNE", "1")
    fused(21, device)
    assert _gated_fusion_fwd_kernel.best_config == FLOAT_CONFIGS[0]  # the interpreter's


def test_what_ran_can_be_shipped(ship, device: torch.device) -> None:
    """`measured` names launches as `shipped` sees them."""
    from glass_kernels.residual_quantize.triton_kernel import CONFIGS

    rows, books = torch.randn(9, 23, device=device), torch.randn(1, 4, 23, device=device)
    with use_backend("triton"):
        residual_quantize(rows, books)
    name = "residual_quantize._residual_quantize_fwd_kernel"
    (mine,) = [e for e in triton_tuning.measured()[name] if e["when"]["D"] == 23]
    assert mine["when"]["NORMALIZE"] in (True, False)
    assert set(mine["when"]["dtypes"]) >= {"torch.float32", "torch.int32"}
    again = {**mine, "use": triton_tuning.plain(CONFIGS[1])}
    ship({name: [again]})
    triton_tuning.kernels()[name].cache.clear()
    with use_backend("triton"):
        residual_quantize(rows, books)
    assert triton_tuning.kernels()[name].best_config == CONFIGS[1]
    triton_tuning.kernels()[name].cache.clear()


def test_deterministic_algorithms_take_the_first(ship, monkeypatch, device) -> None:
    from glass_kernels import codebook_assign
    from glass_kernels.codebook_assign import triton_forward as forward

    first = triton_tuning.plain(forward.forward_choices(False, torch.float32)[0])
    second = triton_tuning.plain(forward.forward_choices(False, torch.float32)[1])
    ship({"codebook_assign._codebook_assign_fwd_kernel": [{"when": {}, "use": second}]})
    monkeypatch.setattr(forward, "FEW_ROWS", 8)
    rows = torch.randn(9, 3, device=device)
    book = torch.randn(2, 3, device=device)
    for fixed, use in ((True, first), (False, second)):
        torch.use_deterministic_algorithms(fixed)
        try:
            with use_backend("triton"):
                codebook_assign(rows, book)
        finally:
            torch.use_deterministic_algorithms(False)
        assert triton_tuning.plain(forward._codebook_assign_fwd_kernel.best_config) == use


CARDS = [*gpu_guesses.FILES.items()]
needs_table = pytest.mark.skipif(not read_table(), reason="another Triton made the static table")


@needs_table
@pytest.mark.parametrize(("card", "name"), CARDS)
def test_files_are_what_the_static_table_gives(card: str, name: str) -> None:
    """`python -m benchmarks.gpu_guesses` makes them anew."""
    found = triton_tuning.read(name)
    assert found["measured"] is None  # until somebody has a card: `make gpu-check`
    assert found["settings"] == gpu_guesses.settings(card)


@pytest.mark.parametrize(("card", "name"), CARDS)
def test_every_kernel_with_a_choice_has_settings_that_exist(card: str, name: str) -> None:
    found = triton_tuning.read(name)["settings"]
    for kernel, tuned in triton_tuning.kernels().items():
        every = [triton_tuning.plain(config) for config in tuned.configs]
        assert (len(every) > 1) == bool(found.get(kernel)), kernel
        for entry in found[kernel]:
            assert entry["use"] in every, (kernel, entry)
            assert set(entry["when"]) <= {*tuned.keys, "dtypes"}, (kernel, entry)
    assert set(found) <= set(triton_tuning.kernels())


@needs_table
@pytest.mark.parametrize(("card", "name"), CARDS)
def test_a_launch_takes_the_guess_of_its_case(monkeypatch, card: str, name: str) -> None:
    """Whatever else a file has for the kernel."""
    monkeypatch.setattr(triton_tuning, "card_of", lambda known: name)
    rows, taken = read_table(), 0
    for kernel, case in gpu_guesses.choices():
        key = triton_tuning.kernels()[kernel].keys
        known = dict.fromkeys(key, -1) | case[0].constants
        found = triton_tuning.shipped(kernel, [build.config for build in case], known, key)
        assert found == [gpu_guesses.guess(case, rows, card)], case[0].setting
        taken += 1
    assert taken > 20
