"""The `glass` command: finds the command and its settings, and turns errors into one message."""

from __future__ import annotations

import difflib
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

from glass.cli_errors import expected_message
from glass.commands import COMMANDS
from glass.tools import TOOLS, run_tool

PARALLEL = ("run", "train", "evaluate")
"""Commands that several processes can share, under `torchrun`."""
INTERRUPTED = 130
TERMINATED = 143

_SUMMARIES = {name: command.summary for name, command in COMMANDS.items()} | {
    name: tool.summary for name, tool in TOOLS.items()
}
_CONFIG_HELP = """\
CONFIG is a YAML file such as configs/complete_journey_glass.yaml, or the folder of a run such as
runs/latest. Every field can be set on the command line too: --train.max_epochs 2.
"""


class _Terminated(KeyboardInterrupt):
    """SIGTERM; unwinds like Ctrl-C, so that temporary files go."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0, 1 for an error, 130 after Ctrl-C, 143 after SIGTERM. Expected errors
        (bad input, full disk, ...) print one message; `GLASS_DEBUG=1` adds the traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_unwinds():
            _dispatch(arguments)
            sys.stdout.flush()
        return 0
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # `glass ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        again = shlex.join(["glass", *arguments])
        _say(f"\nglass: interrupted; what is finished is kept, to continue run again\n  {again}")
        return TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
    except Exception as error:
        message = expected_message(error)
        if message is None or os.environ.get("GLASS_DEBUG") == "1":
            traceback.print_exc()
        if message is None:
            message = (
                "this is a bug in glass: please report it with the lines above, the command "
                "and the output of `glass info`"
            )
        _say(f"glass: {message}")
        return 1


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        print(f"glass {_version()}")
        return
    if arguments == ["info"]:
        from glass_kernels.info import report

        print(report())
        return
    name, rest = _find_command(arguments)
    if name in TOOLS:
        run_tool(name, rest)
        return
    config, others = _settings(name, rest)
    if _number_of_several() is not None and name not in PARALLEL:
        raise ValueError(f"`glass {name}` is the work of one process; start it without torchrun")
    with _log_steps(), _first_prints(), _job():
        COMMANDS[name].work(config, others)


def _find_command(arguments: list[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        if (name := " ".join(arguments[:words])) in _SUMMARIES:
            return name, arguments[words:]
    group = [name for name in _SUMMARIES if name.split()[0] == arguments[0]]
    if group:
        if arguments[1:] and arguments[1] in ("-h", "--help"):
            print("\n".join(f"glass {name:<15}{_SUMMARIES[name]}" for name in group))
            raise SystemExit(0)
        raise ValueError(f"`glass {arguments[0]}` is one of: glass {', glass '.join(group)}")
    known = [*_SUMMARIES, "info"]
    close = difflib.get_close_matches(" ".join(arguments[:2]), known, n=1, cutoff=0.5)
    close = difflib.get_close_matches(arguments[0], known, n=1, cutoff=0.5) or close
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"unknown command {arguments[0]!r}.{hint} The commands: {', '.join(known)}")


def _settings(name: str, arguments: list[str]) -> tuple[Any, dict[str, Any]]:
    from glass.cli_parser import make_parser, parse

    command = COMMANDS[name]
    description = f"{command.summary[0].upper()}{command.summary[1:]}.\n\n{_CONFIG_HELP}"
    parser = make_parser(f"glass {name}", description, command.usage)
    command.add_options(parser)
    if arguments and not arguments[0].startswith("-"):
        return parse(parser, arguments[0], arguments[1:])
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        raise SystemExit(0)
    raise ValueError(
        f"`glass {name}` needs a CONFIG first: glass {name} CONFIG {command.usage}".rstrip()
        + "\nCONFIG is a YAML file of configs/ or the folder of a run, such as runs/latest"
    )


def _overview() -> str:
    lines = ["usage: glass COMMAND CONFIG [--field VALUE ...]", "", "commands:"]
    lines += [f"  {name:<15}{summary}" for name, summary in _SUMMARIES.items()]
    lines += ["  info           what is installed, built and available, and why not"]
    lines += ["", "options:", "  --version      print the version"]
    lines += ["  --help         this text; `glass COMMAND CONFIG --help` explains every field"]
    return "\n".join([*lines, "", _CONFIG_HELP])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("glass-rec")
    except PackageNotFoundError:
        return "(not installed)"


@contextmanager
def _log_steps() -> Iterator[None]:
    """What the steps say goes to stderr; stdout is for results."""
    import logging

    log, handler = logging.getLogger("glass"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = log.level
    log.addHandler(handler)
    # Of several processes the first tells what all do.
    log.setLevel(logging.WARNING if _number_of_several() else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _number_of_several() -> int | None:
    """Number of this process, from 0, where `torchrun` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return int(os.environ.get("RANK", "0"))


def _job() -> AbstractContextManager[None]:
    if _number_of_several() is None:  # and no torch for commands that need none
        return nullcontext()
    from glass import distributed

    return distributed.job()


@contextmanager
def _first_prints() -> Iterator[None]:
    """Of several processes one tells the results."""
    if not _number_of_several():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
