"""Which of a Triton kernel's settings runs: one that is shipped for the card, or the fastest here.

`tuning/sm_80.json` (A100) and `sm_90.json` (H100, H200) name settings by kernel; as long as their
`measured` is null they are guesses, made from compiled code. A card without a file, or any card
under GLASS_AUTOTUNE=1, times the settings at the first call of a kind; Triton keeps the outcome in
its cache on disk, so that this happens once a machine.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

ENVIRONMENT = "GLASS_AUTOTUNE"
FOLDER = Path(__file__).parent / "tuning"
Known = dict[str, Any]
"""A launch's arguments by name, constants among them."""
Choose = Callable[[Known], Sequence[triton.Config]]

_kernels: dict[str, Any] = {}


def tuned(
    configs: Sequence[triton.Config], key: Sequence[str], choose: Choose | None = None
) -> Callable[[Any], Any]:
    """Decorates a `triton.jit` function with the choice of a setting.

    Args:
        configs: every setting there is.
        key: arguments on which the fastest setting depends, beside the tensors' dtypes.
        choose: those of `configs` that fit a launch, best guess first; without it all do. Where the
            kernel has a constant FIXED that is true, the first is taken.
    """

    def decorate(function: Any) -> Any:
        name = name_of(function)

        def prune(every: list[triton.Config], arguments: Known, **more: Any) -> list[triton.Config]:
            known = arguments | more
            found = list(choose(known)) if choose else every
            if known.get("FIXED"):
                return found[:1]
            return found if asked_to_tune() else shipped(name, found, known, key)

        kernel = triton.autotune(
            list(configs),
            key=list(key),
            prune_configs_by={"early_config_prune": prune},
            cache_results=True,
            **_interpreted_timer(),
        )(function)
        _kernels[name] = kernel
        return kernel

    return decorate


def name_of(function: Any) -> str:
    """Of a `triton.jit` function, in the files: two operations may have kernels of one name."""
    return f"{function.fn.__module__.split('.')[-2]}.{function.fn.__name__}"


def kernels() -> Known:
    """Every kernel that was imported and has a choice, by name."""
    return _kernels


def _interpreted_timer() -> Known:
    """Arguments of `triton.autotune` with which it takes the first setting and asks no driver."""
    if not triton.knobs.runtime.interpret:
        return {}
    return {"do_bench": lambda fn, quantiles=None, **_: [0.0, 0.0, 0.0]}


def asked_to_tune() -> bool:
    """Whether GLASS_AUTOTUNE says that shipped settings do not count. Raises ValueError."""
    value = os.environ.get(ENVIRONMENT, "0")
    if value not in ("0", "1"):
        raise ValueError(f"environment variable {ENVIRONMENT} is {value!r}; it must be 0 or 1")
    return value == "1"


def shipped(
    kernel: str, found: list[triton.Config], known: Known, key: Sequence[str]
) -> list[triton.Config]:
    """The one of `found` that is shipped for the card of the launch, or all of them.

    An entry counts if all of its `when` holds, and its setting is one of `found`.
    """
    card = card_of(known)
    if card is None or len(found) == 1:
        return found
    here = _kind(known, key)
    for entry in read(card)["settings"].get(kernel, ()):
        if all(here.get(name) == value for name, value in entry["when"].items()):
            for config in found:
                if plain(config) == entry["use"]:
                    return [config]
    return found


def _kind(known: Known, key: Sequence[str]) -> Known:
    dtypes = [str(value.dtype) for value in known.values() if hasattr(value, "dtype")]
    return {name: known[name] for name in key} | {"dtypes": dtypes}


def plain(config: triton.Config) -> Known:
    """A setting as the files have it."""
    return {**config.kwargs, "warps": config.num_warps, "stages": config.num_stages}


def card_of(known: Known) -> str | None:
    """`sm_90` and the like, of the tensors' device; None on a CPU and on AMD's cards."""
    for value in known.values():
        if isinstance(value, Tensor):
            return _card(value.device)
    return None


@cache
def _card(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@cache
def read(card: str) -> Known:
    """What is shipped for a card: `measured`, null or with what; `settings` by kernel."""
    path = FOLDER / f"{card}.json"
    if not path.exists():
        return {"measured": None, "settings": {}}
    found: Known = json.loads(path.read_text(encoding="utf-8"))
    return found


def measured() -> dict[str, list[Known]]:
    """Settings that this process uses, in the form of the files' `settings`.

    Under GLASS_AUTOTUNE=1 they are the fastest that were timed on this card.
    """
    return {
        name: [
            {"when": _of_key(kernel, key), "use": plain(config)}
            for key, config in kernel.cache.items()
        ]
        for name, kernel in sorted(_kernels.items())
        if kernel.cache
    }


def _of_key(kernel: Any, key: Sequence[Any]) -> Known:
    """The opposite of what Triton makes of a launch: the arguments' values, then dtypes."""
    count = len(kernel.keys)
    return dict(zip(kernel.keys, key, strict=False)) | {"dtypes": list(key[count:])}
