"""Parts of a job, in this process and in two workers of Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.data
from ray_cases import RAY, Deadly, failing, squared, two_workers, unsendable

from glass.config import RayConfig
from glass.data.assembly.gather import CollisionError
from glass.workers import ONE_PROCESS, Workers, started
from glass.workers import start as start_module


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    with two_workers() as workers:
        yield workers


def test_order_of_the_parts(two: Workers) -> None:
    parts = list(range(100, 0, -1))
    found = list(two.map(squared, parts))
    assert [value for value, _ in found] == [part * part for part in parts]
    assert os.getpid() not in {process for _, process in found}
    assert [value for value, _ in ONE_PROCESS.map(squared, parts)] == [p * p for p in parts]
    assert list(two.map(squared, [])) == []
    assert list(two.map(squared, [3])) == [(9, os.getpid())]
    assert (two.several, ONE_PROCESS.several) == (True, False)


@pytest.mark.usefixtures("two")
def test_settings_of_ray_data_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "enable_progress_bars", True)
    with started(RAY):
        assert not context.enable_progress_bars
    assert context.enable_progress_bars
    assert ray.is_initialized()  # a cluster that was there before stays


def test_errors_are_those_of_the_work(two: Workers) -> None:
    with pytest.raises(CollisionError, match="part 3") as caught:
        list(two.map(failing, range(9)))
    assert "in a worker" in str(caught.value.__cause__)
    assert "failing" in str(caught.value.__cause__)


def test_what_cannot_be_sent_is_no_dead_worker(two: Workers) -> None:
    with pytest.raises(ray.exceptions.RayTaskError, match="pickle"):
        list(two.map(unsendable, range(3)))


def test_a_part_that_kills_every_worker_ends_the_job(two: Workers, tmp_path: Path) -> None:
    found = []
    with pytest.raises(ValueError, match="its worker died 4 times") as caught:
        found.extend(two.map(Deadly(tmp_path), range(8)))
    assert found == list(range(len(found)))
    assert "start the same command again" in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 4


def test_missing_ray_and_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match=r"ray\.num_cpus is 0"),
        started(RayConfig(enabled=True, num_cpus=0)),
    ):
        pass
    monkeypatch.setattr(start_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ray\[data\]"), started(RayConfig(enabled=True)):
        pass
    with started(RayConfig()) as workers:
        assert workers is ONE_PROCESS


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "[::1]:x"])
def test_no_cluster_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    config = RayConfig(enabled=True, address=address)
    with (
        pytest.raises(ValueError, match=r"no cluster answers there .*ray start --head"),
        started(config),
    ):
        pass
