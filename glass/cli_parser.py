"""Settings on the command line: jsonargparse over `RunConfig`, with plain messages."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glass.config import RunConfig
from glass.configuration import (
    describe_type,
    field_types,
    find_config,
    flat,
    optional,
    read_yaml,
    suggestion,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_KEY = re.compile(r'Parser key "([\w.]+)"')
_GOT = re.compile(r"Got value: (.*)", re.DOTALL)


def make_parser(prog: str, description: str, own_usage: str = "") -> ArgumentParser:
    """A jsonargparse parser with an option for every field of `RunConfig`."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=prog,
        usage=" ".join(f"{prog} CONFIG {own_usage} [--field VALUE ...]".split()),
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_class_arguments(RunConfig, None, as_group=True)
    for action in parser._actions:  # `--train FILE` would slip past our checks of names
        if dataclasses.is_dataclass(field_types().get(action.dest)):
            action.help = argparse.SUPPRESS
    return parser


def parse(
    parser: ArgumentParser, config: str | None, arguments: Sequence[str]
) -> tuple[RunConfig, dict[str, Any]]:
    """Settings of `config` with the command line over them, and the other options.

    The run folder, where `config` names one, stays the run's folder wherever it was moved to.

    Args:
        parser: from `make_parser`, perhaps with more options.
        config: see `find_config`; None: defaults alone (`--help`).
        arguments: everything behind `config`.

    Raises:
        ValueError: an unknown option, or a value of the wrong type; the message names it, its
            file and what it must be.
        SystemExit: after `--help`.
    """
    if config is not None:
        path, folder = find_config(config)
        values = _checked(lambda: parser.parse_object(read_yaml(path), defaults=False), f"{path}: ")
        values = flat(values)
        if folder is not None:
            output = Path(str(values.get("output", RunConfig.output)))
            if (output / str(values.get("name", RunConfig.name))).resolve() != folder:
                values.update(output=str(folder.parent), name=folder.name)
        parser.set_defaults(values)
    _check_options(parser, arguments)
    parsed = _checked(lambda: parser.parse_args(list(arguments)), "")
    flattened = flat(parsed)
    known = field_types()
    for name in known:
        value = flattened.get(name, 0)
        if value is None and not optional(known[name]):
            raise ValueError(f"{name} is null; it must be {describe_type(known[name])}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be finite")
    others = {name: value for name, value in flattened.items() if name not in known}
    return _build(RunConfig, flattened, ""), others


def _checked(parse: Callable[[], Any], source: str) -> dict[str, Any]:
    """Runs a parser and says in plain words what it refused."""
    try:
        return dict(parse().as_dict())
    except (argparse.ArgumentError, TypeError) as error:
        text = str(error)
        key, got = _KEY.search(text), _GOT.search(text)
        if key is None or key[1] not in field_types():
            raise ValueError(source + text.replace("\n", " ")) from error
        value = f" is {got[1].strip().replace('None', 'null')}" if got else " has a wrong value"
        raise ValueError(
            f"{source}{key[1]}{value}; it must be {describe_type(field_types()[key[1]])}"
        ) from error


def _check_options(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    options = [o for action in parser._actions for o in action.option_strings]
    sections = {name for name, kind in field_types().items() if dataclasses.is_dataclass(kind)}
    known = [o[2:] for o in options if o.startswith("--") and o[2:] not in sections]
    for argument in arguments:
        name = argument[2:].partition("=")[0]
        if argument.startswith("--") and name in sections:
            raise ValueError(
                f"--{name} is a section; set its fields, such as --{name}.{_first(name)}"
            )
        if argument.startswith("--") and name not in known:
            hint = suggestion(name, known).replace("mean ", "mean --").replace(" or ", " or --")
            raise ValueError(f"unknown option --{name}.{hint}")


def _first(section: str) -> str:
    return str(dataclasses.fields(field_types()[section])[0].name)


def _build(section: Any, flat: Mapping[str, Any], prefix: str) -> Any:
    """The dataclass from validated values; whole numbers of float fields become floats, so that
    a setting has one form in `config.yaml` and in fingerprints."""
    values: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, flat, f"{prefix}{name}.")
            continue
        value = flat[prefix + name]
        wants_float = hint is float or float in typing.get_args(hint)
        values[name] = float(value) if wants_float and value is not None else value
    return section(**values)
