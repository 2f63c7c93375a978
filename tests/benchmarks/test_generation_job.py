"""The released decoding scheme and T5 find the same beams as ours, and a difference is seen."""

from __future__ import annotations

import pytest
import torch

from benchmarks import generation, t5_generation
from benchmarks.agreement import DiffersError

WIDTH = 6


def test_released_scheme_finds_the_same_beams() -> None:
    glass, vectors = generation.sharpened()
    batch = generation.make_histories(2, 0, glass)
    sides = generation.glass_sides(glass, vectors, WIDTH)
    for name, ours in sides.ours.items():
        beams, found = ours(batch), sides.plain[name](batch)
        generation.check(name, found, beams)
        with pytest.raises(DiffersError, match="scores differ"):
            generation.check(name, found._replace(scores=found.scores + 1e-3), beams)
        codes = found.codes.clone()
        codes[1, 0] = 0
        with pytest.raises(DiffersError, match="user 1 lacks the SIDs"):
            generation.check(name, found._replace(codes=codes), beams)


@pytest.mark.skipif(not t5_generation.available(), reason="transformers is not installed")
def test_t5_with_the_weights_of_a_tiger_finds_the_same_beams() -> None:
    tiger, sides = generation.tiger_sides(WIDTH)
    batch = generation.make_histories(2, 0, tiger)
    generation.check("T5", sides.plain[""](batch), sides.ours[""](batch))


def test_floor_grows_with_users_and_beams() -> None:
    glass, _ = generation.sharpened()
    one = generation.floor_flops(glass, generation.Setup(1))
    assert generation.floor_flops(glass, generation.Setup(128)) == 128 * one
    # the encoder's products of weights alone: 151 tokens x 4 layers, 2 operations
    assert one > 2 * 151 * 4 * (4 * 96 * 192 + 2 * 96 * 1024)
    more = generation.floor_flops(glass, generation.Setup(1, beams=40))
    assert one < more < 2 * one


def test_scores_that_are_not_numbers_differ() -> None:
    glass, vectors = generation.sharpened()
    batch = generation.make_histories(1, 0, glass)
    sides = generation.glass_sides(glass, vectors, WIDTH)
    found = sides.plain[""](batch)
    bad = found._replace(scores=torch.full_like(found.scores, torch.nan))
    with pytest.raises(DiffersError, match="scores differ"):
        generation.check("plain", bad, sides.ours[""](batch))
