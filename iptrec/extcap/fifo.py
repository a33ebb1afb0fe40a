"""The pipe with a name that Wireshark makes for a capture, and reads."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, UsageError, strerror

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S: Final = 10.0  # dumpcap opens it in the first tenth of a second
_LOOK_S: Final = 0.02


def opened(path: Path, patience_s: float = _PATIENCE_S) -> int:
    """A descriptor to write to, as soon as somebody reads.

    Raises `UsageError` for what is not such a pipe, and `HostError` where nobody opens it in time.
    """
    end = time.monotonic() + patience_s
    _require(path, path)
    while (descriptor := _tried(path)) is None:
        if time.monotonic() >= end:
            raise HostError(f"nobody has opened {path} to read for {patience_s:g} s: gave up")
        time.sleep(_LOOK_S)
    try:
        _require(path, descriptor)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _tried(path: Path) -> int | None:
    """None while nobody reads (fifo(7))."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise UsageError(f"cannot open {path}: {strerror(error)}") from None


def _require(path: Path, of: Path | int) -> None:
    try:
        status = os.stat(of)  # noqa: PTH116 - a path or a descriptor
    except OSError as error:
        raise UsageError(f"cannot open {path}: {strerror(error)}") from None
    if not stat.S_ISFIFO(status.st_mode):
        raise UsageError(
            f"--fifo {path} is not a fifo; to write a file: iptrec trace --pcapng {path}"
        )
