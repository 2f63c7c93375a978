"""Folders that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
FILES = ("interactions.parquet", "items.parquet", "users.parquet")
"""Of a large data set, `interactions` is a folder of such files instead."""
VECTORS = "vectors.npy"
"""int8 [V, D] where the source has vectors; row i is item i."""
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("config", "counts", "split", "malformed", "dropped"), (dict,)),
    "sources": (list,),
    "shards": (int,),
    "time_unit": (str,),
    "vectors": (dict, type(None)),
}
"""What the values of a manifest are."""
KEPT = ("cache",)
"""Entries of a data set's folder that a new version takes over (keyed by content, made later)."""


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A fresh `<target>.tmp-<pid>`; when the block succeeds it replaces `target`.

    Whatever goes wrong, `target` stays as it was and the temporary folder goes. Entering fails,
    before any work, with ValueError when `target` holds something else than a data set, and with
    OSError when nothing can be written there.
    """
    _check_replaceable(target)
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        temporary.mkdir()
    except OSError as error:
        raise _explained(error, target) from error
    try:
        yield temporary
        _replace(target, temporary)
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(target: Path) -> None:
    """Remove temporary folders that dead processes (or this one, earlier) left beside `target`."""
    pattern = re.compile(re.escape(target.name) + r"\.(?:tmp|old)-(\d+)")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if not match or (int(match[1]) != os.getpid() and _is_alive(int(match[1]))):
            continue
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def table_files(folder: Path, name: str) -> list[Path]:
    """Files of one of `FILES`, in order: itself, or those of the folder in its place."""
    shards = sorted((folder / name.removesuffix(".parquet")).glob("*.parquet"))
    return shards or [folder / name]


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether all tables are there that the manifest tells of."""
    files = [table_files(folder, name) for name in FILES]
    found = [path for paths in files for path in paths if path.is_file()]
    vectors = not manifest.get("vectors") or (folder / VECTORS).is_file()
    return vectors and len(found) == len(FILES) - 1 + manifest.get("shards", 1)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON through a temporary name, and through to the disk."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared data set; ValueError when `folder` is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a prepared data set (it has no {MANIFEST}): run `glass data prepare`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {again(folder)}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            f"{again(folder)}"
        )
    for name, kinds in _KINDS.items():
        if not isinstance(manifest.get(name, kinds[0]()), kinds):
            raise ValueError(f"{path} is damaged (its {name}): {again(folder)}")
    return dict(manifest)


def again(folder: Path) -> str:
    """The remedy for a damaged folder."""
    return f"remove {folder} and prepare it again"


def _replace(target: Path, temporary: Path) -> None:
    # A folder cannot be renamed onto a filled one: the old one steps aside. A process killed in
    # between leaves no data set, and the next one starts clean.
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        for name in KEPT:
            if (target / name).exists():
                (target / name).rename(temporary / name)
        target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_file():
        raise ValueError(f"{target} is a file: choose another data.name or data.folder")
    if not target.is_dir() or (target / MANIFEST).exists():
        return
    foreign = sorted(path.name for path in target.iterdir() if path.name not in KEPT)
    if foreign:
        raise ValueError(
            f"{target} exists and is not a prepared data set (it holds {', '.join(foreign[:5])}): "
            "move it away or choose another data.name or data.folder"
        )


def _explained(error: OSError, target: Path) -> OSError:
    code = error.errno or errno.EIO
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free some disk space or set data.folder to another disk"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "set data.folder to a folder that you may write to"
    elif code in (errno.ENOTDIR, errno.EEXIST):
        remedy = "a part of data.folder is a file; set it to a folder"
    else:
        remedy = "check data.folder"
    return OSError(
        code, f"cannot write the data set {target}: {os.strerror(code)}; {remedy}; nothing was kept"
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
