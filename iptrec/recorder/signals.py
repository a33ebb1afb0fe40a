"""Signals as something to poll: stop signals, SIGUSR1 and the command's end wake the loop."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Wake:
    """The end of a pipe that a byte arrives in for each signal (signal.set_wakeup_fd).

    ``copies``: how often SIGUSR1 came since somebody set it to 0. ``stop``: what `stopped` gave last.
    ``beside_command``: Ctrl-C reaches a command as well, whose end decides; to be set when it has been started.
    """

    def __init__(self, descriptor: int) -> None:
        self.copies = 0
        self.beside_command = False
        self._descriptor = descriptor
        self.stop = ""

    def fileno(self) -> int:
        """For poll."""
        return self._descriptor

    def stopped(self) -> str:
        """Take what came; the name of the first signal that stops the recording, "" if none has."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._descriptor, 64):
                self.copies += number == signal.SIGUSR1
                of_command = self.beside_command and number == signal.SIGINT
                if number in _STOPS and not of_command:
                    self.stop = self.stop or signal.Signals(number).name
        return self.stop


@contextlib.contextmanager
def waking() -> Iterator[Wake]:
    """Let signals wake the loop and interrupt nothing else; afterwards they are as they were."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    ours = [*_STOPS, signal.SIGCHLD, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
        ours.remove(signal.SIGHUP)
    before: dict[signal.Signals, Any] = {}
    # First and last, so that each signal that comes has its byte, or is answered as before.
    descriptor = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        for number in ours:
            before[number] = signal.signal(number, lambda *_: None)
        yield Wake(reading)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor)
        os.close(reading)
        os.close(writing)
