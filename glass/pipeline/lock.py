"""One process at a time works in a run's folder."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

NAME = ".lock"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Holds the advisory lock of `folder`, which is created, for the block.

    The operating system lets go of it when the process ends, however it ends. The file stays:
    removing it would let two processes lock two files of one name.

    Raises:
        ValueError: another process, or another `locked_folder` of this one, holds it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        raise ValueError(
            f"{folder} is being worked on by {holder or 'another process'}; wait until that has "
            "ended, or choose another --name"
        ) from None
    except OSError as error:  # some network file systems
        log.warning("%s cannot be locked (%s); let no second process work there", folder, error)
        return
    os.ftruncate(descriptor, 0)
    with suppress(OSError):  # a full disk: the lock holds without saying whose it is
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
