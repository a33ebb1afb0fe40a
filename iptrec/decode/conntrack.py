"""Connections out of ctnetlink's messages.

Layout: include/uapi/linux/netfilter/nfnetlink_conntrack.h; headers are in the byte order of the host,
little endian, values are big endian. Recordings come from strangers: what does not fit is left out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import first, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of NF_CT_STATE_BIT, enum ip_conntrack_dir and ip_conntrack_status (include/uapi/linux/netfilter/
# nf_conntrack_common.h), as nft names them (src/ct.c).
STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
DIRECTIONS: Final = {"original": 0, "reply": 1}
STATUS: Final = {
    "expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512,
}  # fmt: skip
# Those that nft has no name for.
OTHER_STATUS: Final = {
    "seq-adjust": 64, "src-nat-done": 128, "dst-nat-done": 256, "fixed-timeout": 1024, "template": 2048,
    "helper": 8192, "offload": 16384, "hw-offload": 32768,
}  # fmt: skip

_NFGEN: Final = 4  # bytes of struct nfgenmsg
_NEW, _DELETE = 1 << 8, 1 << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _MARK, _ID, _ZONE = 1, 2, 3, 8, 12, 18
_HELP, _TUPLE_MASTER = 5, 14
_HELP_NAME, _TUPLE_ZONE = 1, 3
_NAME: Final = 16  # NF_CT_HELPER_NAME_LEN
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_ADDRESSES: Final = {4: (1, 2), 16: (3, 4)}  # bytes -> CTA_IP_V4_SRC, _DST; CTA_IP_V6_SRC, _DST
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT, _ICMP_ID, _ICMPV6_ID = 1, 2, 3, 4, 7


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a connection; of ICMP both ports are the echo's id, 0 where there are none."""

    protocol: int
    src: str
    dst: str
    sport: int
    dport: int

    @property
    def back(self) -> Flow:
        """The other way round."""
        return Flow(self.protocol, self.dst, self.src, self.dport, self.sport)


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as the kernel reported it; ``gone`` when it ended. ``status``: enum ip_conntrack_status.

    ``zones``: of each direction, 0 where it has none; ``zone``: the one that there is. ``helper``: its name, ""
    where there was none. ``master``: the connection that this one belongs to, as FTP's data belong to its
    commands; ``expected_by``: the name of the master's helper, None where it is not known.
    """

    id: int
    orig: Flow
    reply: Flow
    status: int
    mark: int
    zone: int
    gone: bool
    zones: tuple[int, int] = (0, 0)
    helper: str = ""
    master: Flow | None = None
    expected_by: str | None = None


def connections(datagram: bytes) -> Iterator[Connection]:
    """The connections that one datagram tells of."""
    for message in messages(datagram):
        if message.kind in (_NEW, _DELETE) and len(message.body) >= _NFGEN:
            found = _connection(message.body[_NFGEN:], message.kind == _DELETE)
            if found is not None:
                yield found


def _connection(body: bytes, gone: bool) -> Connection | None:
    attributes = first(body)
    tuples = [attributes.get(one, b"") for one in (_TUPLE_ORIG, _TUPLE_REPLY)]
    orig, reply = map(_flow, tuples)
    if orig is None or reply is None:
        return None
    numbers = (_number(attributes.get(one, b"")) for one in (_ID, _STATUS, _MARK, _ZONE))
    identity, status, mark, zone = numbers
    first_, second = (zone or _number(first(one).get(_TUPLE_ZONE, b"")) for one in tuples)
    return Connection(
        identity,
        orig,
        reply,
        status,
        mark,
        zone or first_ or second,
        gone,
        (first_, second),
        _name(first(attributes.get(_HELP, b"")).get(_HELP_NAME, b"")),
        _flow(attributes.get(_TUPLE_MASTER, b"")),
    )


def _name(text: bytes) -> str:
    return text.partition(b"\0")[0][:_NAME].decode("ascii", "backslashreplace")


def _flow(data: bytes) -> Flow | None:
    parts = first(data)
    addresses, protocol = (first(parts.get(one, b"")) for one in (_TUPLE_IP, _TUPLE_PROTO))
    if len(protocol.get(_NUMBER, b"")) != 1:
        return None
    for size, (source, destination) in _ADDRESSES.items():
        ends = addresses.get(source, b""), addresses.get(destination, b"")
        if all(len(one) == size for one in ends):
            src, dst = (str(ipaddress.ip_address(one)) for one in ends)
            identity = _number(protocol.get(_ICMP_ID, protocol.get(_ICMPV6_ID, b"")))
            return Flow(
                protocol[_NUMBER][0],
                src,
                dst,
                _number(protocol.get(_SOURCE_PORT, b"")) or identity,
                _number(protocol.get(_DESTINATION_PORT, b"")) or identity,
            )
    return None


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], "big")
