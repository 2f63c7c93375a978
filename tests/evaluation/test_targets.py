"""Targets of samples: item, repeat flag, history length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glass.evaluation import Targets


def test_by_hand(dataset_of):
    dataset = dataset_of(
        [
            [("train", [0, 1]), ("test", [1, 2, 2]), ("test", [2])],
            [("train", [2]), ("test", [1])],
            [("test", [0])],  # no history: no sample
        ],
        3,
    )
    targets = Targets.from_samples(dataset, dataset.samples("test"))
    assert targets.sample.tolist() == [0, 0, 0, 1, 2]
    assert targets.user.tolist() == [0, 0, 0, 0, 1]
    assert targets.item.tolist() == [1, 2, 2, 2, 1]
    # Item 2 within one basket is no repeat; in the next basket it is. Users do not mix.
    assert targets.repeat.tolist() == [True, False, False, True, False]
    assert targets.history_length.tolist() == [2, 2, 2, 5, 1]
    assert targets.first_time.tolist() == (~targets.repeat).tolist()


def test_repeat_against_sets(random_data):
    dataset = random_data(0)
    samples = dataset.samples("test")
    targets = Targets.from_samples(dataset, samples)
    histories = [
        set(dataset.items[a:b].tolist())
        for a, b in zip(samples.history_start, samples.history_end, strict=True)
    ]
    expected = [
        i in histories[s] for i, s in zip(targets.item.tolist(), targets.sample, strict=True)
    ]
    assert targets.repeat.tolist() == expected
    assert 0 < targets.repeat.mean() < 1


def test_refuses_samples_without_history(random_data):
    dataset = random_data(0)
    samples = dataset.samples("test")
    start = samples.history_start.copy()
    start[3] = samples.history_end[3]
    with pytest.raises(ValueError, match="row 3"):
        Targets.from_samples(dataset, replace(samples, history_start=start))


def test_no_samples(dataset_of):
    dataset = dataset_of([[("train", [0, 1])]], 2)
    targets = Targets.from_samples(dataset, dataset.samples("test"))
    assert len(targets) == 0
    assert targets.repeat.dtype == np.bool_
