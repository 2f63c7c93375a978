"""Writing files and folders so that an interrupted write never looks whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from glass.data.store import remove_stale


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replaced_file(path: Path, mark: str = "") -> Iterator[Path]:
    """Hand out a temporary name beside `path`; it takes the place of `path` when all went well.

    Args:
        path: what is written.
        mark: put in the temporary name, for `remove_unfinished`.

    Raises:
        OSError: the file cannot be written (folder not writable, disk full), with the remedy.
    """
    # No process id: several machines may write to one folder.
    temporary = path.with_name(f".{path.stem}.tmp-{mark}{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, mark: str) -> None:
    """Remove what killed processes left of `replaced_file(..., mark)` in `folder`."""
    for path in folder.glob(f".*.tmp-{mark}*"):
        path.unlink(missing_ok=True)


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Hand out an empty folder beside `folder` for the block; what is in it goes at the end.

    What killed processes left is removed first, so that one process at a time works on `folder`.

    Raises:
        OSError: the folder cannot be written, with the remedy.
    """
    target = folder.with_name(f"{folder.name}-work")
    path = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        path.mkdir()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Hand out an empty folder `<folder>.tmp-<pid>`; it takes the place of `folder` at the end.

    On an exception the temporary folder is removed and an existing `folder` is left as it was.
    What a killed process left beside `folder` is removed first.

    Raises:
        OSError: the folder cannot be written (not writable, disk full), with the remedy.
    """
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        temporary.mkdir()
        yield temporary
        if folder.exists():  # a folder cannot be renamed onto a full one
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> OSError:
    code = error.errno or errno.EIO
    reason = f"cannot write {path}: {os.strerror(code)}"
    return OSError(code, f"{reason}; free some space or choose a folder that you may write to")
