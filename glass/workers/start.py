"""The workers that the settings ask for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from glass.config import RayConfig
from glass.workers.base import ONE_PROCESS, Workers


def check_ray(config: RayConfig) -> None:
    """Refuse settings that cannot work, before any work is done.

    Raises:
        ValueError: Ray is wanted and not installed, or a number out of range.
    """
    if config.num_cpus is not None and config.num_cpus < 1:
        raise ValueError(f"ray.num_cpus is {config.num_cpus}; it must be at least 1")
    if config.enabled and importlib.util.find_spec("ray") is None:
        raise ValueError(
            "ray.enabled needs Ray, which is not installed: pip install 'ray[data]', or set "
            "ray.enabled to false"
        )


@contextmanager
def started(config: RayConfig) -> Iterator[Workers]:
    """Workers for the block: this process, or those of a Ray cluster.

    A cluster that is started here is stopped here.

    Raises:
        ValueError: see `check_ray`, or there is no cluster at `config.address`.
    """
    check_ray(config)
    if not config.enabled:
        yield ONE_PROCESS
        return
    from glass.workers.ray import ray_workers  # takes seconds

    with ray_workers(config) as workers:
        yield workers
