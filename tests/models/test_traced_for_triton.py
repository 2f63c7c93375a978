"""Whole models traced for Triton with fake tensors on a card: one graph, its operators, no CPU.

The traces agree with the operators' fakes and gradients, in the models as they are; no kernel runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
pytestmark = [pytest.mark.slow, pytest.mark.static]

SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "traced_models.py"
MODELS = ("glass", "tiger", "union", "intrr_transformer", "intrr_hstu")

SEARCH = Counter(["hard_search_attention", "gated_fusion"])
HISTORY = Counter(["sid_tier", "bucket_history", "hard_search"])  # no gradient passes them
LEVELS = Counter(codebook_assign=3)
TRAINING = {
    "glass": (HISTORY + SEARCH, SEARCH),
    "tiger": (Counter(), Counter()),
    "union": (HISTORY + SEARCH + LEVELS, SEARCH + LEVELS),
    "intrr_transformer": (LEVELS + LEVELS, LEVELS + LEVELS),  # of the items and of the user
    "intrr_hstu": (LEVELS + LEVELS, LEVELS + LEVELS),
}
"""Of each model, operators of its forward and backward, by name and number."""

FOUND = Counter(["hard_search_attention", "gated_fusion_alone"])
STEPS = {
    "glass": Counter(["hard_search"]) + FOUND + FOUND,  # one search, read at both levels after it
    "union": Counter(["hard_search"]) + FOUND,
}
"""Of its decoding steps."""


@pytest.fixture(scope="module")
def traced() -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), *MODELS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def of_triton(ops: list[str], ending: str = "") -> Counter[str]:
    """Operators by their names without "_triton" and `ending`, which all of them have."""
    assert all("_triton" in op and op.endswith(ending) for op in ops), ops
    return Counter(op.removesuffix(ending).replace("_triton", "") for op in ops)


@pytest.mark.parametrize("name", MODELS)
def test_training(name: str, traced: dict[str, dict[str, Any]]) -> None:
    found = traced[name]["training"]
    assert found["graphs"] == [1, 1]
    forward, backward = found["ops"]
    assert (of_triton(forward), of_triton(backward, "_backward")) == TRAINING[name]
    assert found["devices"] == ["card"]
    assert not found["without"]  # a gradient


@pytest.mark.parametrize("name", MODELS)
def test_decoding_steps(name: str, traced: dict[str, dict[str, Any]]) -> None:
    found = traced[name]["steps"]
    assert found["graphs"] == [3, 0]  # one a level
    assert of_triton(found["ops"][0]) == STEPS.get(name, Counter())
    assert found["devices"] == ["card"]


@pytest.mark.parametrize("name", MODELS)
def test_generation_waits_for_nothing(name: str, traced: dict[str, dict[str, Any]]) -> None:
    found = traced[name]["generation"]
    ops = of_triton(found["ops"][0])
    assert ops["trie_beam_step"] == 3
    assert ops >= STEPS.get(name, Counter())
    assert found["devices"] == ["card"]
