"""The same item vectors quantised in several ways, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from glass.config import RayConfig, SidConfig
from glass.sid.builder import build, check_sid_config, load_built
from glass.sid.files import work_folder
from glass.sid.health import SidHealth, describe
from glass.sid.vectors import ItemVectors, item_vectors
from glass.workers import Workers, started

if TYPE_CHECKING:
    from glass.data import Dataset


def compare(
    config: SidConfig,
    dataset: Dataset,
    folder: Path | str,
    quantizers: Sequence[str],
    ray: RayConfig | None = None,
) -> dict[str, SidHealth]:
    """Health of the SIDs that each quantiser makes of the same vectors.

    Each is built in `<folder>/<quantizer>` unless it is there already, so that an interrupted
    comparison goes on where it was.

    Args:
        config: all settings but `quantizer`.
        dataset: the prepared data set.
        folder: where the SIDs are kept.
        quantizers: names for `sid.quantizer`.
        ray: workers for those that are not there already; None: this process.

    Raises:
        ValueError: no or unknown quantisers, or settings that do not suit one, before any work.
    """
    if not quantizers:
        raise ValueError("quantizers is empty; name at least one, such as rkmeans")
    # `build` refuses a name that is none.
    settings = {name: replace(config, quantizer=cast(Any, name)) for name in quantizers}
    for each in settings.values():
        check_sid_config(each)

    built = {}
    with ExitStack() as stack:

        @cache
        def workers() -> Workers:
            return stack.enter_context(started(ray or RayConfig()))

        @cache
        def vectors() -> ItemVectors:
            with work_folder(Path(folder)) as work:
                return item_vectors(config, dataset, workers(), work)

        for name, each in settings.items():
            own = Path(folder) / name
            table = load_built(each, dataset, own)
            if table is None:
                table = build(each, dataset, own, vectors=vectors, workers=workers())
            built[name] = table
    return {name: describe(table, dataset) for name, table in built.items()}


def format_comparison(healths: Mapping[str, SidHealth]) -> str:
    """A text table, a quantiser a row; figures by level stand beside each other."""
    head = ("quantizer", "SIDs", "sharing", "largest", "dead", "perplexity", "error")
    rows = [(*head, "nearest alike", "by chance")]
    for name, health in healths.items():
        own = health.before_deduplication or health
        depth = health.num_levels_quantized
        levels = health.levels[:depth]
        agreement = health.agreement
        rows.append(
            (
                name,
                f"{own.num_sids:,}",
                f"{own.colliding_items / health.num_items:.1%}",
                f"{own.largest_sid}",
                " ".join(str(level.size - level.used) for level in levels),
                " ".join(f"{level.perplexity:.1f}" for level in levels),
                " ".join(f"{error:.3f}" for error in health.relative_error) or "-",
                " ".join(f"{s:.1%}" for s in agreement.nearest) if agreement else "-",
                " ".join(f"{s:.2%}" for s in agreement.chance) if agreement else "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
