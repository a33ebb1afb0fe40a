"""The xtables lock: who holds it is the only one who changes tables of legacy iptables (iptables/xshared.c).

iptables replaces whole tables, and compares nothing but their sizes: a rule that came between its look and its
deed would be lost. So every command holds this lock for both. We hold it for longer: from our own look, which
says what to do, to the end of the command that does it. Whoever uses another lock file is not kept out. Under
inotify the file tells which commands come and go.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, TakenError, strerror
from iptrec.libc import failure, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "XTABLES_LOCKFILE"  # names another file, from iptables 1.8.6 on
WAIT_S: Final = 10
_STEP_S: Final = 0.002
_PATH: Final = "/run/xtables.lock"
# A file that each process has for itself, and that nobody else may open: one that it can always lock.
_PRIVATE: Final = "/proc/self/environ"

_REMEMBERED: Final = 64  # times that somebody began to use it

_IN_OPEN, _IN_CLOSE, _IN_OVERFLOW, _IN_IGNORED = 0x20, 0x18, 0x4000, 0x8000  # linux/inotify.h
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class LockHeldError(TakenError):
    """Another program has the xtables lock for too long."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"{program}: another program holds the xtables lock for more than {WAIT_S} s; "
            f"find it with: fuser {path()}"
        )


def path() -> Path:
    """The lock file of this process and of the commands that it starts."""
    return Path(os.environ.get(VARIABLE) or _PATH)


@contextlib.contextmanager
def held() -> Iterator[dict[str, str]]:
    """Hold the lock; what is yielded belongs in the environment of commands that would wait for it otherwise.

    The commands inherit it: where we are killed it is held until they end. Raises `LockHeldError` where it
    cannot be had within `WAIT_S`, `HostError` where its file cannot be opened.
    """
    try:
        descriptor = os.open(path(), os.O_RDONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise HostError(
            f"cannot open {path()}: {strerror(error)}; set {VARIABLE} to a file that you can write"
        ) from None
    try:
        _wait(descriptor)
        os.set_inheritable(descriptor, True)
        yield {VARIABLE: _PRIVATE}
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for whoever has inherited it
        os.close(descriptor)


def _wait(descriptor: int) -> None:
    """Try again and again: a call that waits could not be given up in a thread (flock(2))."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise LockHeldError("iptrec") from None
            time.sleep(_STEP_S)
        else:
            return


class Lock:
    """The xtables lock file under inotify (man 7 inotify).

    ``uses``: events that were reported; ``closes``: those of them that say that a command had ended.
    ``holders``: how many have it open, as far as was reported.
    ``refused``: why nothing is reported, "" if it is. A user may have so many instances on the whole host
    (fs.inotify.max_user_instances), and containers run as root, too.
    """

    def __init__(self) -> None:
        self.uses = 0
        self.closes = 0
        self.holders = 0
        self._quiet_ns = 0
        self._begun: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._reading = threading.Lock()
        self.refused = ""
        self.descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self.descriptor >= 0:
            self._watch()
        else:
            self.refused = failure()
            self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # never ready

    def read(self) -> int:
        """Take what was reported; ``closes``."""
        with self._reading, contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, 65536):
                at = 0
                while at < len(data):
                    _, mask, _, length = struct.unpack_from("=iIII", data, at)
                    at += 16 + length
                    self._take(mask)
        return self.closes

    def _take(self, mask: int) -> None:
        if not self.holders:
            self._begun.append((self.uses, self._quiet_ns if mask & _IN_OPEN else 0))
        self.uses += 1
        self.closes += 2 if mask & _IN_OVERFLOW else bool(mask & _IN_CLOSE)
        self.holders = max(0, self.holders + bool(mask & _IN_OPEN) - bool(mask & _IN_CLOSE))
        if mask & _IN_IGNORED:  # the file was deleted; the next command makes a new one
            self._watch()

    def note_quiet(self, now_ns: int) -> None:
        """Remember that nobody had it until now, if so; for another thread than the one that reads."""
        if self._reading.acquire(blocking=False):
            try:
                if not self.holders and not select.select([self.descriptor], [], [], 0)[0]:
                    self._quiet_ns = now_ns
            finally:
                self._reading.release()

    def unused_until(self, uses: int) -> int:
        """Until when (epoch, ns) nobody had it, since there were so many uses; 0 where that is not known."""
        if len(self._begun) == _REMEMBERED and self._begun[0][0] > uses:
            return 0
        return next((quiet_ns for begun, quiet_ns in self._begun if begun >= uses), 0)

    def close(self) -> None:
        """Stop watching."""
        os.close(self.descriptor)

    def _watch(self) -> None:
        """Where the file is not there yet polling finds the first change."""
        libc.inotify_add_watch(
            self.descriptor, os.fsencode(path()), ctypes.c_uint32(_IN_OPEN | _IN_CLOSE)
        )
