"""The trie of semantic IDs: structure, look-ups, restriction and files."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from glass_kernels.trie import SidTrie
from glass_kernels.trie.build import TrieArrays
from glass_kernels.trie.storage import save_arrays

# Items 0 and 3 collide.
SIDS = torch.tensor([[1, 2], [0, 1], [1, 0], [1, 2], [2, 2]])
SIZES = (4, 3)


@st.composite
def catalogues(draw):
    """(sids [V, L] of any lengths, codebook sizes), small enough to collide often."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    sids = torch.tensor(draw(st.lists(sid, min_size=1, max_size=30)))
    longest = st.just(len(sizes)) | st.integers(1, len(sizes))
    lengths = torch.tensor([draw(longest) for _ in range(sids.shape[0])])
    sids = sids.masked_fill(torch.arange(len(sizes)) >= lengths[:, None], -1)
    return sids.to(draw(st.sampled_from([torch.int32, torch.int64]))), tuple(sizes)


def all_tensors(trie):
    return (*trie.child_offsets, *trie.child_codes, trie.item_offsets, trie.item_ids)


def assert_same(a, b):
    assert a.codebook_sizes == b.codebook_sizes
    assert a.max_children == b.max_children
    assert a.catalogue_size == b.catalogue_size
    for one, other in zip(all_tensors(a), all_tensors(b), strict=True):
        assert one.dtype == other.dtype == torch.int32
        assert one.tolist() == other.tolist()


class TestBuild:
    def test_by_hand(self):
        trie = SidTrie.build(SIDS, SIZES)
        # Depth 1: 0, 1, 2. Depth 2: 01, 10, 12, 22.
        assert trie.child_offsets[0].tolist() == [0, 3]
        assert trie.child_codes[0].tolist() == [0, 1, 2]
        assert trie.child_offsets[1].tolist() == [0, 1, 3, 4]
        assert trie.child_codes[1].tolist() == [1, 0, 2, 2]
        assert trie.item_offsets.tolist() == [0, 1, 2, 4, 5]
        assert trie.item_ids.tolist() == [1, 2, 0, 3, 4]
        assert trie.max_children == (3, 2)
        assert trie.nodes_per_depth == (1, 3, 4)
        assert (trie.num_nodes, trie.num_leaves, trie.num_items, trie.num_levels) == (8, 4, 5, 2)
        assert trie.nbytes == 4 * (2 + 3 + 4 + 4 + 5 + 5)
        assert trie.catalogue_size == 5
        assert "5 items, 4 SIDs, 8 nodes" in repr(trie)

    def test_shorter_sids_by_hand(self):
        sids = torch.tensor([[1, 0, 2], [1, -1, -1], [0, 2, -1], [1, 0, -1]])
        trie = SidTrie.build(sids, (2, 3, 3))
        # Depth 1: 0 1. Depth 2: 02 1. 10. Depth 3: 02. 1.. 10. 102.
        assert trie.child_codes[1].tolist() == [2, -1, 0]
        assert trie.child_offsets[1].tolist() == [0, 1, 3]
        assert trie.child_codes[2].tolist() == [-1, -1, -1, 2]
        assert trie.child_offsets[2].tolist() == [0, 1, 2, 4]
        assert trie.item_ids.tolist() == [2, 1, 3, 0]
        assert trie.leaf_sids().tolist() == [[0, 2, -1], [1, -1, -1], [1, 0, -1], [1, 0, 2]]
        assert trie.lookup(torch.tensor([[1, -1, -1], [-1, -1, -1], [1, -1, 0]])).tolist() == [
            1, -1, -1,
        ]  # fmt: skip

    @settings(deadline=None)
    @given(catalogues())
    def test_against_sets_of_prefixes(self, catalogue):
        sids, sizes = catalogue
        trie = SidTrie.build(sids, sizes)
        rows = [tuple(row) for row in sids.tolist()]
        for depth in range(len(sizes)):
            prefixes = sorted({row[:depth] for row in rows})
            longer = sorted({row[: depth + 1] for row in rows})
            assert trie.child_codes[depth].tolist() == [prefix[-1] for prefix in longer]
            offsets = trie.child_offsets[depth].tolist()
            assert len(offsets) == len(prefixes) + 1
            for node, prefix in enumerate(prefixes):
                children = longer[offsets[node] : offsets[node + 1]]
                assert children == [child for child in longer if child[:depth] == prefix]
        leaves = sorted(set(rows))
        assert trie.leaf_sids().tolist() == [list(leaf) for leaf in leaves]
        assert trie.lookup(sids).tolist() == [leaves.index(row) for row in rows]

    @pytest.mark.parametrize("sizes", [(2**20,) * 7, (2**31 - 1, 2**31 - 1, 5), (2**31 - 1,)])
    def test_codebooks_that_need_several_sort_keys(self, sizes):
        generator = torch.Generator().manual_seed(0)
        # Few distinct codes, at both ends of the codebook, so that prefixes repeat.
        low = torch.randint(3, (500, len(sizes)), generator=generator)
        high = torch.tensor(sizes) - 1 - low
        sids = torch.where(torch.rand(low.shape, generator=generator) < 0.5, low, high)
        trie = SidTrie.build(sids, sizes)
        assert trie.leaf_sids().tolist() == sorted(map(list, {tuple(s) for s in sids.tolist()}))
        assert torch.equal(trie.leaf_sids()[trie.lookup(sids)], sids.int())

    def test_takes_any_layout(self):
        assert_same(SidTrie.build(SIDS.t().contiguous().t(), SIZES), SidTrie.build(SIDS, SIZES))
        assert_same(SidTrie.build(SIDS.int(), list(SIZES)), SidTrie.build(SIDS, SIZES))

    def test_to_keeps_everything(self):
        trie = SidTrie.build(SIDS, SIZES)
        assert_same(trie.to("cpu"), trie)
        assert trie.to("meta").device.type == "meta"

    @pytest.mark.parametrize(
        ("sids", "sizes", "message"),
        [
            (torch.zeros(0, 2, dtype=torch.int64), (4, 3), "between 1 and 2.31 - 1 items, held 0"),
            (torch.zeros(3, dtype=torch.int64), (4,), "sids must have 2 dimensions"),
            (torch.zeros(3, 2), (4, 3), "sids must be int32 or int64"),
            ([[0, 1]], (4, 3), "sids must be a tensor, was list"),
            (SIDS, (4, 3, 2), "sids has 2 levels but codebook_sizes has 3"),
            (torch.tensor([[1, 2], [1, 3]]), (4, 3), r"sids\[1, 1\] is 3.*\[0, 3\)"),
            (torch.tensor([[0, 0], [-1, -1]]), (4, 3), r"sids\[1, 0\] is -1.*left out"),
            (torch.tensor([[0, 0], [2, -2]]), (4, 3), r"sids\[1, 1\] is -2.*or -1 where"),
            (torch.tensor([[0, -1, 0]]), (4, 3, 2), r"sids\[0, 2\] is 0; a SID that has ended"),
            (SIDS, (), "codebook_sizes is empty"),
            (SIDS, (4, 0), r"codebook_sizes\[1\] must be in .* was 0"),
            (SIDS, (2**31, 3), r"codebook_sizes\[0\]"),
        ],
    )
    def test_refuses(self, sids, sizes, message):
        with pytest.raises(ValueError, match=message):
            SidTrie.build(sids, sizes)


class TestLookup:
    def test_absent_sids_have_no_leaf(self):
        trie = SidTrie.build(SIDS, SIZES)
        absent = torch.tensor([[0, 0], [0, 2], [3, 1], [-1, -1], [1, -1], [9, 9], [1, 3], [1, 1]])
        assert trie.lookup(absent).tolist() == [-1] * 8
        assert trie.lookup(SIDS).tolist() == [2, 0, 1, 2, 3]

    def test_codes_that_int32_cannot_hold_are_absent(self):
        trie = SidTrie.build(SIDS, SIZES)
        assert trie.lookup(torch.tensor([[1 + 2**32, 2]])).tolist() == [-1]

    @settings(deadline=None)
    @given(catalogues(), st.data())
    def test_whole_grid(self, catalogue, data):
        sids, sizes = catalogue
        trie = SidTrie.build(sids, sizes)
        grid = torch.cartesian_prod(*(torch.arange(-1, size + 1) for size in sizes))
        grid = grid.reshape(-1, len(sizes))
        leaves = {tuple(sid): leaf for leaf, sid in enumerate(trie.leaf_sids().tolist())}
        assert trie.lookup(grid).tolist() == [leaves.get(tuple(sid), -1) for sid in grid.tolist()]

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 0), (4, 1)])
    def test_wrong_shapes(self, shape):
        trie = SidTrie.build(SIDS, SIZES)
        with pytest.raises(ValueError, match=r"sids must have shape \[..., 2\]"):
            trie.lookup(torch.zeros(shape, dtype=torch.int32))
        with pytest.raises(ValueError, match=r"sids must have shape \[..., 2\]"):
            trie.items(torch.zeros(shape, dtype=torch.int32))

    @pytest.mark.parametrize("lead", [(), (0,), (2, 0), (2, 3)])
    def test_leading_dimensions(self, lead):
        trie = SidTrie.build(SIDS, SIZES)
        sids = torch.tensor([1, 2], dtype=torch.int32).expand(*lead, 2)
        leaves = trie.lookup(sids)
        assert leaves.dtype == torch.int32
        assert leaves.shape == lead
        assert bool((leaves == 2).all())
        values, offsets = trie.items(sids)
        count = leaves.numel()
        assert values.tolist() == [0, 3] * count
        assert offsets.tolist() == [2 * i for i in range(count + 1)]


class TestItems:
    def test_by_hand(self):
        trie = SidTrie.build(SIDS, SIZES)
        sids = torch.tensor([[[1, 2], [3, 0]], [[-1, -1], [0, 1]], [[1, 2], [2, 2]]])
        values, offsets = trie.items(sids)
        assert values.tolist() == [0, 3, 1, 0, 3, 4]
        assert offsets.tolist() == [0, 2, 2, 2, 3, 5, 6]
        assert (values.dtype, offsets.dtype) == (torch.int32, torch.int64)

    @settings(deadline=None)
    @given(catalogues())
    def test_every_item_is_found_under_its_sid(self, catalogue):
        sids, sizes = catalogue
        by_sid = defaultdict(list)
        for item, sid in enumerate(sids.tolist()):
            by_sid[tuple(sid)].append(item)
        values, offsets = SidTrie.build(sids, sizes).items(sids)
        for row, sid in enumerate(sids.tolist()):
            assert values[offsets[row] : offsets[row + 1]].tolist() == by_sid[tuple(sid)]


class TestRestrict:
    def test_by_hand(self):
        trie = SidTrie.build(SIDS, SIZES).restrict(torch.tensor([4, 3, 4]))
        assert trie.leaf_sids().tolist() == [[1, 2], [2, 2]]
        assert trie.items(SIDS)[0].tolist() == [3, 3, 4]
        assert (trie.num_items, trie.catalogue_size, trie.max_children) == (2, 5, (2, 1))

    @settings(deadline=None)
    @given(catalogues(), st.data())
    def test_equals_a_rebuilt_trie(self, catalogue, data):
        sids, sizes = catalogue
        size = sids.shape[0]
        allowed = data.draw(st.lists(st.integers(0, size - 1), min_size=1))
        kept = torch.tensor(sorted(set(allowed)))
        restricted = SidTrie.build(sids, sizes).restrict(torch.tensor(allowed, dtype=sids.dtype))
        rebuilt = SidTrie.build(sids[kept], sizes)
        for one, other in zip(all_tensors(restricted)[:-1], all_tensors(rebuilt)[:-1], strict=True):
            assert one.dtype == torch.int32
            assert one.tolist() == other.tolist()
        assert restricted.item_ids.tolist() == kept[rebuilt.item_ids].tolist()
        assert restricted.max_children == rebuilt.max_children
        assert restricted.catalogue_size == size
        mask = torch.zeros(size, dtype=torch.bool)
        mask[kept] = True
        assert_same(SidTrie.build(sids, sizes).restrict(mask), restricted)

    def test_of_a_restricted_trie_is_the_intersection(self):
        trie = SidTrie.build(SIDS, SIZES)
        twice = trie.restrict(torch.tensor([0, 1, 2])).restrict(torch.tensor([4, 2, 1]))
        assert_same(twice, trie.restrict(torch.tensor([1, 2])))
        with pytest.raises(ValueError, match="allowed_items leaves no item"):
            twice.restrict(torch.tensor([0, 4]))

    def test_leaves_the_original_alone(self):
        trie = SidTrie.build(SIDS, SIZES)
        trie.restrict(torch.tensor([2]))
        assert_same(trie, SidTrie.build(SIDS, SIZES))
        assert_same(trie.restrict(torch.arange(5)), trie)

    @pytest.mark.parametrize(
        ("allowed", "message"),
        [
            (torch.tensor([], dtype=torch.int64), "allowed_items leaves no item"),
            (torch.zeros(5, dtype=torch.bool), "allowed_items leaves no item"),
            (torch.tensor([1, 5]), r"allowed_items must be in \[0, 5\), held 5"),
            (torch.tensor([-1]), "held -1"),
            (torch.ones(4, dtype=torch.bool), r"mask.*shape \[5\], had \[4\]"),
            (torch.tensor([[1]]), "allowed_items must have 1 dimensions"),
            (torch.tensor([1.0]), "allowed_items must be int32 or int64 or bool"),
            ([1], "allowed_items must be a tensor"),
        ],
    )
    def test_refuses(self, allowed, message):
        with pytest.raises(ValueError, match=message):
            SidTrie.build(SIDS, SIZES).restrict(allowed)


class TestFiles:
    def test_round_trip(self, tmp_path):
        trie = SidTrie.build(SIDS, SIZES)
        trie.save(tmp_path / "trie.safetensors")
        assert_same(SidTrie.load(tmp_path / "trie.safetensors"), trie)
        restricted = trie.restrict(torch.tensor([3, 1]))
        restricted.save(str(tmp_path / "trie.safetensors"))
        assert_same(SidTrie.load(str(tmp_path / "trie.safetensors")), restricted)
        assert [file.name for file in tmp_path.iterdir()] == ["trie.safetensors"]

    def test_a_failed_save_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "trie.safetensors"
        SidTrie.build(SIDS, SIZES).save(path)
        before = path.read_bytes()

        def fails(tensors, temporary, metadata):
            temporary.write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr("glass_kernels.trie.storage.save_file", fails)
        with pytest.raises(OSError, match="disk full"):
            SidTrie.build(SIDS[:2], SIZES).save(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            SidTrie.load(tmp_path / "nothing")

    def test_every_truncation_is_refused(self, tmp_path):
        path = tmp_path / "trie.safetensors"
        SidTrie.build(SIDS, SIZES).save(path)
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"trie\.safetensors is not a trie"):
                SidTrie.load(path)

    def test_every_damaged_byte_is_noticed(self, tmp_path):
        path = tmp_path / "trie.safetensors"
        trie = SidTrie.build(SIDS, SIZES)
        trie.save(path)
        content = path.read_bytes()
        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            # A flip that changes nothing of the trie may pass, one that changes it must not.
            with contextlib.suppress(ValueError):
                assert_same(SidTrie.load(path), trie)

    def test_the_checksum_covers_every_tensor(self, tmp_path):
        path = tmp_path / "file"
        SidTrie.build(SIDS, SIZES).save(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        assert len(tensors) == 6
        for name in tensors:
            save_file(tensors | {name: tensors[name] + 1}, path, metadata)
            with pytest.raises(ValueError, match="its checksum does not match"):
                SidTrie.load(path)

    def test_other_content_is_refused(self, tmp_path):
        path = tmp_path / "file"
        save_file({"weight": torch.zeros(2)}, path)
        with pytest.raises(ValueError, match="its format is None"):
            SidTrie.load(path)
        path.write_bytes(b"\x80\x04K\x01.")
        with pytest.raises(ValueError, match="is not a trie"):
            SidTrie.load(path)

    def test_a_newer_version_is_refused(self, tmp_path):
        path = tmp_path / "file"
        SidTrie.build(SIDS, SIZES).save(path)
        save_file(load_file(path), path, {"format": "glass_kernels.SidTrie", "format_version": "2"})
        with pytest.raises(ValueError, match="format_version is '2', not '1'"):
            SidTrie.load(path)

    @pytest.mark.parametrize(
        ("name", "values", "message"),
        [
            ("child_offsets.0", [0, 4], "child_offsets.0 does not cut 3 entries"),
            ("child_offsets.1", [0, 1, 5, 4], "child_offsets.1 does not cut"),
            ("child_offsets.1", [0, 1, 1, 4], "child_offsets.1 does not cut"),
            ("child_offsets.1", [0, 1, 4], "into 3 non-empty ranges"),
            ("child_offsets.1", [1, 2, 3, 4], "child_offsets.1 does not cut"),
            ("child_codes.0", [0, 1, 4], r"child_codes.0 is not in \[-1, 4\)"),
            ("child_codes.0", [-2, 1, 2], r"child_codes.0 is not in \[-1, 4\)"),
            ("child_codes.0", [-1, 1, 2], "child_codes.0 holds a SID without codes"),
            ("child_codes.0", [0, 2, 1], "child_codes.0 does not rise"),
            ("child_codes.1", [1, 2, 2, 2], "child_codes.1 does not rise"),
            ("item_offsets", [0, 1, 2, 2, 5], "item_offsets does not cut"),
            ("item_ids", [1, 2, 0, 3, 5], r"item_ids is not in \[0, 5\)"),
            ("item_ids", [1, 2, 3, 0, 4], "item_ids does not rise"),
            ("item_ids", [1, 4, 0, 3, 4], "item_ids holds an item twice"),
        ],
    )
    def test_arrays_that_are_no_trie_are_refused(self, tmp_path, name, values, message):
        trie = SidTrie.build(SIDS, SIZES)
        tensors = {"item_offsets": trie.item_offsets, "item_ids": trie.item_ids}
        for level in range(2):
            tensors[f"child_offsets.{level}"] = trie.child_offsets[level]
            tensors[f"child_codes.{level}"] = trie.child_codes[level]
        tensors[name] = torch.tensor(values, dtype=torch.int32)
        arrays = TrieArrays(
            (tensors["child_offsets.0"], tensors["child_offsets.1"]),
            (tensors["child_codes.0"], tensors["child_codes.1"]),
            tensors["item_offsets"],
            tensors["item_ids"],
        )
        save_arrays(tmp_path / "file", arrays, SIZES, 5)
        with pytest.raises(ValueError, match=message):
            SidTrie.load(tmp_path / "file")

    def test_shorter_sids(self, tmp_path):
        sids = torch.tensor([[1, 0, 2], [1, -1, -1], [1, 0, -1]])
        trie = SidTrie.build(sids, (2, 3, 3))
        trie.save(tmp_path / "file")
        assert_same(SidTrie.load(tmp_path / "file"), trie)
        for codes in ([0, -1, 2], [-1, -1, 2]):
            last = torch.tensor(codes, dtype=torch.int32)
            offsets = trie.child_offsets[2] if codes[0] == 0 else torch.tensor([0, 2, 3]).int()
            arrays = TrieArrays(
                (*trie.child_offsets[:2], offsets), (*trie.child_codes[:2], last),
                trie.item_offsets, trie.item_ids,
            )  # fmt: skip
            save_arrays(tmp_path / "file", arrays, (2, 3, 3), 3)
            with pytest.raises(ValueError, match=r"child_codes\.2"):
                SidTrie.load(tmp_path / "file")

    @pytest.mark.parametrize(
        ("trie", "message"),
        [
            ({"codebook_sizes": [4, 3]}, "lacks codebook_sizes and catalogue_size"),
            ({"codebook_sizes": [4, 3.5], "catalogue_size": 5}, "not whole numbers"),
            ({"codebook_sizes": "43", "catalogue_size": 5}, "not whole numbers"),
            ({"codebook_sizes": [], "catalogue_size": 5}, "codebook_sizes is empty"),
            ({"codebook_sizes": [4, 3], "catalogue_size": 5}, "checksum"),
        ],
    )
    def test_metadata_that_is_no_trie_is_refused(self, tmp_path, trie, message):
        path = tmp_path / "file"
        SidTrie.build(SIDS, SIZES).save(path)
        metadata = {"format": "glass_kernels.SidTrie", "format_version": "1", "crc32": "0"}
        save_file(load_file(path), path, metadata | {"trie": json.dumps(trie)})
        with pytest.raises(ValueError, match=message):
            SidTrie.load(path)
