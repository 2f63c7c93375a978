"""Generation diagnostics on beams made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from glass.evaluation import SidCatalogue, generation_diagnostics

CATALOGUE = SidCatalogue(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [2, 2, 2]]))


def test_validity_and_prefixes_by_hand(targets_of):
    codes = np.array(
        [
            [[0, 0, 1], [0, 0, 0], [9, 9, 9]],
            [[1, 0, 5], [1, 0, 0], [-1, -1, -1]],  # one invalid, one that is no beam
        ]
    )
    found = generation_diagnostics(codes, targets_of([0, 1, 2, 3], [0, 0, 0, 1]), CATALOGUE)
    assert found["invalid_rate"] == pytest.approx(2 / 5)
    # Best beams (0,0,1) x 3 and (1,0,5); truths (0,0,0), (0,0,1), (0,1,0), (1,0,0).
    assert found["P_1"] == 1.0
    assert found["P_12"] == 3 / 4
    assert found["P_123"] == 1 / 4


def test_a_later_code_that_fits_does_not_count(targets_of):
    found = generation_diagnostics(np.array([[[1, 0, 0]]]), targets_of([0]), CATALOGUE)
    assert (found["P_1"], found["P_12"], found["P_123"]) == (0.0, 0.0, 0.0)


def test_rank_progression_with_prefix_beams(targets_of):
    prefixes = [
        np.array([[[0], [1], [2]], [[2], [0], [1]]]),
        np.array([[[1, 0], [2, 2], [0, 0]], [[2, 2], [1, 0], [1, 1]]]),
        np.array([[[1, 0, 0], [0, 0, 1], [0, 0, 0]], [[1, 0, 0], [2, 2, 2], [1, 1, 1]]]),
    ]
    # Truths: (0,0,0) and (0,0,1) in sample 0; (0,1,0), lost at depth 2, and (1,0,0) in sample 1.
    targets = targets_of([0, 1, 2, 3], [0, 0, 1, 1])
    found = generation_diagnostics(prefixes[2], targets, CATALOGUE, prefixes)
    # Depth 1: places 1, 1, 2, 3. Depth 2: 3, 3, lost, 2. Depth 3: 3, 2, lost, 1.
    assert found["rank_1"] == 7 / 4
    assert found["rank_2"] == 8 / 3
    assert found["rank_3"] == 2
    assert found["kept_2"] == 3 / 4
    assert found["kept_3"] == 1
    assert found["crp_2"] == pytest.approx((2 + 2 - 1) / 3)
    assert found["crp_3"] == pytest.approx((0 - 1 - 1) / 3)


def test_rank_progression_from_final_beams(targets_of):
    # Distinct first codes: 1, 0; pairs: (1,0), (0,1), (0,0); truths (0,0,0) and the lost (2,2,2).
    codes = np.array([[[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]]])
    found = generation_diagnostics(codes, targets_of([0, 4], [0, 0]), CATALOGUE)
    assert (found["rank_1"], found["rank_2"], found["rank_3"]) == (2, 3, 4)
    assert (found["crp_2"], found["crp_3"]) == (1, 1)
    assert (found["kept_2"], found["kept_3"]) == (1, 1)


def test_survival_counts_within_the_beams_that_were_kept(targets_of):
    # Sample 0 has the truth (0,0,0) again at depth 3 though depth 2 lost it; sample 1 keeps it,
    # at places 1, 2, 2.
    prefixes = [
        np.array([[[0], [1]], [[0], [1]]]),
        np.array([[[1, 0], [2, 2]], [[1, 0], [0, 0]]]),
        np.array([[[0, 0, 0], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]]]),
    ]
    found = generation_diagnostics(prefixes[2], targets_of([0, 0], [0, 1]), CATALOGUE, prefixes)
    assert (found["kept_2"], found["crp_2"]) == (1 / 2, 1)
    assert (found["kept_3"], found["crp_3"]) == (1, 0)
    first = [prefix[:1] for prefix in prefixes]
    lost = generation_diagnostics(first[2], targets_of([0]), CATALOGUE, first)
    assert lost["kept_2"] == 0
    assert {"rank_2", "crp_2", "crp_3", "kept_3"}.isdisjoint(lost)


def test_nothing_to_average(targets_of):
    none = generation_diagnostics(np.full((1, 2, 3), -1), targets_of([4]), CATALOGUE)
    assert none == {"P_1": 0.0, "P_12": 0.0, "P_123": 0.0}
    no_targets = generation_diagnostics(np.zeros((1, 1, 3), int), targets_of([]), CATALOGUE)
    assert no_targets == {"invalid_rate": 0.0}


def test_refuses_shapes_that_do_not_fit(targets_of):
    codes = np.zeros((2, 1, 3), int)
    with pytest.raises(ValueError, match="levels"):
        generation_diagnostics(codes[:, :, :2], targets_of([0]), CATALOGUE)
    with pytest.raises(ValueError, match="sample 2"):
        generation_diagnostics(codes, targets_of([0], [2]), CATALOGUE)
    with pytest.raises(ValueError, match="prefixes"):
        generation_diagnostics(codes, targets_of([0]), CATALOGUE, [codes[:, :, :1], codes])
    with pytest.raises(ValueError, match="prefixes"):
        generation_diagnostics(codes, targets_of([0]), CATALOGUE, [codes, codes, codes])
