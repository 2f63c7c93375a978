"""The CUDA kernel of sid_tier, run on the CPU: against the reference, sanitised, disordered."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import shimmed
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitised import sanitised

from glass_kernels import sid_tier
from glass_kernels.sid_tier.reference import sid_tier_reference

pytestmark = [pytest.mark.slow, pytest.mark.static]

SOURCE = shimmed.CUDA / "sid_tier.cu"


def reference(ids, offsets, table, tiers: int, normalize: bool) -> np.ndarray:
    tensors = (torch.from_numpy(x) for x in (ids, offsets, table))
    return sid_tier_reference(*tensors, tiers, normalize).numpy()


@pytest.mark.parametrize("ids_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("lengths", "codes", "tiers", "part"), shimmed.CASES)
def test_equals_reference(
    sid_tier_shim: shimmed.SidTier, lengths, codes, tiers, part, normalize, ids_dtype
) -> None:
    ids, offsets, table = shimmed.history(lengths, 50, codes, min(tiers + 1, 256))
    ids = ids.astype(ids_dtype)  # and bytes that are no tier
    ours = sid_tier_shim(ids, offsets, table, tiers, normalize=normalize, part=part, seed=3)
    np.testing.assert_array_equal(ours, reference(ids, offsets, table, tiers, normalize))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), max_size=6),
    items=st.integers(1, 9),
    codes=st.one_of(st.integers(1, 70), st.sampled_from([96, 128, 132])),
    tiers=st.one_of(st.integers(1, 9), st.integers(10, 255)),
    part=st.integers(1, 120),
    seed=st.integers(0, 99),
)
def test_any_shape_and_order(
    sid_tier_shim: shimmed.SidTier, lengths, items, codes, tiers, part, seed
) -> None:
    ids, offsets, table = shimmed.history(lengths, items, codes, tiers, seed)
    ours = sid_tier_shim(ids, offsets, table, tiers, normalize=True, part=part, seed=seed)
    np.testing.assert_array_equal(ours, reference(ids, offsets, table, tiers, True))


@pytest.mark.parametrize(("tiers", "codes"), [(4, 8), (20, 8), (4, 5), (20, 5)])
def test_counters_do_not_overflow(sid_tier_shim: shimmed.SidTier, tiers: int, codes: int) -> None:
    # one tier takes everything: bytes in registers hold 255, the counters of a block 65535
    ids = np.zeros(70_000, dtype=np.int32)
    table = np.full((1, codes), tiers - 1, dtype=np.uint8)
    offsets = np.array([0, 3, 70_000])
    counts = sid_tier_shim(ids, offsets, table, tiers, part=65535)
    assert (counts[0, :, -1] == 3).all()
    assert (counts[1, :, -1] == 69_997).all()
    assert counts.sum() == 70_000 * codes


def test_ids_out_of_range_count_nowhere(sid_tier_shim: shimmed.SidTier) -> None:
    ids, offsets, table = shimmed.history([40, 9], 6, 24, 5)
    ids[::3] = [6, -1, 2**40, -(2**40), 2**32 - 1, 2**32, -7, 7] * 2 + [6]
    counts = sid_tier_shim(ids, offsets, table, 5, part=16)
    np.testing.assert_array_equal(counts, shimmed.brute_force(ids, offsets, table, 5))


def test_table_that_is_not_aligned(sid_tier_shim: shimmed.SidTier) -> None:
    ids, offsets, table = shimmed.history([40, 9], 6, 24, 5)
    shifted = np.zeros(table.size + 1, dtype=np.uint8)[1:].reshape(table.shape)
    shifted[:] = table
    counts = sid_tier_shim(ids, offsets, shifted, 5)
    np.testing.assert_array_equal(counts, shimmed.brute_force(ids, offsets, table, 5))


def test_broken_offsets_stay_in_bounds(sid_tier_shim: shimmed.SidTier) -> None:
    ids, _, table = shimmed.history([50], 6, 24, 5)
    for broken in ([0, 60, -9, 50], [7, 3, 2**40, 2**40], [-5, -5, 99, 0]):
        counts = sid_tier_shim(ids, np.array(broken), table, 5, part=8)
        assert counts.shape == (3, 24, 5)


def test_table_beyond_32_bits(sid_tier_shim: shimmed.SidTier, tmp_path: Path) -> None:
    codes, items = 1 << 16, (1 << 16) + 9  # a sparse file of 4 GiB: nothing of it is stored
    table = np.memmap(tmp_path / "table", dtype=np.uint8, mode="w+", shape=(items, codes))
    table[-1, ::2] = 1
    ids = np.array([items - 1, 0, items - 1])
    counts = sid_tier_shim(ids, np.array([0, 3]), table, 2)
    assert (counts[0, ::2] == [1, 2]).all()
    assert (counts[0, 1::2] == [3, 0]).all()


def test_nothing_to_count(sid_tier_shim: shimmed.SidTier) -> None:
    for lengths, codes in (([], 5), ([0, 0], 5), ([3], 0), ([0], 0)):
        ids, offsets, table = shimmed.history(lengths, 4, codes, 3)
        assert (sid_tier_shim(ids, offsets, table, 3, normalize=True) == 0).all()


def test_parts(sid_tier_shim: shimmed.SidTier) -> None:
    for total in (0, 1, 10**5, 10**7, 2**31 + 5, 2**40):
        for codes in (0, 1, 128, 8192):
            for tiers in (1, 20, 255):
                part = sid_tier_shim.part(total, codes, tiers, 132)
                assert max(1024, 64 * tiers) <= part <= 65535
                # counts that wait to be added up are small beside the rows that are read
                assert total // part * tiers * 4 <= total / 16 or tiers <= 16
    assert sid_tier_shim.part(10**6, 128, 4, 4) == 15625  # sixteen blocks a processor


@pytest.fixture(scope="module")
def numbered_barriers(tmp_path_factory: pytest.TempPathFactory) -> shimmed.SidTier:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    source = shimmed.numbered(SOURCE.read_text())
    folder = tmp_path_factory.mktemp("numbered")
    return shimmed.SidTier(shimmed.build("sid_tier", folder, "-O0", source=source))


@pytest.mark.parametrize("which", [None, *range(len(shimmed.barriers(SOURCE.read_text())))])
def test_a_missing_barrier_is_found(
    which: int | None, numbered_barriers: shimmed.SidTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which is not None:
        monkeypatch.setenv("SHIM_LEAVE_OUT", str(which))
    ids, offsets, table = shimmed.history([700], 50, 128, 20)
    expected = shimmed.brute_force(ids, offsets, table, 20)
    for seed in (1, 2, 3):
        counts = numbered_barriers(ids, offsets, table, 20, seed=seed)
        assert np.array_equal(counts, expected) == (which is None)


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    done = sanitised("sid_tier", shimmed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"


def test_sanitizers_find_a_row_past_the_end(tmp_path: Path) -> None:
    right = "id >= 0 && id < call.num_items ?"
    source = SOURCE.read_text()
    assert source.count(right) == 1
    source = source.replace(right, "id >= 0 && id <= call.num_items ?")
    source = source.replace("item < num_items_", "item <= num_items_")
    done = sanitised("sid_tier", shimmed, tmp_path, "-O0", source=source)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("lengths", "codes", "tiers", "part"), shimmed.CASES)
def test_on_a_gpu(lengths, codes, tiers, part) -> None:
    lengths = [length * 40 for length in lengths]  # long enough to be cut
    arrays = shimmed.history(lengths, 50, codes, tiers)
    tensors = [torch.from_numpy(x) for x in arrays]
    for normalize in (True, False):
        on_gpu = [x.cuda() for x in tensors]
        ours = sid_tier(*on_gpu, tiers, normalize=normalize, backend="cuda")
        assert torch.equal(ours.cpu(), sid_tier_reference(*tensors, tiers, normalize))
