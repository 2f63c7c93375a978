"""The job of residual quantisation: its sides give what ours gives, and a wrong one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import residual_quantize
from benchmarks.agreement import DiffersError

SETUP = residual_quantize.Setup(300, dim=6, codes=9, levels=2, compiled=False)


def test_sides_are_the_reference() -> None:
    contest = residual_quantize.make_contest(SETUP)
    contest.check({**contest.plain, **contest.others})


def test_a_wrong_code_is_refused() -> None:
    contest = residual_quantize.make_contest(SETUP)
    wrong = replace(contest, ours=lambda batch: contest.ours(batch) + (batch.x[:, :1] > 1).int())
    with pytest.raises(DiffersError, match="ours"):
        wrong.check({})
