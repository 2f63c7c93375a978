"""The jobs of codebook assignment: their sides give what ours gives, and a wrong one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import codebook_assign, recursive_assignment
from benchmarks.agreement import DiffersError


@pytest.mark.parametrize("backward", [False, True])
def test_sides_are_the_reference(backward: bool) -> None:
    setup = codebook_assign.Setup(backward, rows=60, width=6, codes=9, compiled=False)
    contest = codebook_assign.make_contest(setup)
    contest.check({**contest.plain, **contest.others})


@pytest.mark.parametrize("result", range(4))
def test_a_wrong_result_is_refused(result: int) -> None:
    setup = codebook_assign.Setup(True, rows=60, width=6, codes=9, compiled=False)
    contest = codebook_assign.make_contest(setup)

    def wrong(batch: codebook_assign.Assignment) -> tuple[object, ...]:
        results = list(contest.ours(batch))
        results[result] = results[result] * 1.001
        return tuple(results)

    with pytest.raises(DiffersError, match=f"ours: result {result}"):
        replace(contest, ours=wrong).check({})


def test_networks_are_the_reference() -> None:
    setup = recursive_assignment.Setup(rows=40, width=6, codes=9, levels=3, compiled=False)
    contest = recursive_assignment.make_contest(setup)
    contest.check({**contest.plain, **contest.others})
