"""Records of dropped packets out of the alerts of the kernel's drop monitor (`monitor`).

They are those of `source`, as far as an alert tells: of every packet that is dropped on the host, traced or
not, in every network namespace, and not in which. Where there is one alone it is that one. No alert tells of a
packet that has not had a link header yet. The address in the kernel that is in each does not leave this module.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from iptrec.errors import HostError
from iptrec.kernel import netlink, netns
from iptrec.kernel.batches import Overrun, Slots
from iptrec.kernel.drops import monitor
from iptrec.kernel.drops.source import MOST_SNAPLEN, Drops, symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.kernel.batches import Batch
    from iptrec.kernel.drops.monitor import Asking, Borrowed

ANY_PACKET: Final = 8  # a flag of a record: nobody knows whether the packet was traced

_ALERT: Final = 5  # NET_DM_CMD_PACKET_ALERT
_SYMBOL, _IN_PORT, _TIME, _PROTOCOL, _PAYLOAD = 3, 4, 5, 6, 7  # NET_DM_ATTR_
_LENGTH, _ORIGIN, _REASON = 10, 14, 23
_IFINDEX: Final = 0  # NET_DM_ATTR_PORT_NETDEV_IFINDEX
_SOFTWARE: Final = 0  # NET_DM_ORIGIN_SW
_HEAD: Final = struct.Struct("<qQQ6I2sHIII")  # as `program.LAYOUT`
_GENERIC_HEAD: Final = 20  # struct nlmsghdr and struct genlmsghdr
_COMMAND: Final = 16  # its place in them
_NOBODY: Final = 0xFFFFFFFF
_LINKS: Final = (14, 18, 22)  # Ethernet's header, also with tags of VLANs; others have none
_IPV4, _IPV6 = 0x0800, 0x86DD
_LEAST: Final = {_IPV4: 20, _IPV6: 40}  # bytes of a header
_ROOM: Final = 512  # bytes of an alert without its packet
_RECEIVE_BUFFER: Final = 32 << 20  # used as it is needed
_LOOK_S: Final = 2.0
_ENUM: Final = "skb_drop_reason"
_INITIAL_PIDS: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h


class Alert(NamedTuple):
    """What an alert tells of a packet of IP; ``packet``: from its network header on, as far as captured."""

    time_ns: int  # epoch
    place: str
    reason: str
    iif: int
    length: int
    protocol: int
    packet: bytes


def alert(datagram: bytes) -> Alert | None:
    """What a datagram tells; None where it is not about a packet of IP that the kernel itself dropped."""
    if len(datagram) < _GENERIC_HEAD or datagram[_COMMAND] != _ALERT:
        return None
    told = dict(netlink.attributes(datagram[_GENERIC_HEAD:]))
    if (
        netlink.number(told.get(_ORIGIN, b"")) != _SOFTWARE
        or not {_TIME, _SYMBOL, _REASON} <= told.keys()
    ):
        return None
    protocol, length = (netlink.number(told.get(one, b"")) for one in (_PROTOCOL, _LENGTH))
    frame = told.get(_PAYLOAD, b"")
    at = _network(frame, protocol, length)
    if at is None:
        return None
    port = dict(netlink.attributes(told.get(_IN_PORT, b"")))
    reason = told[_REASON].partition(b"\0")[0].decode("latin-1")
    time_ns, iif = netlink.number(told[_TIME]), netlink.number(port.get(_IFINDEX, b""))
    return Alert(time_ns, symbol(told[_SYMBOL]), reason, iif, length - at, protocol, frame[at:])


def _network(frame: bytes, protocol: int, length: int) -> int | None:
    """Where in a frame the network header is: behind a header of Ethernet, or at once (tunnels)."""
    if protocol not in _LEAST:
        return None
    word = struct.pack("!H", protocol)
    framed = [at for at in _LINKS if frame[at - 2 : at] == word]
    return next((at for at in (*framed, 0) if _begins(frame, at, protocol, length)), None)


def _begins(frame: bytes, at: int, protocol: int, length: int) -> bool:
    """Whether a header can be there: its version and its lengths, which are 0 of what is too long for them."""
    header = frame[at : at + _LEAST[protocol]]
    if len(header) < _LEAST[protocol]:
        return False
    if protocol == _IPV6:
        return header[0] >> 4 == 6 and 40 + int.from_bytes(header[4:6]) <= length - at  # noqa: PLR2004
    return header[0] in range(0x45, 0x50) and int.from_bytes(header[2:4]) <= length - at


class AlertSource:
    """The packets that the kernel drops, of the whole host; a context manager.

    Nothing comes before it is `start`ed. Raises `HostError` with the reason where it does not work. ``opened``:
    a socket of `monitor.asking`; ``inode``: of the network namespace that is recorded.
    """

    names_from = "NET_DM"

    def __init__(self, opened: Asking, inode: int, snaplen: int) -> None:
        self._monitor = monitor.Monitor(opened)
        if not self._monitor.tells_reasons:
            raise HostError("the kernel's drop monitor tells no reasons before Linux 5.18")
        self._monitor.require_free()
        self._inode = inode
        self._alone = _alone()
        self._look_at = 0.0  # monotonic, s
        self._told = 0  # of what was lost
        self._snaplen = min(snaplen, MOST_SNAPLEN)
        self._reasons: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._socket = monitor.listening(self._monitor.group, _RECEIVE_BUFFER)
        self._slots = Slots(_ROOM + max(_LINKS) + self._snaplen, "the kernel's drop monitor")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._slots.close()
        self._socket.close()

    @property
    def names(self) -> dict[str, dict[int, str]]:
        """The reasons that were told up to now, by numbers of our own."""
        return {_ENUM: {number: name for name, number in self._reasons.items()}}

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def start(self, expect: Callable[[Borrowed | None], None]) -> None:
        """Let the kernel tell; see `Monitor.borrow`."""
        self._told = self._unseen()
        self._monitor.borrow(self._snaplen + max(_LINKS), expect)

    def finish(self) -> None:
        """Let nothing follow: what is there can still be received, and what was lost is counted then."""
        netlink.leave(self._socket, self._monitor.group)
        self._look_at = 0.0

    def receive(self) -> Drops | None:
        """What is there now; None if nothing is."""
        batch = self._batch()
        if batch is None and self._look_at:
            return None
        lost = self._look()
        if batch is not None:
            alerts = [one for one in map(alert, _apart(batch)) if one is not None]
            return self._records(alerts, batch.received_ns, lost)
        return self._records([], time.time_ns(), lost) if lost else None

    def _batch(self) -> Batch | None:
        while True:
            try:
                return self._slots.receive(self._socket.fileno())
            except Overrun:
                self._look_at = 0.0

    def _look(self) -> int:
        """Now and then: whether there are other namespaces; how much was lost since the last time."""
        now = time.monotonic()
        if now < self._look_at:
            return 0
        self._look_at = now + _LOOK_S
        self._alone = self._alone and _alone()
        before, self._told = self._told, self._unseen()
        return self._told - before

    def _unseen(self) -> int:
        """What found no room, in the kernel's queues and in our socket."""
        return self._monitor.unseen() + netlink.drops(self._socket)

    def _records(self, alerts: Sequence[Alert], received_ns: int, lost: int) -> Drops:
        known = len(self._reasons), len(self._places)
        inode = self._inode if self._alone else 0
        records = [
            _HEAD.pack(
                min(one.time_ns, received_ns), _numbered(self._places, one.place), 0,
                _numbered(self._reasons, one.reason), inode, 0, one.iif, 0, one.length,
                struct.pack("!H", one.protocol), len(one.packet), 0, _NOBODY, ANY_PACKET,
            ) + one.packet
            for one in alerts
        ]  # fmt: skip
        lengths = np.array([len(one) for one in records], np.uint32)
        reasons, places = (
            {number: name for name, number in names.items() if number > before}
            for names, before in zip((self._reasons, self._places), known, strict=True)
        )
        return Drops(
            received_ns,
            lengths,
            b"".join(records),
            places,
            lost,
            {_ENUM: reasons} if reasons else {},
        )


def _numbered(names: dict[str, int], name: str) -> int:
    """The number of a name, from 1 on."""
    return names.setdefault(name, len(names) + 1)


def _apart(batch: Batch) -> list[bytes]:
    """Datagrams, one by one."""
    ends = np.cumsum(batch.lengths, dtype=np.int64).tolist()
    return [batch.data[at:end] for at, end in zip([0, *ends], ends, strict=False)]


def _alone() -> bool:
    """Whether the host has no other network namespace than this one: all its processes are to be seen."""
    pids = Path("/proc/self/ns/pid").stat().st_ino
    return pids == _INITIAL_PIDS and len(netns.namespaces()) == 1
