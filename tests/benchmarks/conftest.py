"""`benchmarks` is no installed package: found from the root, whatever pytest is started by."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
