"""The YAML examples of a page, as settings: tests run what the page tells users to type."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from glass.config import DataConfig, SidConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"


def example(page: str, name: str) -> tuple[DataConfig, SidConfig]:
    """Settings of the block of `page` whose data set is called `name`."""
    blocks = re.findall(
        r"^```yaml\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE
    )
    found = [block for block in map(yaml.safe_load, blocks) if block["data"].get("name") == name]
    assert len(found) == 1, f"{page} has {len(found)} examples called {name}"
    sections: dict[str, dict[str, Any]] = found[0]
    data, sid = (
        {key: tuple(v) if isinstance(v, list) else v for key, v in sections.get(part, {}).items()}
        for part in ("data", "sid")
    )
    return DataConfig(**data), replace(SidConfig(), **sid)
