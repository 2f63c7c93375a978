"""Puts the shared toy data sets and models on the path."""

import sys
from pathlib import Path

HELPERS = str(Path(__file__).parents[1] / "helpers")
if HELPERS not in sys.path:
    sys.path.append(HELPERS)
