"""Errors that a user can put right, as one message."""

from __future__ import annotations

import errno
import os
import re

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    **dict.fromkeys(_FULL, "free some disk space or choose another --output or --data.folder"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "check the permissions or choose another --output or --data.folder",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
        "something else has this name; choose another --name, --output or --data.folder",
    ),
}
_HIDDEN = re.compile(r"os error (\d+)")


def expected_message(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that only a bug explains."""
    if isinstance(error, OSError):
        return _of_system(error)
    # polars, safetensors and torch hide the operating system's error in the text of their own.
    if found := _HIDDEN.search(str(error)):
        return _of_system(OSError(int(found[1]), os.strerror(int(found[1]))))
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        # torch.save: its archive breaks off after the write that failed.
        cause = error.__context__
        code = errno.ENOSPC if not isinstance(cause, OSError) else cause.errno or errno.ENOSPC
        return _of_system(OSError(code, os.strerror(code)))
    if isinstance(error, ValueError):
        return str(error) or None
    if _lost_process(error):
        return (
            f"process {os.environ.get('RANK')} lost another process of this job ({_line(error)}); "
            "its own message, if it had time for one, is above. The last checkpoint is whole: to "
            "go on start the same command again, with as many processes as you like"
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; lower --train.batch_size, --train.max_targets or --eval.batch_size"
    return None


def _lost_process(error: BaseException) -> bool:
    if "WORLD_SIZE" not in os.environ:
        return False
    from glass.distributed import lost_process

    return lost_process(error)


def _line(error: BaseException) -> str:
    """The end of the first line, where gloo and NCCL say what happened."""
    return (str(error).splitlines() or [type(error).__name__])[0][-120:]


def _of_system(error: OSError) -> str:
    code = error.errno or 0
    text = error.strerror or str(error)
    if error.filename is not None:
        text = f"{error.filename}: {text}"
    # A message of our own names its remedy already.
    plain = error.filename is not None or text == os.strerror(code)
    return f"{text}; {_REMEDIES[code]}" if plain and code in _REMEDIES else text
