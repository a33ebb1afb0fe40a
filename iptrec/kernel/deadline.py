"""When somebody has waited long enough for a program."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


class Deadline:
    """So many seconds from now, or never; any thread may let it come at once, while another one waits."""

    def __init__(self, within_s: float | None = None) -> None:
        self._end = None if within_s is None else time.monotonic() + within_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def left_s(self) -> float | None:
        """How long is left, 0 where it is over; None: for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def end(self) -> None:
        """Let it be over."""
        with self._lock:
            self._end = time.monotonic()
            if self._child is not None:
                self._child.kill()

    def at_most(self, within_s: float) -> Deadline:
        """One so many seconds from now, or as this one is."""
        return Deadline(within_s if self.left_s is None else min(within_s, self.left_s))

    @contextlib.contextmanager
    def killing(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Kill a program where it is over while it is waited for."""
        with self._lock:
            self._child = child
        try:
            yield
        finally:
            with self._lock:
                self._child = None

    def killed(self, child: subprocess.Popen[bytes]) -> bool:
        """Whether a program, which has ended, was killed by then."""
        return self.left_s == 0 and child.returncode == -signal.SIGKILL
