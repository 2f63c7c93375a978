"""pre-commit and `make lint` run the same checks."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
QUIET = {"--quiet", "--no-error-summary"}


def checks_of_make() -> set[str]:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = re.findall(r"^\t@\$\(BIN\)/(.*?)(?: \|\| \\)?$", recipe[1], re.MULTILINE)
    words = [re.sub(r"\$\$\(.*\)| \.$", "", command).split() for command in commands]
    return {" ".join(word for word in line if word not in QUIET) for line in words}


def test_same_commands() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {hook["entry"].removeprefix(".venv/bin/") for hook in hooks} == checks_of_make()
    assert all(hook["language"] == "system" for hook in hooks)  # nothing is fetched
    assert len(checks_of_make()) == 4


def test_same_sources_of_the_extension() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (files,) = (h["files"] for h in config["repos"][0]["hooks"] if h["id"] == "clang-format")
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".cu", ".h")]
    assert sources
    assert all(re.search(files, path.relative_to(ROOT).as_posix()) for path in sources)
