"""The xtables lock: who holds it is the only one who changes tables of legacy iptables (iptables/xshared.c).

iptables replaces whole tables, and compares nothing but their sizes: a rule that came between its look and its
deed would be lost. So every command holds this lock for both. We hold it for longer: from our own look, which
says what to do, to the end of the command that does it. Whoever uses another lock file is not kept out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "XTABLES_LOCKFILE"  # names another file, from iptables 1.8.6 on
WAIT_S: Final = 10
_STEP_S: Final = 0.002
_PATH: Final = "/run/xtables.lock"
# A file that each process has for itself, and that nobody else may open: one that it can always lock.
_PRIVATE: Final = "/proc/self/environ"


class LockHeldError(HostError):
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
            f"cannot open {path()}: {error.strerror}; set {VARIABLE} to a file that you can write"
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
