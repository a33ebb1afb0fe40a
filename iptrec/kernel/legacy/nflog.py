"""The socket that TRACE events come out of: nfnetlink_log, group 0.

Messages as in include/uapi/linux/netfilter/nfnetlink_log.h, behaviour as in
net/netfilter/nfnetlink_log.c. TRACE sets the queue threshold to 1, so each event is a datagram;
`recvmmsg` fetches hundreds in one call. ``-j NFLOG`` without --nflog-group logs to the same group: its
events come too, and with our own threshold of 1 they are a datagram each as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, TakenError
from iptrec.kernel import batches, host, netlink
from iptrec.kernel.batches import RECEIVE_BUFFER, Gap, joined
from iptrec.kernel.bpf.tap import RING_BYTES, Tap, Tapped, Untapped

if TYPE_CHECKING:
    from iptrec.kernel.batches import Batch
    from iptrec.kernel.legacy.replacements import Replacements

GROUP: Final = 0
_ATTRIBUTES_ROOM: Final = 1024  # what a message holds beside the packet, at most
# And but for rare ones, with the names of long chains; conntrack's part is more where it is told.
_TAPPED_ROOM, _CONNTRACK_ROOM = 256, 320

_NFULNL_MSG_PACKET, _NFULNL_MSG_CONFIG = 4 << 8, 4 << 8 | 1
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH, _CFG_FLAGS = 1, 2, 5, 6
_CMD_BIND, _CMD_UNBIND = 1, 2
_COPY_PACKET: Final = 2
_F_SEQ, _F_CONNTRACK = 1, 4
_NFULA_TIMESTAMP, _NFULA_SEQ = 3, 12
_TIMESTAMP: Final = struct.Struct("!QQ")  # seconds, microseconds
_U32: Final = 4  # bytes
_ANSWER_S: Final = 5.0
_HALF: Final = 1 << 31  # of sequence numbers


class NflogSocket(Tapped):
    """Bound to group 0 of the current network namespace; a context manager.

    ``receive_buffer``: what the kernel granted, in its own bookkeeping's bytes (twice what is asked
    for); ``conntrack``: whether events carry NFULA_CT. ``ring_bytes``: of the tap. ``replacements``: of
    tables; where there is no tap, which tells when each event was sent, they tell which ones were there when
    one began. Raises `TakenError`: another program has the group (which one); `HostError`: no rights, no
    nfnetlink_log (``modprobe``: after trying to load it).
    """

    def __init__(
        self,
        *,
        snaplen: int,
        receive_buffer: int = RECEIVE_BUFFER,
        modprobe: bool = False,
        ring_bytes: int = RING_BYTES,
        replacements: Replacements | None = None,
    ) -> None:
        self._expected = 0  # the next event's sequence number
        self._gaps = 0
        self._last_ns = self._stamp_ns = 0  # of the last datagram
        self._marks: list[tuple[int, int]] = []
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(netlink.connected())
            self.receive_buffer = netlink.ask_for_room(self._socket, receive_buffer)
            self._slots = batches.Slots(snaplen + _ATTRIBUTES_ROOM, f"nflog group {GROUP}")
            opened.callback(self._slots.close)
            self.conntrack = self._tells_conntrack(modprobe=modprobe)
            self._source = self._tapped(opened, snaplen, ring_bytes)  # before anything comes
            self._replacements = replacements if self._source.untapped else None
            if self._replacements is not None:
                self._replacements.count(self._socket)
            self._configure(snaplen)
            self._drops_before = netlink.drops(self._socket)
            self._opened = opened.pop_all()

    def receive(self) -> Batch | None:
        """What is there now, at most `SLOTS` datagrams; None if nothing is. Raises `Overrun`."""
        batch = self._whole(self._source.receive())
        if batch is None:
            return None
        tail = memoryview(batch.data)[-int(batch.lengths[-1]) :]
        last = _sequence(tail)
        if last is None:
            return batch
        lost = (last + 1 - self._expected - len(batch.lengths)) % 2**32
        gap = gap_in(batch, self._expected, self._stamp_ns) if lost else None
        self._stamp_ns = _stamp(tail)
        self._expected = (last + 1) % 2**32
        self._gaps += lost
        there = self._there(last + 1, batch)
        self._last_ns = batch.received_ns
        return replace(batch, lost=lost, there=there, gap=gap)

    def _there(self, until: int, batch: Batch) -> list[tuple[int, int]]:
        """Which of the datagrams up to a sequence number were there when a table began to be replaced.

        Those were told by the rules before. Where some were left in the socket it is not said: readers know
        that by the size of what was received together.
        """
        marks = self._marked()
        self._marks = [one for one in marks if _ahead(one[0], until) > 0]
        size = most = len(batch.lengths)
        earliest = batch.received_ns
        found: list[tuple[int, int]] = []
        for mark, time_ns in reversed(marks):
            most = min(most, size + _ahead(mark, until))
            earliest = min(earliest, max(time_ns, self._last_ns))
            if most > 0 and earliest < batch.received_ns:
                found.append((most, earliest))
        return found[::-1] if batch.emptied else []

    def _marked(self) -> list[tuple[int, int]]:
        if self._replacements is not None:
            self._marks += self._replacements.marks()
        return self._marks

    def _whole(self, batch: Batch | None) -> Batch | None:
        """With the rest of what was there, where a table was replaced meanwhile."""
        while batch is not None and not batch.emptied and self._marked():
            if len(batch.lengths) >= batches.LARGEST_BATCH:
                break
            try:
                more = self._source.receive()
            except batches.Overrun:
                self._slots.put_off()
                break
            batch = replace(batch, emptied=True) if more is None else joined([batch, more])
        return batch

    def stop(self) -> None:
        """Let go of the group: what is in the socket can still be received, nothing follows."""
        self._send([(_CFG_CMD, struct.pack("=B", _CMD_UNBIND))], flags=netlink.REQUEST)

    def unseen(self) -> int:
        """Events that were dropped and that no gap has shown: nothing was received after them."""
        return max(0, (netlink.drops(self._socket) - self._drops_before) % 2**32 - self._gaps)

    def _tapped(
        self, opened: contextlib.ExitStack, snaplen: int, ring_bytes: int
    ) -> Tap | Untapped:
        largest = snaplen + _TAPPED_ROOM + (_CONNTRACK_ROOM if self.conntrack else 0)
        kinds = (_NFULNL_MSG_PACKET,)
        try:
            tap = Tap(
                self._socket, self._slots, kinds, largest=largest, others=True, sequence=_sequence,
                ring_bytes=ring_bytes,
            )  # fmt: skip
            return opened.enter_context(tap)
        except HostError as error:
            return Untapped(self._socket, self._slots, str(error))

    def _tells_conntrack(self, *, modprobe: bool) -> bool:
        """Whether conntrack's part may be asked for: the kernel looks at flags first, and binds nothing."""
        flags = [(_CFG_FLAGS, struct.pack("!H", _F_CONNTRACK))]
        code = self._asked(flags)
        if code == errno.EINVAL and modprobe and host.modprobe("nfnetlink_log"):
            code = self._asked(flags)  # EINVAL: nobody knew the message
        return code != errno.EOPNOTSUPP

    def _configure(self, snaplen: int) -> None:
        """Bind and set everything in one message."""
        flags = _F_SEQ | (_F_CONNTRACK if self.conntrack else 0)
        code = self._asked(
            [
                (_CFG_CMD, struct.pack("=B", _CMD_BIND)),
                (_CFG_MODE, struct.pack("!IBx", snaplen, _COPY_PACKET)),
                (_CFG_QTHRESH, struct.pack("!I", 1)),
                (_CFG_FLAGS, struct.pack("!H", flags)),
            ]
        )
        if code in (errno.EPERM, errno.EBUSY) and (by := holder()):
            raise TakenError(
                f"nflog group {GROUP}, which TRACE uses, is taken by {by}: stop that program first"
            )
        if code == errno.EPERM:
            raise HostError("listening to nflog needs root or CAP_NET_ADMIN: run iptrec with sudo")
        if code:
            raise HostError(
                f"cannot bind nflog group {GROUP}: {os.strerror(code)}; if the kernel lacks it, on the"
                " host, run: modprobe nfnetlink_log"
            )

    def _asked(self, attributes: list[tuple[int, bytes]]) -> int:
        """Ask for something; the errno of the answer."""
        self._send(attributes, flags=netlink.REQUEST | netlink.ACK)
        self._socket.settimeout(_ANSWER_S)
        while True:
            try:
                answer = self._socket.recv(netlink.LARGEST)
            except TimeoutError:
                raise HostError(
                    f"no answer from nfnetlink_log within {_ANSWER_S:g} s; try again"
                ) from None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            first = next(netlink.messages(answer))
            if first.kind == netlink.ERROR:
                return first.code
            # Somebody else's rule logs to this group; none of our rules is in place yet.
            number = _sequence(memoryview(answer))
            self._expected = 0 if number is None else (number + 1) % 2**32

    def _send(self, attributes: list[tuple[int, bytes]], *, flags: int) -> None:
        body = netlink.netfilter_body(socket.AF_UNSPEC, attributes, resource=GROUP)
        self._socket.send(netlink.message(_NFULNL_MSG_CONFIG, flags, body))


def _sequence(message: memoryview) -> int | None:
    """NFULA_SEQ of a message, which counts the events that the instance built; None if it has none."""
    value = netlink.attribute(message, _NFULA_SEQ)
    return int.from_bytes(value, "big") if value is not None and len(value) == _U32 else None


def _stamp(message: memoryview) -> int:
    """NFULA_TIMESTAMP of a message (epoch, ns): it was not sent before that; 0: it has none."""
    value = netlink.attribute(message, _NFULA_TIMESTAMP)
    if value is None or len(value) != _TIMESTAMP.size:
        return 0
    seconds, microseconds = _TIMESTAMP.unpack(value)
    return int(seconds * 1_000_000_000 + microseconds * 1000)


def gap_in(batch: Batch, expected: int, stamp_ns: int) -> Gap:
    """Where in a batch numbers are missing, of which ``expected`` is the first one; ``stamp_ns``: before it."""
    data, at = memoryview(batch.data), 0
    missing, after_ns = [], stamp_ns
    for index, length in enumerate(batch.lengths.tolist()):
        message = data[at : at + length]
        at += length
        number = _sequence(message)
        if number is not None and number != expected:
            missing.append(index)
        expected = ((expected if number is None else number) + 1) % 2**32
        if not missing:
            after_ns = max(after_ns, min(_stamp(message), batch.received_ns))
    return Gap(missing[0], missing[-1], after_ns) if missing else Gap(0, 0, stamp_ns)


def _ahead(number: int, of: int) -> int:
    """How far a sequence number is ahead of another one; they begin again."""
    return (number - of + _HALF) % (2 * _HALF) - _HALF


def holder() -> str | None:
    """Who listens to the group: /proc/net/netfilter/nfnetlink_log names the netlink port."""
    try:
        lines = Path("/proc/thread-self/net/netfilter/nfnetlink_log").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        group, port, *_ = line.split()
        if int(group) == GROUP:
            return host.socket_owner(int(port)) or f"netlink port {port}"
    return None
