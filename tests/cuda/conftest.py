"""Makes `shimmed` importable, and compiles the kernels for the CPU once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import shimmed
import shimmed_search
import shimmed_trie


@pytest.fixture(scope="session")
def sid_tier_shim(tmp_path_factory: pytest.TempPathFactory) -> shimmed.SidTier:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("shim")
    return shimmed.SidTier(shimmed.build("sid_tier", folder))


@pytest.fixture(scope="session")
def hard_search_shim(tmp_path_factory: pytest.TempPathFactory) -> shimmed_search.HardSearch:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("shim")
    return shimmed_search.HardSearch(shimmed.build("hard_search", folder))


@pytest.fixture(scope="session")
def trie_shim(tmp_path_factory: pytest.TempPathFactory) -> shimmed_trie.BeamStep:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("shim")
    return shimmed_trie.BeamStep(shimmed.build("trie_beam_step", folder))
