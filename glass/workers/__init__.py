"""Parts of a job, done in this process or by the workers of a Ray cluster."""

from glass.workers.base import ONE_PROCESS, Workers
from glass.workers.start import started

__all__ = ["ONE_PROCESS", "Workers", "started"]
