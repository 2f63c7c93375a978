"""The trie's benchmark: its plain forms are right, and a wrong side stops it."""

from __future__ import annotations

import pytest
import torch

from benchmarks import trie_build
from benchmarks.agreement import DiffersError
from benchmarks.machine import Floors
from benchmarks.plain_trie import by_lexsort, by_packed_keys
from benchmarks.timing import interleaved
from benchmarks.trie_build import Setup, arrays_of, check_tries, make_sids
from glass_kernels import SidTrie, library

FLOORS = Floors(copy_bytes=1e10, gemm_flops=1e11)


@pytest.mark.parametrize("form", [by_lexsort, by_packed_keys])
@pytest.mark.parametrize("sids", ["uniform", "clustered"])
def test_plain_forms_are_the_trie(form, sids: str) -> None:
    setup = Setup(400, sids, levels=3, codes=9)
    table = make_sids(setup)
    assert table.unique(dim=0).shape[0] < 400  # some collide
    offsets, codes = form(table, setup.sizes)
    trie = SidTrie.build(table, setup.sizes)
    for array, tensor in zip((*offsets, *codes), arrays_of(trie), strict=True):
        assert array.dtype == "int32"
        assert array.tolist() == tensor.tolist()


def test_clustered_sids_share_more_prefixes() -> None:
    nodes = [
        SidTrie.build(make_sids(setup), setup.sizes).nodes_per_depth[2]
        for setup in (Setup(2000, "uniform", 3, 64), Setup(2000, "clustered", 3, 64))
    ]
    assert nodes[1] < 0.8 * nodes[0]


@pytest.mark.skipif(not library.load("cpp")[0], reason="no C++ library")
def test_every_job_has_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(trie_build, "QUICK", [Setup(10_000, "clustered", 3, 16)])
    monkeypatch.setattr(trie_build, "interleaved", _once)
    rows = trie_build.run(True, FLOORS)
    assert [row["job"] for row in rows] == [
        "build", "restrict to 10%", "restrict to 50%", "restrict to 99%", "append 1", "delete 1",
        "append 1000", "delete 1000", "exclude 1 x 1000", "allow 1 x 1000", "exclude 128 x 1000",
        "allow 128 x 1000",
    ]  # fmt: skip
    trie_build.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size


def _once(sides, *, seconds: float, least: int):
    return interleaved(sides, seconds=0, least=2, most=2, evict=False)


def test_a_wrong_side_is_refused() -> None:
    table = torch.tensor([[0, 1], [1, 0]])
    right, wrong = SidTrie.build(table, (2, 2)), SidTrie.build(table.flip(0), (2, 2))
    check_tries("build", {"one": right, "other": right})
    with pytest.raises(DiffersError, match=r"build \(other\) differs"):
        check_tries("build", {"one": right, "other": wrong})
