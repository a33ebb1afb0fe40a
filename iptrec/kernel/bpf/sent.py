"""Notes when the kernel sent each message that a netlink socket takes in, whenever it is received.

A filter of the socket does it (see `tap`), which lets messages in as they are: they are few, of any length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.kernel.bpf import bpf, tap
from iptrec.kernel.bpf.bpf import LONG, move, number, store
from iptrec.kernel.bpf.programs import Programs
from iptrec.kernel.bpf.ring import since_the_epoch

if TYPE_CHECKING:
    import socket

IN: Final = "in"  # where code goes on for messages that are let in
_NOTES: Final = 256  # of the last messages; a power of two
_SIZE: Final = 8 * (1 + _NOTES)  # so many there were, and when
_WHOLE: Final = -1
_R0, _R1, _CTX, _PLACE, _NUMBER = 0, 1, 6, 7, 8


class SentTimes(Programs):
    """When messages were sent that a socket was sent from now on; a context manager.

    ``wanted``: leaves the program with 0 in register 0 for what is not to be let in, and goes to `IN` for the
    rest; register 6 has the context. Raises `HostError` where the kernel does not allow it.
    """

    def __init__(self, opened: socket.socket, wanted: bpf.Code) -> None:
        tap.require_on()
        self._socket, self._wanted = opened, wanted
        self._received = 0
        super().__init__(tap.ADVICE)

    def _make(self) -> None:
        noted, self._noted_ns = self._noted(_SIZE)
        code = _code(noted, self._wanted)
        program = self._kept(bpf.socket_filter(code, tap.LICENCE, b"iptrec_sent"))
        bpf.filtered(self._socket, program)

    def of_next(self) -> int:
        """When the next one was sent, which has just been received (epoch, ns); 0: not known any more."""
        at, self._received = self._received, self._received + 1
        sent_ns = self._noted_ns[1 + at % _NOTES]
        if not at < self._noted_ns[0] <= at + _NOTES:
            return 0
        return sent_ns + since_the_epoch()


def _code(noted: int, wanted: bpf.Code) -> bytes:
    """The program. ``noted``: the map that it writes."""
    return bpf.assembled(
        [
            move(_CTX, _R1),
            *wanted,
            IN,
            bpf.map_value(_PLACE, noted),
            number(_NUMBER, 1),
            bpf.count_in_memory(_PLACE, _NUMBER),
            bpf.call(bpf.KTIME),
            bpf.and_(_NUMBER, _NOTES - 1),
            bpf.shift(_NUMBER, 3),
            bpf.add_register(_PLACE, _NUMBER),
            store(LONG, _PLACE, 8, _R0),
            number(_R0, _WHOLE),
            bpf.EXIT,
        ]
    )
