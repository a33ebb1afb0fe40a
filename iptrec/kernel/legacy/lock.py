"""The xtables lock file under inotify: which iptables commands come and go."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path
from typing import Final

from iptrec.kernel.libc import failure, libc

_LOCK: Final = Path("/run/xtables.lock")  # iptables/xshared.c
_IN_OPEN, _IN_CLOSE, _IN_OVERFLOW, _IN_IGNORED = 0x20, 0x18, 0x4000, 0x8000  # linux/inotify.h
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class Lock:
    """The xtables lock file under inotify (man 7 inotify).

    ``uses``: events that were reported; ``closes``: those of them that say that a command had ended.
    ``refused``: why nothing is reported, "" if it is. A user may have so many instances on the whole host
    (fs.inotify.max_user_instances), and containers run as root, too.
    """

    def __init__(self) -> None:
        self.uses = 0
        self.closes = 0
        self.refused = ""
        self._path = os.environ.get("XTABLES_LOCKFILE", str(_LOCK))
        self.descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self.descriptor >= 0:
            self._watch()
        else:
            self.refused = failure()
            self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # never ready

    def read(self) -> int:
        """Take what was reported; ``closes``."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, 65536):
                at = 0
                while at < len(data):
                    _, mask, _, length = struct.unpack_from("=iIII", data, at)
                    at += 16 + length
                    self.uses += 1
                    self.closes += 2 if mask & _IN_OVERFLOW else bool(mask & _IN_CLOSE)
                    if mask & _IN_IGNORED:  # the file was deleted; the next command makes a new one
                        self._watch()
        return self.closes

    def close(self) -> None:
        """Stop watching."""
        os.close(self.descriptor)

    def _watch(self) -> None:
        """Where the file is not there yet polling finds the first change."""
        libc.inotify_add_watch(
            self.descriptor, os.fsencode(self._path), ctypes.c_uint32(_IN_OPEN | _IN_CLOSE)
        )
