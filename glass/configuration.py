"""Settings of `RunConfig` in YAML: names, types, and messages that name the right field."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from glass.config import RunConfig

CONFIG_FILE = "config.yaml"
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LISTS = {
    int: "a list of whole numbers such as [64, 128]",
    str: "a list of names such as [one, two]",
}


@cache
def field_types() -> Mapping[str, Any]:
    """Type of every setting by its dotted name; sections (`train`) map to their dataclass."""
    found: dict[str, Any] = {}
    _collect(RunConfig, "", found)
    return types.MappingProxyType(found)


def _collect(section: Any, prefix: str, found: dict[str, Any]) -> None:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        found[prefix + field.name] = hints[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            _collect(hints[field.name], f"{prefix}{field.name}.", found)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def describe_type(hint: Any) -> str:
    """What a setting may be, for people: "a whole number or null"."""
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return _LISTS[typing.get_args(hint)[0]]
    if type(None) in typing.get_args(hint):
        return describe_type(typing.get_args(hint)[0]) + " or null"
    if dataclasses.is_dataclass(hint):
        names = ", ".join(field.name for field in dataclasses.fields(hint))
        return f"a section with any of {names}"
    return _KINDS[hint]


def suggestion(name: str, known: Sequence[str]) -> str:
    """Question after an unknown dotted name: which known one was meant? Empty if none is near."""
    wanted = name.replace("-", "_").lower()
    leaf = wanted.rpartition(".")[2]
    same = [k for k in known if k.lower() == wanted]
    # The right field in the wrong section, then whatever is spelled much the same.
    same += [k for k in known if k.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.75)
    if not same and not close:
        leaves = [k.rpartition(".")[2] for k in known]
        close = [
            k
            for found in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)
            for k in known
            if k.rpartition(".")[2] == found
        ]
    names = list(dict.fromkeys(same + close))[:4]
    return f" Did you mean {' or '.join(names)}?" if names else ""


# --- files


def find_config(given: str) -> tuple[Path, Path | None]:
    """The YAML file that `given` names, and the run folder if it names one.

    Args:
        given: a YAML file, or the folder of a run such as `runs/latest`.

    Raises:
        ValueError: neither of them.
    """
    path = Path(given)
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            raise ValueError(
                f"{path} is a folder without a {CONFIG_FILE}: name a YAML file or the folder of "
                "a run, such as runs/latest"
            )
        return path / CONFIG_FILE, path.resolve()
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} points to {path.readlink()}, which does not exist")
    if not path.exists():
        folder = path.parent
        near = [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=1, cutoff=0.5)
        hint = f" Did you mean {folder / close[0]}?" if close else ""
        raise ValueError(f"config file {path} does not exist.{hint}")
    return path, None


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings of a YAML file, only names and shape checked yet.

    Raises:
        ValueError: no YAML, an unknown or repeated name (with the line and the right name), or a
            section that is none.
        OSError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or error
        raise ValueError(f"{path}{line} is not valid YAML: {problem}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path} holds no settings; write lines such as `name: my_run`")
    _check_names(path, root, "")
    return _without_empty_sections(content, "")


def _check_names(path: Path, node: yaml.MappingNode, prefix: str) -> None:
    known = field_types()
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name not in known:
            raise ValueError(f"{path}:{line}: unknown field {name}.{suggestion(name, [*known])}")
        if name in seen:
            raise ValueError(f"{path}:{line}: {name} is given twice, first in line {seen[name]}")
        seen[name] = line
        empty = value.tag == "tag:yaml.org,2002:null"
        if dataclasses.is_dataclass(known[name]):
            if isinstance(value, yaml.MappingNode):
                _check_names(path, value, f"{name}.")
            elif not empty:
                raise ValueError(f"{path}:{line}: {name} must be {describe_type(known[name])}")
        elif empty and not optional(known[name]):
            wanted = describe_type(known[name])
            raise ValueError(f"{path}:{line}: {name} is empty; it must be {wanted}")


def _without_empty_sections(content: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A section whose lines are all commented out reads as None."""
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if dataclasses.is_dataclass(field_types()[prefix + key]):
            value = _without_empty_sections(value or {}, f"{prefix}{key}.")
        kept[key] = value
    return kept


def optional(hint: Any) -> bool:
    """Whether a setting may be null."""
    return type(None) in typing.get_args(hint)
