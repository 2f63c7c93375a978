"""The pages say what is true: commands parse, links lead somewhere, settings are current."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from glass.cli_parser import make_parser, parse
from glass.commands import COMMANDS
from glass.configuration import field_types, read_yaml
from glass.tools import TOOLS, make_tool_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "csrc").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL = ("bash", "console")
FILES = ("csv", "html", "jsonl", "json", "parquet", "py", "safetensors", "yaml")
WITHOUT_CONFIG = (["info"], ["--version"], ["--help"], ["-h"])


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of every shell line of a page, and of every inline `glass ...` or `make ...`."""
    for block in blocks(page, *SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            # in a console block only what follows the prompt is typed
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words
    prose = FENCE.sub("", page.read_text())
    for text in re.findall(r"`((?:glass|make) [^`]+)`", prose):
        yield shlex.split(text)


def typed(program: str) -> list[tuple[str, list[str]]]:
    """(page, arguments) of every line that runs `program`, each once."""
    found = []
    for page in PAGES:
        for words in command_lines(page):
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and words[0] in (program, f".venv/bin/{program}"):
                found.append((page.name, words[1:]))
    return [case for i, case in enumerate(found) if case not in found[:i]]


@cache
def parser_of(command: str) -> Any:
    parser = make_parser(f"glass {command}", "")
    COMMANDS[command].add_options(parser)
    return parser


def check_glass(arguments: list[str]) -> None:
    """Raises where `glass` would, up to the existence of its config."""
    if arguments in WITHOUT_CONFIG or arguments[0].isupper():  # `glass COMMAND CONFIG` is a form
        return
    if (name := " ".join(arguments[:2])) in TOOLS:
        if arguments[2:] not in ([], ["taobao-mm"]):  # named in a sentence
            make_tool_parser(name).parse_args(arguments[2:])
        return
    count = next((n for n in (2, 1) if " ".join(arguments[:n]) in COMMANDS), 0)
    if not count:
        # A page may name a group: `glass sid --help`.
        groups = {name.split()[0] for name in COMMANDS if " " in name}
        assert arguments[0] in groups, f"no command glass {' '.join(arguments)}"
        assert arguments[1:] == ["--help"]
        return
    name, rest = " ".join(arguments[:count]), arguments[count:]
    if rest in (["--help"], []):
        return
    assert not rest[0].startswith("-"), f"glass {name}: a CONFIG comes first"
    if "--help" not in rest:
        parse(parser_of(name), None, rest[1:])


@pytest.mark.parametrize(("page", "arguments"), typed("glass"), ids=str)
def test_glass_commands_parse(page: str, arguments: list[str]) -> None:
    check_glass(arguments)


@pytest.mark.parametrize(
    "line",
    [
        "glass rum shop.yaml",
        "glass train --system glass",
        "glass run a.yaml --trian.seed 1",
        "glass data synth x",
    ],
)
def test_a_wrong_command_is_seen(line: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_glass(shlex.split(line)[1:])


def test_every_command_has_its_part_of_the_commands_page() -> None:
    titles = re.findall(r"^## `glass (.+)`$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    assert set(titles) == {*COMMANDS, *TOOLS, "info"}


@pytest.mark.parametrize(("page", "arguments"), typed("make"), ids=str)
def test_make_targets_exist(page: str, arguments: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for word in arguments:
        name, given, value = word.partition("=")
        if not given:
            assert word in targets, f"{page}: the Makefile has no target {word}"
        elif name == "CONFIG" and value != "...":
            assert (ROOT / value).is_file(), f"{page}: {value} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    links = [x for x in LINK.findall(FENCE.sub("", page.read_text())) if "://" not in x]
    broken = [x for x in links if not (page.parent / x.partition("#")[0]).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"\bconfigs/[\w.]+\.yaml", page.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "block", [b for page in PAGES for b in blocks(page, "yaml")], ids=lambda b: b.split("\n")[0]
)
def test_yaml_examples_are_configs(block: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(block)
    parser_of("run").parse_object(read_yaml(path), defaults=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fields_that_are_named_exist(page: Path) -> None:
    """`train.max_epochs` and the like, where the section is one of ours."""
    text = FENCE.sub("", page.read_text())
    sections = "|".join(re.escape(name) for name in field_types() if "." not in name)
    named = set(re.findall(rf"`(?:--)?((?:{sections})\.[a-z]\w*(?:\.\w+)*)", text))
    files = {name for name in named if name.rpartition(".")[2] in FILES}
    assert named - files <= set(field_types())


def load_script() -> ModuleType:
    path = ROOT / "docs" / "make_configuration.py"
    spec = importlib.util.spec_from_file_location("make_configuration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_current() -> None:
    script = load_script()
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), (
        "settings changed: run .venv/bin/python docs/make_configuration.py"
    )


def test_configuration_page_has_every_field() -> None:
    fields = [name for name, kind in field_types().items() if not dataclasses.is_dataclass(kind)]
    assert fields
    rows = (ROOT / "docs" / "configuration.md").read_text()
    assert [name for name in fields if f"| `{name}` |" not in rows] == []


def test_readme_kernels_run() -> None:
    """The part that needs neither data nor a model."""
    first = blocks(ROOT / "README.md", "python")[0]
    assert "glass_kernels" in first
    scope: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), scope)
    assert tuple(scope["shares"].shape) == (2, 4, 4)  # type: ignore[attr-defined]


def test_modules_page_runs() -> None:
    scope: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "modules.md", "python"):
        exec(compile(block, "modules.md", "exec"), scope)
    out, layer = scope["out"], scope["layer"]
    assert tuple(out.shape) == (2, 3, 2, 32)  # type: ignore[attr-defined]
    assert 0 < scope["gate"] < 1  # type: ignore[operator]
    grads = {name: p.grad for name, p in layer.named_parameters()}  # type: ignore[attr-defined]
    assert all((grad != 0).any() for grad in grads.values()), grads.keys()
    assert scope["embeddings"].grad is None  # type: ignore[attr-defined]
    assert tuple(scope["second"].shape) == (2, 5, 16)  # type: ignore[attr-defined]
    trained = [*scope["network"].parameters(), *scope["uids"].parameters()]  # type: ignore[attr-defined]
    assert all((p.grad != 0).any() for p in trained)


def test_generation_page_runs() -> None:
    scope: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "generation.md", "python"):
        exec(compile(block, "generation.md", "exec"), scope)
    items, seen = scope["ranked"].items, scope["older"]  # type: ignore[attr-defined]
    assert tuple(items.shape) == (2, 10)
    assert not set(items[0].tolist()) & set(seen[:40].tolist())  # type: ignore[index]


def test_trie_page_runs() -> None:
    scope: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "trie.md", "python"):
        exec(compile(block, "trie.md", "exec"), scope)
    assert scope["prefixes"][0].tolist() == [[2, -1], [1, 0], [1, 1], [-1, -1]]
    assert scope["item_ids"].tolist() == [4, 1, 2, 3]
    assert scope["offsets"].tolist() == [0, 1, 2, 4, 4]
