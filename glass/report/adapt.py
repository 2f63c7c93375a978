"""Report input from the results of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from glass.sid import SidHealth


def sid_health_facts(health: SidHealth) -> dict[str, Any]:
    """`ReportInput.sid_health`: `health.to_dict()` and the arrays behind its two figures."""
    levels = [{**level.to_dict(), "counts": level.counts} for level in health.levels]
    histogram = health.bucket_histogram
    return {
        **health.to_dict(),
        "levels": levels,
        "bucket_sizes": {
            "target's bucket": health.target_buckets,
            "all non-empty": np.repeat(np.arange(len(histogram)), histogram),
        },
    }
