"""matplotlib figures as inline SVG whose colours are the page's CSS variables.

A figure is drawn once with placeholder colours; each is replaced by `var(--...)`, so that one file
is legible in light and in dark mode and in print. Text stays text: it can be read out and searched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Placeholder of each CSS variable of style.css.
_VARIABLES = ("ink", "muted", "grid", "surface", "good", "bad", *(f"s{i}" for i in range(8)))
COLORS = {name: f"#00ee{index:02x}" for index, name in enumerate(_VARIABLES)}

# Colour, marker and dash together: colour is never the only sign.
_STYLES = {
    "glass": ("s0", "o", "-"),
    "tiger": ("s1", "s", "-"),
    "own_frequency": ("s2", "^", "--"),
    "item_knn": ("s3", "D", "--"),
    "popularity": ("s4", "v", ":"),
    "recent_frequency": ("s5", "P", "-."),
    "intrr_transformer": ("s6", "X", "-"),
    "flattened_transformer": ("s6", "<", "--"),
    "intrr_hstu": ("s7", "*", "-"),
    "flattened_hstu": ("s7", ">", "--"),
}
_SPARE = (("s6", "X", "-"), ("s7", "*", "-"), ("s3", "<", "-"), ("s5", ">", "-"))

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glass",
    # A "$" in a title or name is a dollar, not TeX.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "axes.titlecolor": COLORS["ink"],
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Style:
    """How one system looks in every figure."""

    color: str
    marker: str
    dash: str


def style_of(system: str, systems: Iterable[str]) -> Style:
    """Style of `system`; unknown systems take spare ones in the order of `systems`."""
    known = _STYLES.get(system)
    if known is None:
        unknown = [s for s in systems if s not in _STYLES]
        index = unknown.index(system) if system in unknown else 0
        known = _SPARE[index % len(_SPARE)]
    return Style(COLORS[known[0]], known[1], known[2])


class Canvas:
    """A figure being drawn, and its SVG once the `canvas` block is left."""

    def __init__(self, name: str, description: str, figure: Figure, axes: Axes) -> None:
        self.name, self.description = name, description
        self.figure, self.axes = figure, axes
        self.svg = Markup("")


@contextmanager
def canvas(
    name: str, description: str, width: float = 5.0, height: float = 3.0
) -> Iterator[Canvas]:
    """Axes to draw on; inside the page the figure is called `name` and read out as `description`.

    Args:
        name: prefix of all ids of the figure, unique in the page: letters, digits and "-".
        width: in inches; 5 suits a column of a laptop and the full width of a phone.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawing = Canvas(name, description, figure, figure.subplots())
        yield drawing
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        drawing.svg = _inline(buffer.getvalue(), name, description)


def _inline(svg: str, name: str, description: str) -> Markup:
    """SVG file -> element of an HTML page: no declarations, no addresses, unique ids, variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # matplotlib's own <style> would apply to the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    head = re.search(r'viewBox="([^"]+)"', svg)
    assert head is not None, "matplotlib writes a viewBox"
    label = escape(description, quote=True)
    opening = f'<svg viewBox="{head.group(1)}" role="img" aria-label="{label}">'
    body = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = body.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    for variable, color in COLORS.items():
        body = re.sub(rf"\b(fill|stroke): {color}", rf"\1: var(--{variable})", body)
    return Markup(re.sub(r"\s*\n\s*", " ", body).strip())
