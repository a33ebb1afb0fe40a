"""A capture for Wireshark: a recorder that writes into its pipe, and a process beside it that ends it.

Wireshark tells the program that it has started, by SIGTERM, or is killed and tells nobody; the recorder may be
root's, to which a user's signal does not come. It ends when its stdin does, and that is in our hand.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from iptrec.errors import EXIT_DONE, EXIT_TROUBLE, HostError
from iptrec.extcap import rights
from iptrec.kernel import process
from iptrec.recorder.signals import Wake, waking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXIT_TERMINATED: Final = 128 + signal.SIGTERM
_MOST: Final = 1 << 14  # bytes of what the recorder says that are kept; of more the last
_READ: Final = 1 << 12
_PATIENCE_MS: Final = 20_000  # for a recorder to end; Wireshark has 30 s


def capture(
    arguments: Sequence[str], fifo: int, say: Callable[[bytes], None], log: BinaryIO | None
) -> int:
    """Record into a pipe until Wireshark has enough, and return the exit status.

    ``arguments``: of iptrec. ``say`` is given what the recorder has said if that is to be read by the user:
    Wireshark takes everything on stderr for an error. ``log``: where all of it goes.
    Raises `HostError` where nobody may record.
    """
    process.end_with_parent(os.getppid())
    with waking() as wake:
        for way in rights.ways(arguments):
            status, said = _Recorder(way.command, fifo, wake, log).run()
            if status not in way.refused:
                break
            if wake.stop:
                return EXIT_DONE  # nobody is to be asked any more
        else:
            raise HostError(rights.none())
    if status < 0 or (wake.stop and status == _EXIT_TERMINATED):
        if wake.stop:
            return EXIT_DONE  # before it had begun
        raise HostError(f"the recorder was ended by {signal.Signals(-status).name}")
    if said and (status or log is None):
        say(said)
    return EXIT_TROUBLE if status else EXIT_DONE


class _Recorder:
    """One that is run, and ended by closing its stdin."""

    def __init__(self, command: Sequence[str], fifo: int, wake: Wake, log: BinaryIO | None) -> None:
        self._fifo, self._wake, self._log = fifo, wake, log
        self._said = b""
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=fifo,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us to answer
        )
        self._stdin, self._stderr = (
            cast("IO[bytes]", pipe) for pipe in (self._child.stdin, self._child.stderr)
        )

    def run(self) -> tuple[int, bytes]:
        """Until it has ended; its status, and what it said."""
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        poll.register(self._fifo, 0)  # tells when nobody reads it any more
        poll.register(self._wake, select.POLLIN)
        patience_ms = None
        try:
            while ready := dict(poll.poll(patience_ms)):
                over = self._fifo in ready or (
                    self._wake.fileno() in ready and self._wake.stopped()
                )
                if over and patience_ms is None:
                    self._stdin.close()
                    poll.unregister(self._fifo)
                    patience_ms = _PATIENCE_MS
                if self._stderr.fileno() in ready and not self._listen():
                    break
            return self._child.wait(_PATIENCE_MS / 1000), self._said
        except subprocess.TimeoutExpired:
            raise HostError(
                "the recorder does not end: iptrec cleanup finds what it leaves"
            ) from None
        finally:
            self._stdin.close()
            self._stderr.close()

    def _listen(self) -> bool:
        """Whether it may say more."""
        said = os.read(self._stderr.fileno(), _READ)
        self._said = (self._said + said)[-_MOST:]
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk is no reason to end
                self._log.write(said)
                self._log.flush()
        return bool(said)
