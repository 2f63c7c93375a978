"""Commands that need no settings of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """One command with arguments of its own."""

    summary: str
    """Shown by `glass --help` and by its own `--help`."""
    work: Callable[[argparse.Namespace], None]
    """Does it; ValueError and OSError are for the user."""
    add_arguments: Callable[[argparse.ArgumentParser], None]


def run_tool(name: str, arguments: Sequence[str]) -> None:
    """Runs one of `TOOLS`.

    Raises:
        ValueError: arguments that it does not take.
        SystemExit: after `--help`.
    """
    TOOLS[name].work(make_tool_parser(name).parse_args(list(arguments)))


def make_tool_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one of `TOOLS`; it raises ValueError for what it does not take."""
    tool = TOOLS[name]
    summary = f"{tool.summary[0].upper()}{tool.summary[1:]}."
    parser = _Parser(prog=f"glass {name}", description=summary, allow_abbrev=False)
    tool.add_arguments(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(f"{message}; `{self.prog} --help` explains the arguments")


def _data_synth(options: argparse.Namespace) -> None:
    from glass.data.synth import SynthSizes, write_taobao_mm

    changes = {name: getattr(options, name) for name in ("items", "history", "coverage", "seed")}
    given = {name: value for name, value in changes.items() if value is not None}
    print(write_taobao_mm(options.to, SynthSizes.of(options.users, **given)))


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=["taobao-mm"], help="whose files to write")
    parser.add_argument("--users", type=int, required=True, help="users of each split")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="new folder for the files"
    )
    parser.add_argument("--items", type=int, help="items; 5.07 a user as in the release")
    parser.add_argument("--history", type=int, help="events of the longest history; 1000")
    parser.add_argument("--coverage", type=float, help="share of items with a vector; 0.146")
    parser.add_argument("--seed", type=int, help="another seed, other rows; 0")


TOOLS: Mapping[str, Tool] = {
    "data synth": Tool(
        "write a made-up data set of any size in the files of a published one",
        _data_synth,
        _synth_arguments,
    ),
}
