"""Tells systemd how a service is: sd_notify(3), without its library.

The protocol is stable: a datagram of lines KEY=VALUE to the AF_UNIX socket that the environment names, whose
address begins with / or, in the abstract namespace, with @.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_NAMED_BY: Final = "NOTIFY_SOCKET"


class Service:
    """The service manager that started us; without one, nobody hears what is told.

    Takes the socket's name out of the environment: what we start must not speak for us. It is reached from
    whatever network namespace we are in by then, but for an abstract name, which is of that where this is made.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        name = os.environ.pop(_NAMED_BY, "")
        if name.startswith(("/", "@")):
            # A failure is not ours to tell: the manager says by itself that it was told nothing.
            with contextlib.suppress(OSError), contextlib.ExitStack() as made:
                found = made.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                found.connect(f"\0{name[1:]}" if name.startswith("@") else name)
                found.setblocking(False)  # who records waits for nobody
                self._socket = found
                made.pop_all()

    def tell(self, **states: str) -> None:
        """Tell one or several: READY="1", STATUS="in a few words", STOPPING="1"."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                lines = (f"{key}={' '.join(value.split())}" for key, value in states.items())
                self._socket.send("\n".join(lines).encode())

    def close(self) -> None:
        """Tell no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
