"""Tries made of tries, and every array by the C++ library against plain PyTorch."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glass_kernels import SidTrie, lengths_to_offsets, use_backend
from glass_kernels.trie import native

# Items 0 and 3 collide; item 4 ends where longer SIDs go on.
SIDS = torch.tensor([[1, 2], [0, 1], [1, 0], [1, 2], [2, -1], [2, 2]])
SIZES = (4, 3)
TRIE = SidTrie.build(SIDS, SIZES)

needs_library = pytest.mark.skipif(not native.AVAILABLE, reason="no C++ library")


@pytest.fixture(params=["cpp", "reference"])
def backend(request):
    """Runs the test with the library, then in plain PyTorch."""
    if request.param == "cpp" and not native.AVAILABLE:
        pytest.skip("no C++ library")
    with use_backend(request.param):
        yield request.param


def all_tensors(trie):
    return (*trie.child_offsets, *trie.child_codes, trie.item_offsets, trie.item_ids)


def assert_same(a, b):
    assert (a.codebook_sizes, a.max_children) == (b.codebook_sizes, b.max_children)
    assert a.catalogue_size == b.catalogue_size
    for one, other in zip(all_tensors(a), all_tensors(b), strict=True):
        assert one.dtype == other.dtype == torch.int32
        assert one.tolist() == other.tolist()


def rebuilt(sid_of_item, sizes, catalogue_size):
    """The trie of the items {id: SID}, by plain PyTorch."""
    with use_backend("reference"):
        ids = torch.tensor(sorted(sid_of_item), dtype=torch.int32)
        trie = SidTrie.build(torch.tensor([sid_of_item[i] for i in ids.tolist()]), sizes)
    return SidTrie(
        trie.codebook_sizes, trie.child_offsets, trie.child_codes, trie.item_offsets,
        ids[trie.item_ids], catalogue_size, trie.max_children,
    )  # fmt: skip


def sids_of(sizes):
    """Padded SIDs of these codebooks."""

    def padded(length):
        codes = st.tuples(*(st.integers(0, size - 1) for size in sizes[:length]))
        return codes.map(lambda sid: (*sid, *[-1] * (len(sizes) - length)))

    return st.integers(1, len(sizes)).flatmap(padded)


class TestSequences:
    @settings(deadline=None, max_examples=60)
    @given(st.data(), st.sampled_from(["cpp", "reference"] if native.AVAILABLE else ["reference"]))
    def test_appending_and_deleting_equals_building(self, data, name):
        sizes = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
        some = st.lists(sids_of(sizes), min_size=1, max_size=8)
        held = dict(enumerate(data.draw(some)))
        size = len(held)
        with use_backend(name):
            trie = SidTrie.build(torch.tensor(list(held.values())), sizes)
            for _ in range(data.draw(st.integers(1, 4))):
                if data.draw(st.booleans()):
                    new = data.draw(some)
                    ids = None
                    free = sorted(set(range(size + 5)) - set(held))
                    if len(free) >= len(new) and data.draw(st.booleans()):
                        ids = data.draw(st.permutations(free))[: len(new)]
                    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
                    trie = trie.append(
                        torch.tensor(new, dtype=dtype),
                        None if ids is None else torch.tensor(ids, dtype=dtype),
                    )
                    held |= dict(zip(ids or range(size, size + len(new)), new, strict=True))
                    size = max(size, max(held) + 1)
                else:
                    removed = set(data.draw(st.lists(st.integers(0, size - 1))))
                    if removed >= set(held):
                        continue
                    trie = trie.delete(torch.tensor(sorted(removed), dtype=torch.int64))
                    held = {item: sid for item, sid in held.items() if item not in removed}
        assert_same(trie, rebuilt(held, sizes, size))


@needs_library
class TestLibrary:
    @pytest.mark.parametrize(
        ("sizes", "count"),
        [
            ((256,) * 4, 3000),
            ((2, 3), 1),
            ((5,), 64),
            ((2**31 - 1,) * 3, 500),  # a sort key for each level
            ((2**20,) * 7, 300),
            ((1, 1, 1), 20),
            ((8192,) * 8, 200),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    @pytest.mark.usefixtures("poisoned")
    def test_build(self, sizes, count, dtype):
        generator = torch.Generator().manual_seed(0)
        low = (torch.rand(count, len(sizes), generator=generator) ** 4 * 4).long()
        low = torch.minimum(low, torch.tensor(sizes) - 1)
        high = torch.tensor(sizes) - 1 - low  # codes of both ends, which repeat
        sids = torch.where(torch.rand(low.shape, generator=generator) < 0.5, low, high).to(dtype)
        lengths = torch.randint(1, 2 * len(sizes), (count, 1), generator=generator)
        ended = sids.masked_fill(torch.arange(len(sizes)) >= lengths, -1)
        for table in (sids, ended, ended.t().contiguous().t()):
            fast = SidTrie.build(table, sizes)
            with use_backend("reference"):
                assert_same(fast, SidTrie.build(table, sizes))

    @pytest.mark.parametrize("share", [0.0005, 0.1, 0.5, 0.99, 1.0])
    @pytest.mark.usefixtures("poisoned")
    def test_restrict(self, share):
        generator = torch.Generator().manual_seed(1)
        sids = torch.randint(32, (5000, 3), generator=generator)
        sids[::5, 1:] = -1
        trie = SidTrie.build(sids, (32, 32, 32))
        kept = torch.rand(5000, generator=generator) < share
        kept[77] = True
        fast = trie.restrict(kept)
        with use_backend("reference"):
            assert_same(fast, trie.restrict(kept.nonzero()[:, 0]))
        assert_same(trie.delete(~kept), fast)

    def test_restrict_needs_no_longer_tensors_than_kept_items(self):
        trie = SidTrie.build(torch.arange(3000)[:, None], (3000,)).restrict(torch.arange(3))
        assert all(tensor.untyped_storage().nbytes() <= 16 for tensor in all_tensors(trie))

    @pytest.mark.parametrize("count", [1, 50, 4000])
    @pytest.mark.usefixtures("poisoned")
    def test_append(self, count):
        generator = torch.Generator().manual_seed(2)
        sids = torch.randint(-1, 32, (3000 + count, 3), generator=generator)
        sids[:, 0].clamp_(min=0)
        sids[sids[:, 1] < 0, 2] = -1
        ids = torch.randperm(3000 + count, generator=generator)
        with use_backend("reference"):
            whole = SidTrie.build(sids, (32,) * 3)
        part = whole.restrict(ids[count:])
        assert_same(part.append(sids[ids[:count]], ids[:count]), whole)
        assert part.num_items == 3000

    @pytest.mark.usefixtures("poisoned")
    def test_filter(self):
        generator = torch.Generator().manual_seed(3)
        sids = torch.randint(8, (700, 3), generator=generator)
        trie = SidTrie.build(sids, (8, 8, 8)).restrict(torch.arange(0, 700, 2))
        lists = []
        for longest in (800, 90):
            lengths = torch.randint(longest, (20,), generator=generator) * (torch.arange(20) % 4)
            items = torch.randint(700, (int(lengths.sum()),), generator=generator)
            lists.append((items, lengths_to_offsets(lengths)))
        lists[1] = (lists[1][0].int(), lists[1][1])
        for exclude, allow in ((lists[0], None), (None, lists[0]), (lists[1], lists[0])):
            fast = trie.filter(exclude=exclude, allow=allow)
            with use_backend("reference"):
                slow = trie.filter(exclude=exclude, allow=allow)
            assert fast.keeps == slow.keeps == (allow is not None)
            assert len(fast.nodes) == len(slow.nodes) == 3
            for one, other in zip(
                (*fast.offsets, *fast.nodes), (*slow.offsets, *slow.nodes), strict=True
            ):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)
            assert fast.nodes[0].numel() > 0

    def test_operators_refuse_what_would_leave_memory(self):
        ops = torch.ops.glass
        offsets = [*TRIE.child_offsets, TRIE.item_offsets]
        codes = [*TRIE.child_codes, TRIE.item_ids]
        kept = torch.arange(6) != 2
        ops.trie_restrict(offsets, codes, kept)
        wild = [offsets[0], torch.tensor([0, 99, -7, 5], dtype=torch.int32), offsets[2]]
        flat = [torch.zeros_like(values) for values in offsets]
        falling = [*codes[:1], codes[1].flip(0), codes[2]]
        none = (None, None)
        refused = (
            lambda: ops.trie_restrict(wild, codes, kept),
            lambda: ops.trie_restrict(offsets[:2], codes, kept),
            lambda: ops.trie_restrict(offsets, [*codes[:2], codes[2] - 1], kept),
            lambda: ops.trie_restrict(offsets, codes, kept[:5]),
            lambda: ops.trie_restrict(offsets, codes, kept.int()),
            lambda: ops.trie_append(wild, codes, offsets, codes),
            lambda: ops.trie_append(offsets, codes, wild, codes),
            lambda: ops.trie_append(offsets, falling, offsets, falling),
            lambda: ops.trie_append(offsets, codes, offsets, codes),  # the same items
            lambda: ops.trie_filter(
                offsets, codes, torch.tensor([9]).int(), torch.tensor([0]), torch.tensor([0, 1]),
                *none,
            ),
            lambda: ops.trie_filter(offsets, codes, codes[2], *none, *none),
            lambda: ops.trie_build(torch.tensor([[-1]]), [3]),
            lambda: ops.trie_build(torch.tensor([[0, 3]]), [3, 3]),
        )  # fmt: skip
        for call in refused:
            with pytest.raises(RuntimeError):
                call()
        for kept_none in (flat, wild):
            with contextlib.suppress(RuntimeError):  # nonsense, but nothing out of bounds
                ops.trie_restrict(kept_none, codes, kept)
                ops.trie_filter(
                    kept_none, codes, TRIE._leaf_of_item, torch.arange(6), torch.tensor([0, 6]),
                    *none,
                )  # fmt: skip


@pytest.mark.usefixtures("backend")
class TestAppend:
    def test_by_hand(self):
        trie = TRIE.append(torch.tensor([[0, -1], [1, 2]]))
        assert trie.leaf_sids().tolist() == [[0, -1], [0, 1], [1, 0], [1, 2], [2, -1], [2, 2]]
        assert trie.item_ids.tolist() == [6, 1, 2, 0, 3, 7, 4, 5]
        assert (trie.num_items, trie.catalogue_size, trie.max_children) == (8, 8, (3, 2))

    def test_explicit_ids_in_any_order(self):
        trie = TRIE.delete(torch.tensor([0, 4])).append(
            torch.tensor([[1, 2], [3, 1], [1, 2]]), torch.tensor([9, 4, 0])
        )
        values, _ = trie.items(torch.tensor([[1, 2], [3, 1]]))
        assert values.tolist() == [0, 3, 9, 4]
        assert (trie.catalogue_size, trie.num_items, trie.max_children) == (10, 7, (4, 2))

    def test_nothing(self):
        assert TRIE.append(torch.zeros(0, 2, dtype=torch.int32)) is TRIE

    def test_leaves_the_original_alone(self):
        trie = SidTrie.build(SIDS, SIZES)
        longer = trie.append(torch.tensor([[3, 2]]))
        longer.delete(torch.tensor([6]))
        assert_same(trie, SidTrie.build(SIDS, SIZES))
        assert longer.num_items == 7

    @pytest.mark.parametrize(
        ("sids", "ids", "message"),
        [
            ([[1, 3]], None, r"sids\[0, 1\] is 3"),
            ([[1, 1], [-1, -1]], None, r"sids\[1, 0\] is -1"),
            ([[1, 1, 1]], None, "sids has 3 levels but codebook_sizes has 2"),
            ([[1, 1]], [2], "item_ids must be new, but the trie holds 2"),
            ([[1, 1], [2, 1]], [8, 8], "item_ids must be distinct, held 8 twice"),
            ([[1, 1]], [-1], "item_ids must be at least 0, held -1"),
            ([[1, 1]], [2**31 - 1], r"item_ids must be below 2\^31 - 1, reached 2147483647"),
            ([[1, 1]], [7, 8], r"item_ids must have shape \[1\], had \[2\]"),
            ([[1, 1]], [7.0], "item_ids must be int32 or int64"),
        ],
    )
    def test_refuses(self, sids, ids, message):
        with pytest.raises(ValueError, match=message):
            TRIE.append(torch.tensor(sids), None if ids is None else torch.tensor(ids))


@pytest.mark.usefixtures("backend")
class TestDelete:
    def test_by_hand(self):
        trie = TRIE.delete(torch.tensor([5, 0, 5]))
        assert trie.leaf_sids().tolist() == [[0, 1], [1, 0], [1, 2], [2, -1]]
        assert trie.item_ids.tolist() == [1, 2, 3, 4]
        assert (trie.num_items, trie.catalogue_size, trie.max_children) == (4, 6, (3, 2))

    def test_what_is_not_there_is_ignored(self):
        trie = TRIE.delete(torch.tensor([4]))
        assert_same(trie.delete(torch.tensor([4])), trie)
        assert_same(trie.delete(torch.tensor([], dtype=torch.int64)), trie)

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            (torch.arange(6), "item_ids leaves no item of this trie"),
            (torch.tensor([6]), r"item_ids must be in \[0, 6\), held 6"),
            (torch.tensor([-1]), "held -1"),
            (torch.ones(5, dtype=torch.bool), r"item_ids \(as a mask\) must have shape \[6\]"),
            (torch.tensor([[1]]), "item_ids must have 1 dimensions"),
        ],
    )
    def test_refuses(self, items, message):
        with pytest.raises(ValueError, match=message):
            TRIE.delete(items)


@needs_library
def test_unchanged_tensors_are_shared():
    longer = TRIE.append(torch.tensor([[0, 0]]))
    assert longer.child_codes[0] is TRIE.child_codes[0]
    assert longer.child_offsets[0] is TRIE.child_offsets[0]
    shorter = TRIE.delete(torch.tensor([3]))
    assert shorter.child_codes[1] is TRIE.child_codes[1]
    assert shorter.item_ids is not TRIE.item_ids
