"""A signal when the other end of a pipe or socket is closed (fcntl(2)): for a parent that may send none."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
from typing import Final

_F_SETSIG: Final = 10  # asm-generic/fcntl.h


def end_with(descriptor: int) -> None:
    """Have SIGTERM come when nobody can write to a descriptor that we read from, or when something comes.

    A user cannot signal a process that became root, but can close its stdin; and whoever is killed closes it.
    Files, terminals and /dev/null have no other end: then nothing happens.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGTERM)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):  # it was closed before
        signal.raise_signal(signal.SIGTERM)
