"""Writes docs/configuration.md from the dataclasses of glass/config.py and their docstrings.

Run `.venv/bin/python docs/make_configuration.py` after a change of a setting; tests/test_docs.py
checks that the page is current.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

from glass import config
from glass.configuration import describe_type, field_types

PAGE = Path(__file__).with_name("configuration.md")

INTRO = """\
# Configuration

Written by `.venv/bin/python docs/make_configuration.py` from `glass/config.py`; do not edit.

A config is a YAML file with any of these fields; what it leaves out has its default. Every field
can be set on the command line too, with its dotted name:

```bash
glass run configs/complete_journey_glass.yaml --train.max_epochs 2 --sid.codebook_sizes '[32,64,64]'
```

- The command line wins over the file, the file over the defaults. `glass run CONFIG --help` shows
  every field with the value that the config gives it.
- An unknown name is an error that suggests the right one; so is a value of another type.
- `null` empties a field that allows it.
- `runs/<name>/config.yaml` is the whole config of a run. The folder of a run is a config too:
  `glass report runs/latest`.

`configs/` holds the frozen configs; the first line of each says how to run it.
"""


def docstrings(section: type) -> dict[str, str]:
    """Field -> the string below it in the source of a dataclass, on one line."""
    body = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def shown(value: Any) -> str:
    """A default as it would stand in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(section: type, prefix: str) -> list[str]:
    """Rows of the fields that are not sections themselves."""
    texts, types = {}, field_types()
    for kind in reversed(section.__mro__[:-1]):
        texts |= docstrings(kind)
    rows = ["| field | default | may be | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(types[prefix + field.name]):
            continue
        kind = describe_type(types[prefix + field.name])
        cells = (f"`{prefix}{field.name}`", f"`{shown(field.default)}`", kind, texts[field.name])
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return rows


def page() -> str:
    """The whole page."""
    parts = [INTRO]
    sections = [("", config.RunConfig)]
    sections += [(f"{n}.", t) for n, t in field_types().items() if dataclasses.is_dataclass(t)]
    for prefix, section in sections:
        title = f"`{prefix[:-1]}`" if prefix else "The run"
        summary = " ".join((inspect.getdoc(section) or "").split())
        parts += [f"## {title}", f"{summary}\n", "\n".join(table(section, prefix)) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
