"""From source files to a prepared data set on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import typing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glass.config import DataConfig, KuaiRecConfig, RayConfig
from glass.data.assembly import Assembled, assemble
from glass.data.raw import RawData, Source
from glass.data.readers import READERS
from glass.data.store import (
    FORMAT_VERSION,
    MANIFEST,
    is_whole,
    new_folder,
    read_manifest,
    write_json,
)
from glass.workers import started

_LOG = logging.getLogger(__name__)
ALGORITHM_VERSION = 1
"""Raise when the same settings and sources come to give other tables: a change of a reader, of
cleaning, order, filters or splits. The data are then prepared anew, and all that follows from them.
`FORMAT_VERSION` is for files that older code could not read."""
_OF_ONE_FORMAT = ("taobao_mm", "kuairec")
"""Sections that count for the format of their name alone."""
NO_RAY = RayConfig()
_LATER = {"drop_repeats": False}
"""Settings that came later, and how it always was before: older fingerprints lack them."""
_ELSEWHERE = ("folder", "name", "path", "items_path")
"""Settings that the fingerprint leaves out: they say where data lie, not what they are."""


def prepare(config: DataConfig, *, force: bool = False, ray: RayConfig = NO_RAY) -> Path:
    """Read, filter, split and write a data set, once.

    Returns the folder `<config.folder>/<config.name>` (docs/architecture.md). A folder with the
    same fingerprint (settings, content of the sources, format version) is returned as it is, unless
    `force`. The folder appears by a rename when everything is written; a process killed at any
    moment leaves at most a temporary folder, which the next call removes.

    With `ray.enabled` the workers of a cluster do the partitions of a data set larger than memory;
    they see `config.folder` and the sources under the same names. The tables are the same.

    Raises:
        ValueError: bad settings, a source that is missing, empty, damaged, lacks a column or has
            more malformed rows than `max_malformed_share`, nothing left after the filters, or a
            target folder that holds something else. The message names the remedy.
        OSError: the folder cannot be written (no permission, disk full).
    """
    check_config(config)
    folder = Path(config.folder) / config.name
    reader = READERS[config.format]
    sources = reader.find(config)
    entries = [_source_entry(source) for source in sources]
    fingerprint = compute_fingerprint(config, entries)
    if not force and _is_current(folder, fingerprint):
        _LOG.info("%s is up to date", folder)
        return folder
    with new_folder(folder) as temporary:
        raws: list[RawData] = []

        def read() -> RawData:
            raws.append(reader.read(config, sources))
            return raws[-1]

        with started(ray) as workers:
            source = str(sources[0].path)
            tables = assemble(read, config, temporary, source=source, workers=workers)
        manifest = _manifest(config, entries, fingerprint, raws[-1], tables)
        write_json(temporary / MANIFEST, manifest)
    return folder


def check_config(config: DataConfig) -> None:
    """Raise ValueError for settings out of range, naming the setting."""
    hints = typing.get_type_hints(DataConfig)
    for name in ("format", "split", "target_group", "ties"):
        allowed = typing.get_args(hints[name])
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"data.{name} is {getattr(config, name)!r}, it has to be one of {allowed}"
            )
    name = Path(config.name).name
    if not name or name != config.name or name == ".." or "\0" in name:
        raise ValueError(f"data.name is {config.name!r}, it has to be the name of one folder")
    for name in ("min_item_events", "min_user_events", "num_test_events", "num_valid_events"):
        if getattr(config, name) < 0:
            raise ValueError(f"data.{name} is {getattr(config, name)}, it has to be 0 or more")
    taobao = config.taobao_mm
    for name, value in (
        ("target_items", taobao.target_items),
        ("min_target_clicks", taobao.min_target_clicks),
    ):
        if value is not None and value < 1:
            raise ValueError(f"data.taobao_mm.{name} is {value}, it has to be 1 or more")
    matrix, ratio = config.kuairec.matrix, config.kuairec.watch_ratio
    matrices = typing.get_args(typing.get_type_hints(KuaiRecConfig)["matrix"])
    if matrix not in matrices:
        raise ValueError(f"data.kuairec.matrix is {matrix!r}, it has to be one of {matrices}")
    if not 0 <= ratio < float("inf"):
        raise ValueError(f"data.kuairec.watch_ratio is {ratio}, it has to be 0 or more and finite")
    for name in ("test_share", "valid_share"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"data.{name} is {getattr(config, name)}, it has to be in [0, 1)")
    if not 0 <= config.max_malformed_share <= 1:
        raise ValueError(
            f"data.max_malformed_share is {config.max_malformed_share}, it has to be in [0, 1]"
        )


def compute_fingerprint(config: DataConfig, sources: list[dict[str, str]]) -> str:
    """sha256 over the settings, the content of the sources and the versions of the code."""
    every = asdict(config)
    left_out = {*_ELSEWHERE, *(name for name, value in _LATER.items() if every[name] == value)}
    settings = {name: value for name, value in every.items() if name not in left_out}
    for name in _OF_ONE_FORMAT:
        if config.format != name:
            del settings[name]
    content = {
        "config": settings,
        "sources": sources,
        "format_version": FORMAT_VERSION,
        "algorithm_version": ALGORITHM_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _source_entry(source: Source) -> dict[str, str]:
    digest = hashlib.sha256()
    try:
        with source.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"{source.path} cannot be read: {error.strerror}") from error
    return {"role": source.role, "file": source.label, "sha256": digest.hexdigest()}


def _is_current(folder: Path, fingerprint: str) -> bool:
    try:
        manifest = read_manifest(folder)
    except ValueError:
        return False
    return is_whole(folder, manifest) and manifest.get("fingerprint") == fingerprint


def _manifest(
    config: DataConfig,
    sources: list[dict[str, str]],
    fingerprint: str,
    raw: RawData,
    tables: Assembled,
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "config": asdict(config),
        "sources": sources,
        "shards": tables.shards,
        "counts": tables.counts,
        "time_unit": raw.time_unit,
        "vectors": tables.vectors,
        "split": tables.split,
        "malformed": {report.role: report.to_dict() for report in raw.reports},
        "dropped": tables.dropped,
    }
