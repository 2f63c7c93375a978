"""Calls every C++ op on odd sizes; run by test_sanitizers.py with an instrumented library.

Heap buffers end in forbidden memory there, so each input is its own allocation of the exact size.
"""

from __future__ import annotations

import sys
from itertools import product

import torch
from torch import Tensor


def histories(items: int, dtype: torch.dtype, lengths: list[int]) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, items, (sum(lengths),), dtype=dtype)
    if len(ids):
        ids[-1] = items - 1  # the end of the table is read
    return ids, torch.tensor([0, *lengths]).cumsum(0)


def table_path(op) -> None:
    for codes, tiers, items in product(
        (1, 7, 15, 16, 31, 33, 64, 65, 100, 130, 513), (1, 2, 5, 20, 130, 255), (1, 9, 700)
    ):
        table = torch.randint(0, tiers, (items, codes), dtype=torch.uint8)
        dtype = torch.int32 if codes % 2 else torch.int64
        ids, offsets = histories(items, dtype, [3, 0, 40, 1])
        assert op(ids, offsets, table, tiers, True).isfinite().all()
    table = torch.randint(0, 20, (50, 40), dtype=torch.uint8)
    ids, offsets = histories(50, torch.int64, [70_000, 2, 30_000])
    counts = op(ids, offsets, table, 20, False)
    assert counts.sum(2).eq(offsets.diff()[:, None]).all()


def refusals(op) -> None:
    table = torch.zeros(4, 33, dtype=torch.uint8)
    offsets = torch.tensor([0, 2])
    for ids in ([0, 4], [-1, 0], [2**62, 0]):
        for tiers in (3, 200):
            try:
                op(torch.tensor(ids), offsets, table, tiers, True)
            except RuntimeError:
                continue
            raise AssertionError(f"ids {ids} were taken")


def updates(op) -> None:
    for codes, tiers, events in product((1, 17, 128), (1, 4, 255), (0, 1, 1500)):
        table = torch.randint(0, tiers, (11, codes), dtype=torch.uint8)
        counts = torch.zeros(3, codes, tiers, dtype=torch.int32)
        users, items = torch.randint(0, 3, (events,)), torch.randint(0, 11, (events,))
        op(counts, users, items, table, False)
        op(counts, users, items, table, True)
        assert counts.eq(0).all()


def embedding_path(op, make_table) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for dtype, dim, codes, tiers in product(dtypes, (1, 7, 33), (1, 17, 40), (1, 4, 33)):
        items = torch.randn(30, dim).to(dtype)
        prototypes = torch.randn(codes, dim).to(dtype)
        bounds = torch.float64 if dtype == torch.float64 else torch.float32
        edges = torch.linspace(-1, 1, tiers + 1, dtype=bounds)
        ids, offsets = histories(30, torch.int64, [5, 0, 90, 1])
        assert op(ids, offsets, items, prototypes, edges, True).isfinite().all()
        assert make_table(items, prototypes, edges).lt(tiers).all()


def searches(bucket, search) -> None:
    for codes, lengths, most in product(
        (1, 7, 300), ([], [0], [3, 0, 40, 1], [30_000, 5, 20_000]), (1, 9, 50)
    ):
        dtype = torch.int32 if codes % 2 else torch.int64
        sid1, offsets = histories(codes, dtype, lengths)
        order, starts = bucket(sid1, offsets, codes)
        assert order.sort().values.equal(torch.arange(len(sid1), dtype=torch.int32))
        for width in (0, 1, 8):
            query = torch.randint(-1, codes, (len(lengths), width), dtype=dtype)
            for neighbours in (None, torch.randint(-1, codes, (codes, 3)).int()):
                positions, found = search(order, starts, query, neighbours, most, 7)
                assert positions.ge(0).sum(2).equal(found)


def broken_searches(bucket, search) -> None:
    order, query = torch.arange(3, dtype=torch.int32), torch.tensor([[0, 1]])
    for starts in ([0, 4, 4], [-1, 2, 3], [0, 3, 2]):
        for neighbours in (None, torch.tensor([[1], [0]])):
            must_refuse(search, order, torch.tensor([starts]).int(), query, neighbours, 5, 5)
    for code in (2, 2**40, -1):
        must_refuse(bucket, torch.tensor([0, code, 1]), torch.tensor([0, 3]), 2)


def must_refuse(op, *arguments) -> None:
    try:
        op(*arguments)
    except RuntimeError:
        return
    raise AssertionError(f"{arguments} were taken")


def fusion(op, backward) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for dtype, width, rows in product(dtypes, (1, 7, 33, 48), (0, 1, 11, 61)):
        g = torch.Generator().manual_seed(0)
        near, far, first, grad = torch.randn(4, rows, width, generator=g).to(dtype).unbind()
        near, far, first, grad = (x.clone() for x in (near, far, first, grad))
        weight = torch.randn(width, 2 * width, generator=g).to(dtype)
        bias, kept = weight[:, 0].clone(), torch.rand(rows, generator=g) < 0.6
        for has_retrieval, gate_input in ((None, None), (kept, first)):
            out, gate = op(near, far, weight, bias, has_retrieval, gate_input)
            assert out.isfinite().all()
            inputs = near, far, weight, gate, has_retrieval, gate_input
            for grads in ((grad, None), (None, grad), (grad, grad)):
                for found in backward(*grads, *inputs, True, True):
                    assert found.isfinite().all()
            backward(grad, grad, *inputs, False, True)
            backward(grad, grad, *inputs, True, False)


def assignment(op, backward) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for dtype, width, rows in product(dtypes, (0, 1, 7, 33, 300), (0, 1, 11, 61)):
        for codes in (1, 6, 16, 33, 300):
            query, codebook = (
                torch.randn(rows, width).to(dtype),
                torch.randn(codes, width).to(dtype),
            )
            target = torch.randint(codes, (rows,), dtype=torch.int32 if codes == 6 else torch.int64)
            target[::4], target[1::4] = -100, codes - 1
            assigned, index, loss, log_sum_exp = op(query, codebook, target, 0.5)
            assert assigned.equal(codebook[index])
            grads = torch.randn_like(query), torch.randn_like(loss)
            for given, temperature, wanted in (
                (grads, 0.5, (True, True)), (grads, 1.0, (False, True)),
                ((grads[0], None), 1.0, (True, False)), ((None, grads[1]), 0.5, (True, True)),
                ((None, None), 1.0, (True, True)),
            ):  # fmt: skip
                inputs = query, codebook, target, log_sum_exp, temperature
                for found in backward(*given, *inputs, *wanted):
                    assert found.isfinite().all()
            op(torch.full_like(query, float("nan")), codebook, None, 1.0)
    for code in (2, -1, 2**31 - 1, -(2**31)):
        target = torch.tensor([0, 1, code])
        for ids in (target, target.int()):
            must_refuse(op, torch.zeros(3, 5), torch.zeros(2, 5), ids, 1.0)
            must_refuse(
                backward, None, torch.zeros(3), torch.zeros(3, 5), torch.zeros(2, 5), ids,
                torch.zeros(3), 1.0, True, True,
            )  # fmt: skip


def attention(op, backward) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    shapes = ((1, 1), (2, 5), (6, 16), (9, 3), (17, 4))
    for dtype, (heads, dim), width, most in product(dtypes, shapes, (0, 1, 2, 3, 4, 7), (0, 1, 25)):
        tokens, events = 40, 30
        query = torch.randn(2, 5, width, heads, dim).to(dtype)
        keys, values = torch.randn(2, tokens, heads, dim).to(dtype).unbind()
        keys, values = keys.clone(), values.clone()
        ids = torch.randint(0, tokens, (events, 3), dtype=torch.int32)
        ids[-1] = tokens - 1  # the end of the tables is read
        positions = torch.randint(-1, events, (2, 5, most))
        lengths = torch.randint(0, most + 1, (2, 5))
        positions[:, 1], lengths[:, 1] = positions[:, 0], lengths[:, 0]  # a shared bag
        inputs = query, keys, values, ids, positions, lengths, 0.5
        assert op(*inputs).isfinite().all()
        for grad in backward(torch.ones_like(query), *inputs):
            assert grad.isfinite().all()
    large = torch.randn(4, 9, 9, 6, 16)  # more than one part
    sets = torch.randint(0, events, (4, 9, 70)), torch.full((4, 9), 70)
    keys, values = torch.randn(40, 6, 16), torch.randn(40, 6, 16)
    inputs = large, keys, values, ids, *sets, 1.0
    assert op(*inputs).isfinite().all()
    backward(large, *inputs)


def broken_attention(op) -> None:
    query, table = torch.randn(1, 2, 1, 2, 3), torch.randn(4, 2, 3)
    good = [torch.zeros(5, 2, dtype=torch.int64), torch.zeros(1, 2, 3).int(), torch.full((1, 2), 3)]
    op(query, table, table, *good, 1.0)
    for which, value in ((0, 4), (0, -1), (0, 2**40), (1, 5), (1, -2), (2, 4), (2, -1)):
        wrong = [tensor.clone() for tensor in good]
        wrong[which].view(-1)[-1 if which else 0] = value
        must_refuse(op, query, table, table, *wrong, 1.0)


def beam_steps(op, plain) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for dtype, (codes, nodes, width), most in product(
        dtypes, ((1, 1, 1), (7, 5, 4), (63, 3, 9), (65, 3, 70), (300, 9, 5)), (1, 6, 700)
    ):
        legal = torch.rand(nodes, codes + 1) < 0.6
        legal[-1] = True  # more children than codes
        offsets = torch.zeros(nodes + 1, dtype=torch.int32)
        offsets[1:] = legal.sum(1).cumsum(0)
        child_codes = (legal.nonzero()[:, 1] - 1).int()
        logits, scores = torch.randn(3, width, codes).to(dtype), torch.randn(3, width).to(dtype)
        beams = torch.randint(-1, nodes, (3, width))
        beams[:, -1] = nodes - 1  # the end of the codes is read
        chosen = torch.rand(3, len(child_codes)) < 0.3
        starts = torch.tensor([0, *chosen.sum(1).tolist()]).cumsum(0)
        listed = chosen.nonzero()[:, 1].int()
        trie = offsets, child_codes, codes + 1, most
        for mask, filters in product(
            (True, False), ((None, None, False), (starts, listed, True), (starts, listed, False))
        ):
            found = op(logits, scores, beams, *trie, mask, *filters)
            assert found[1].ge(-1).all()
            assert found[1].lt(len(child_codes)).all()
        wild = torch.randint(-(2**31), 2**31 - 1, listed.shape).int()
        op(logits, scores, beams, *trie, True, starts, wild, True)
        plain(logits, scores, most)


def broken_beam_steps(op) -> None:
    logits, scores, beams = torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.tensor([[0, 1]])
    none = None, None, False
    for offsets, codes in (
        ([0, 2, 1], [0, 1]), ([0, 1, 3], [0, 1]), ([-1, 1, 2], [0, 1]), ([0, 1, 2], [0, 4]),
        ([0, 3, 3], [-1, 2, -1]), ([0, 7, 7], [0] * 7),
    ):  # fmt: skip
        trie = torch.tensor(offsets).int(), torch.tensor(codes).int()
        for mask in (True, False):
            must_refuse(op, logits, scores, beams, *trie, 4, 3, mask, *none)
    trie = torch.tensor([0, 1, 2]).int(), torch.tensor([3, 3]).int()
    for node in (2, -2, 2**40, -(2**40)):
        must_refuse(op, logits, scores, beams.clamp(max=0) + node, *trie, 1, 3, True, *none)


def quantization(op) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for dtype, dim, rows in product(dtypes, (1, 7, 65, 300), (0, 1, 7, 9, 203)):
        for sizes in ((1,), (300, 5), (16, 32, 33)):
            codebooks = [torch.randn(codes, dim).to(dtype) for codes in sizes]
            for x in (torch.randn(rows, dim), torch.zeros(rows, dim), torch.full((rows, dim), 3e4)):
                codes = op(x.to(dtype), codebooks, dim == 7)
                assert codes.ge(0).all()
                assert codes.lt(torch.tensor(sizes)).all()
    for value in (float("nan"), float("inf")):
        must_refuse(op, torch.full((20, 3), value), [torch.zeros(2, 3)], False)
        must_refuse(op, torch.zeros(20, 3), [torch.full((2, 3), value)], True)
    huge = torch.full((20, 3), 3e38)
    assert op(huge, [-huge[:2], huge], False).eq(0).all()
    equal = torch.ones(600, 3)  # every centroid is a rival
    assert op(equal, [equal, equal], False).eq(0).all()


def encoders(op) -> None:
    def packed(*shape: int) -> Tensor:
        return torch.randn(shape) / shape[-2] ** 0.5

    def up_to(columns: int) -> int:  # panels
        return 2 * ((columns + 31) // 32)

    for (width, heads, dim, hidden), length in product(
        ((1, 1, 1, 1), (20, 3, 12, 50), (33, 2, 17, 130), (96, 1, 32, 64)), (0, 1, 2, 33, 200)
    ):
        inner, whole = heads * dim, 16 * up_to(width)
        weights = (
            packed(2, heads, up_to(3 * dim), width, 16), packed(2, up_to(width), inner, 16),
            packed(2, up_to(hidden), width, 16), packed(2, hidden, whole),
            packed(3, 2 * heads, up_to(dim), width, 16),
        )  # fmt: skip
        weights[3][:, :, width:] = 0
        bias = torch.randn(heads, max(2 * length - 1, 0))
        for users, share in product((0, 1, 4), (None, 0.0, 0.6, 1.0)):
            x = torch.randn(users, length, width)
            valid = None if share is None else torch.rand(users, length) < share
            assert op(x, valid, bias, *weights).isfinite().all()
    for which in range(5):
        wrong = list(weights)
        wrong[which] = wrong[which][..., :-1].clone()
        must_refuse(op, x, None, bias, *wrong)
    must_refuse(op, x, valid[:, :-1].clone(), bias, *weights)
    must_refuse(op, x, None, bias[:, 1:].clone(), *weights)
    must_refuse(op, x[..., :-1].clone(), None, bias, *weights)
    must_refuse(op, x.double(), None, bias, *weights)


def tries(ops) -> None:
    for levels, size, items in product((1, 3, 8), (1, 9, 2**31 - 1), (1, 70)):
        dtype = torch.int32 if items == 1 else torch.int64
        sids = torch.randint(min(size, 12), (items, levels), dtype=dtype)
        ends = torch.arange(levels) >= torch.randint(1, levels + 4, (items, 1))
        sids = sids.masked_fill(ends, -1)
        *made, _ = ops.trie_build(sids, [size] * levels)
        trie = made[: levels + 1], made[levels + 1 :]
        for share in (0.0, 0.1, 0.9, 1.0):
            ops.trie_restrict(*trie, torch.rand(items) < share)
        *more, _ = ops.trie_build(sids[: items // 2 + 1].clone(), [size] * levels)
        more[-1] += items
        ops.trie_append(*trie, more[: levels + 1], more[levels + 1 :])
        leaves = torch.randint(-1, len(made[levels]) - 1, (items,), dtype=torch.int32)
        lists = torch.randint(items, (40,), dtype=dtype), torch.tensor([0, 3, 3, 40])
        for excluded, allowed in ((lists, None), (None, lists), (lists, lists)):
            ops.trie_filter(*trie, leaves, *(excluded or (None,) * 2), *(allowed or (None,) * 2))


def broken_tries(ops) -> None:
    *made, _ = ops.trie_build(torch.tensor([[1, 2], [0, 1], [2, 0]]), [3, 3])
    offsets, codes = made[:3], made[3:]
    kept = torch.tensor([True, False, True])
    for starts in ([0, 9, 2, 3], [0, -4, 2, 3], [0, 3, 1, 3], [-1, 1, 2, 3], [0, 0, 0, 1 << 30]):
        wild = [offsets[0], torch.tensor(starts, dtype=torch.int32), offsets[2]]
        must_refuse(ops.trie_restrict, wild, codes, kept)
        must_refuse(ops.trie_append, offsets, codes, wild, codes)
    for ids in ([0, 1, 3], [0, -1, 1]):
        must_refuse(
            ops.trie_restrict, offsets, [*codes[:2], torch.tensor(ids, dtype=torch.int32)], kept
        )
    # Parents out of order, so that the children of the second would go before the first's.
    falling = [torch.tensor(part, dtype=torch.int32) for part in ([1, 0], [9, 9], [7, 8])]
    two = [torch.tensor(part, dtype=torch.int32) for part in ([0, 2], [0, 1, 2], [0, 1, 2])]
    must_refuse(ops.trie_append, offsets, codes, two, falling)
    nothing = [torch.zeros_like(starts) for starts in offsets]
    ops.trie_restrict(nothing, codes, kept)
    lists = torch.tensor([0, 1]), torch.tensor([0, 2])
    for leaves in ([0, 3], [7, 0]):
        must_refuse(ops.trie_filter, offsets, codes, torch.tensor(leaves).int(), *lists, None, None)
    for ids in ([0, 3], [0, -1], [0, 2**40]):
        lists = torch.tensor(ids), torch.tensor([0, 2])
        must_refuse(ops.trie_filter, offsets, codes, torch.zeros(3).int(), None, None, *lists)


def panels(outputs: int, inputs: int) -> Tensor:
    """A packed weight, see glass_kernels/panels.py."""
    return torch.randn((outputs + 31) // 32 * 2, inputs, 16)


def decoder_arguments(sizes, users: int, beams: int, level: int, gate: int) -> list:
    """Of `decoder_step`; gate 0: no retrieval, 1: fixed, 2: learned."""
    width, heads, dim, feed, length = sizes
    inner, layers, vocabulary, events = heads * dim, 2, 9, 11
    weights: list[Tensor] = []
    for _ in range(layers):
        weights += [panels(3 * inner, width), panels(width, inner)]
        weights += [panels(inner * (2 if gate else 1), width), panels(width, inner)]
        weights += [panels(feed, width), torch.randn(feed, (width + 31) // 32 * 32)]
        if gate:
            rows = torch.randn(vocabulary, heads, dim), torch.randn(vocabulary, heads, dim)
            weights += [panels(width, inner), torch.ops.glass.pack_token_rows(*rows)]
        if gate == 2:
            weights += [panels(width, width), panels(width, width), torch.randn(width)]
    keys = [torch.randn(users, heads, length, dim) for _ in range(2 * layers)]
    keys[0] = torch.randn(users, length, heads, dim).transpose(1, 2)
    keys[1] = torch.randn(users, heads, dim, length).transpose(2, 3)
    mask = None if users == 1 else torch.rand(users, 1, 1, length) < 0.6
    past = [torch.randn(layers, users, 1 + 2 * n, 2, inner) for n in range(level)]
    places = [torch.randint(0, 1 + 2 * n, (users, beams)) for n in range(level)]
    ancestors = torch.stack(places, 2) if places else torch.zeros(users, beams, 0).long()
    found: list[Tensor | None] = [None, None, None]
    if gate:
        tokens = torch.randint(0, vocabulary, (events, 3))
        positions = torch.randint(-1, events, (users, beams, 5), dtype=torch.int32)
        found = [tokens, positions, torch.randint(0, 6, (users, beams), dtype=torch.int32)]
    x, scale = torch.randn(users, beams, width), torch.randn(width)
    bias = torch.randn(level + 1, heads)
    return [x, weights, scale, bias, keys[:layers], keys[layers:], mask, past, ancestors, *found]


def decoder(op) -> None:
    shapes = ((1, 1, 1, 1, 1), (20, 3, 12, 50, 7), (33, 2, 32, 150, 40), (96, 6, 32, 257, 19))
    for sizes, (users, beams), level, gate in product(
        shapes, ((1, 1), (3, 5), (2, 60), (0, 4)), (0, 2), (0, 1, 2)
    ):
        arguments = decoder_arguments(sizes, users, beams, level, gate)
        for state, short in ((False, True), (True, False)):
            hidden, present = op(*arguments, 0.3, state, short)
            assert hidden.isfinite().all()
            assert present.isfinite().all()


def broken_decoder(op) -> None:
    for which, value in ((8, 3), (8, -1), (9, 9), (9, -1), (10, 11), (10, -2), (11, 6), (11, -1)):
        wrong = decoder_arguments((20, 3, 12, 50, 7), 2, 3, 2, 2)
        wrong[11].fill_(5)
        op(*wrong, 0.3, False, True)
        wrong[which].fill_(value)
        must_refuse(op, *wrong, 0.3, False, True)


if __name__ == "__main__":
    torch.ops.load_library(sys.argv[1])
    ops = torch.ops.glass
    torch.manual_seed(0)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        table_path(ops.sid_tier)
        refusals(ops.sid_tier)
        updates(ops.sid_tier_update_)
        searches(ops.bucket_history, ops.hard_search)
        broken_searches(ops.bucket_history, ops.hard_search)
        embedding_path(ops.sid_tier_from_embeddings, ops.tier_table)
        fusion(ops.gated_fusion, ops.gated_fusion_backward)
        assignment(ops.codebook_assign, ops.codebook_assign_backward)
        attention(ops.hard_search_attention, ops.hard_search_attention_backward)
        broken_attention(ops.hard_search_attention)
        beam_steps(ops.trie_beam_step, ops.beam_step)
        broken_beam_steps(ops.trie_beam_step)
        quantization(ops.residual_quantize)
        decoder(ops.decoder_step)
        broken_decoder(ops.decoder_step)
        encoders(ops.encoder_stack)
        tries(ops)
        broken_tries(ops)
    print("finished")
