"""SID-Tier from the byte table in Triton against the reference; on a card the same, compiled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glass_kernels import lengths_to_offsets, sid_tier
from glass_kernels.sid_tier import triton_common, triton_kernel

OP = torch.ops.glass.sid_tier_triton


def history(lengths: list[int], items: int, codes: int, tiers: int, device: torch.device):
    ids = torch.randint(0, items, (sum(lengths),))
    table = torch.randint(0, tiers, (items, codes)).to(torch.uint8)
    offsets = lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))
    return ids.to(device), offsets.to(device), table.to(device)


def assert_equal_to_reference(ids: Tensor, offsets: Tensor, table: Tensor, tiers: int) -> None:
    for normalize in (True, False):
        ours = sid_tier(ids, offsets, table, tiers, normalize=normalize, backend="triton")
        theirs = sid_tier(ids, offsets, table, tiers, normalize=normalize, backend="reference")
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("codes", "tiers", "ids_dtype"),
    [
        (1, 1, torch.int64),
        (1, 255, torch.int32),
        (3, 255, torch.int64),
        (15, 2, torch.int64),
        (37, 4, torch.int32),
        (64, 7, torch.int64),
        (130, 20, torch.int64),
    ],
)
def test_equals_reference(codes: int, tiers: int, ids_dtype: torch.dtype, device) -> None:
    ids, offsets, table = history([0, 1, 150, 0, 17, 0], 50, codes, tiers, device)
    assert_equal_to_reference(ids.to(ids_dtype), offsets, table, tiers)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("config", triton_kernel.CONFIGS, ids=str)
def test_every_setting(config, device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernel, "configs_for", lambda K, NT: [config])
    triton_kernel._sid_tier_fwd_kernel.cache.clear()
    ids, offsets, table = history([0, 130, 3], 30, 70, 5, device)
    assert_equal_to_reference(ids, offsets, table, 5)
    triton_kernel._sid_tier_fwd_kernel.cache.clear()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "lengths",
    [
        [300],
        [0, 0, 64, 64, 0, 63, 1, 64],  # cuts exactly between users
        [63, 2, 0, 63, 129, 5, 1],
        [1000, 3, 0, 150],  # more partial counts than are added at once
    ],
)
def test_long_histories_are_cut(lengths: list[int], device, monkeypatch) -> None:
    monkeypatch.setattr(triton_common, "CHUNKS", (64,))
    monkeypatch.setattr(triton_common, "MERGE_ROWS", 8)
    monkeypatch.setattr(triton_common, "MERGE_BLOCK", 16)
    ids, offsets, table = history(lengths, 20, 9, 3, device)
    assert_equal_to_reference(ids, offsets, table, 3)


def test_chunks_get_smaller_for_few_users() -> None:
    assert triton_common.chunk_of(256_000, 256, 4) == 4096
    assert triton_common.chunk_of(1000, 1, 2) == 1024
    assert triton_common.chunk_of(10**9, 1, 2) == 4096


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_events(lengths: list[int], device) -> None:
    ids, offsets, table = history(lengths, 4, 20, 3, device)
    result = sid_tier(ids, offsets, table, 3, backend="triton")
    assert result.shape == (len(lengths), 20, 3)
    assert result.eq(0).all()


@pytest.mark.usefixtures("poisoned")
def test_no_items_and_no_codes(device) -> None:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    offsets = torch.tensor([0, 0], device=device)
    no_items = torch.zeros(0, 5, dtype=torch.uint8, device=device)
    assert sid_tier(none, offsets, no_items, 2, backend="triton").eq(0).all()
    no_codes = torch.zeros(3, 0, dtype=torch.uint8, device=device)
    assert sid_tier(none, offsets, no_codes, 2, backend="triton").shape == (1, 0, 2)


def test_views_are_read_as_they_are(device) -> None:
    ids, offsets, table = history([9, 4], 6, 40, 4, device)
    expected = sid_tier(ids, offsets, table, 4, backend="reference")
    ids, offsets = torch.stack([ids, ids], 1)[:, 0], torch.stack([offsets, offsets], 1)[:, 1]
    table = table.T.contiguous().T
    assert not table.is_contiguous()
    assert torch.equal(sid_tier(ids, offsets, table, 4, backend="triton"), expected)


def test_raw_op_stays_in_bounds(device) -> None:
    # the interpreter reads real memory: an address out of bounds would end the process
    ids, offsets, table = history([5, 2], 3, 20, 2, device)
    expected = OP(ids[2:], offsets.sub(2).clamp_min(0), table, 2, False)
    wrong = ids.clone()
    wrong[:2] = torch.tensor([-(2**45), 2**45], device=device)
    assert torch.equal(OP(wrong, offsets, table, 2, False), expected)  # counts nowhere
    broken = torch.tensor([-(2**45), 2**45, 3, -7, 2**45], device=device)
    assert OP(ids, broken, table, 2, True).shape == (4, 20, 2)
    table[:] = 255  # a tier that does not exist counts nowhere
    assert OP(ids, offsets, table, 2, False).eq(0).all()


def test_addresses_past_two_to_the_31(device) -> None:
    table = torch.empty(2**31 // 128 + 9, 128, dtype=torch.uint8, device=device)
    last = table.shape[0] - 1  # only its pages are ever touched
    table[last] = torch.arange(128, device=device) % 3
    ids, offsets = torch.tensor([last, last], device=device), torch.tensor([0, 2], device=device)
    expected = OP(torch.zeros_like(ids), offsets, table[last:].clone(), 3, False)
    assert torch.equal(OP(ids, offsets, table, 3, False), expected)
    assert expected.sum() == 2 * 128


@pytest.mark.parametrize("normalize", [True, False])
def test_opcheck(normalize: bool, device) -> None:
    ids, offsets, table = history([5, 0, 2], 3, 20, 4, device)
    torch.library.opcheck(OP, (ids, offsets, table, 4, normalize))


def test_compiles_without_a_graph_break(device) -> None:
    ids, offsets, table = history([5, 0, 2], 3, 20, 4, device)
    compiled = torch.compile(
        lambda *x: sid_tier(*x, 4, backend="triton") * 2, fullgraph=True, backend="aot_eager"
    )
    expected = sid_tier(ids, offsets, table, 4, backend="reference") * 2
    assert torch.equal(compiled(ids, offsets, table), expected)


def test_backend_by_name_only_where_it_runs(device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cuda":
        pytest.skip("the interpreter is for CPU tensors")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    ids, offsets, table = history([5], 3, 4, 2, device)
    with pytest.raises(RuntimeError, match=r"does not take tensors on cpu.*TRITON_INTERPRET=1"):
        sid_tier(ids, offsets, table, 2, backend="triton")
    with pytest.raises(RuntimeError, match="takes CUDA tensors, or CPU tensors under"):
        OP(ids, offsets, table, 2, True)
