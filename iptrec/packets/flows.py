"""Which packets are of one flow: of a protocol, from one address to another, at the port that is served.

The other end's port is another one for each connection: a flow has them all. The packets that answer are a
flow of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode.packet import address, icmp_name, protocol_name
from iptrec.packets.identity import WITH_PORTS, Packets, addressed, swapped16

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import U64, Family, Mask

_ICMP, _ICMPV6 = 1, 58
_SYN, _ACK = 2, 16
_CLIENTS: Final = 32768  # from here on: net.ipv4.ip_local_port_range, if nobody sets it
_MOST_SERVERS: Final = 100_000  # that are remembered
_NOBODY, _SOURCE, _DESTINATION = range(3)  # who serves
_KEY: Final = np.dtype(
    [
        ("ip", "u1"),
        ("ipv6", "u1"),
        ("sent", "u1"),
        ("later", "u1"),  # a fragment without ports
        ("protocol", "<u2"),  # ethertype of a frame that is not IP
        ("server", "u1"),
        ("port", "<u2"),
        ("icmp", "<u2"),  # type, then code
        ("src", "<u8", 2),
        ("dst", "<u8", 2),
    ]
)


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow; ``sent``: by this host.

    ``header``: as of `decode.packet.header`, what all its packets have: one port, or type and code of ICMP.
    """

    family: Family
    header: dict[str, Any]
    sent: bool

    @classmethod
    def of(cls, key: bytes) -> Flow:
        """The flow of a key (`Flows.keys`)."""
        one = np.frombuffer(key, _KEY)[0]
        family: Family = "ipv6" if one["ipv6"] else "ipv4"
        number = int(one["protocol"])
        if not one["ip"]:
            ethertype = f"0x{number:04x}" if number else None
            return cls(family, {"ethertype": ethertype}, bool(one["sent"]))
        size = 16 if one["ipv6"] else 4
        src, dst = (address(one[end].tobytes()[:size]) for end in ("src", "dst"))
        header: dict[str, Any] = {"proto": protocol_name(number), "src": src, "dst": dst}
        if one["server"]:
            header["sport" if one["server"] == _SOURCE else "dport"] = int(one["port"])
        elif number in (_ICMP, _ICMPV6) and not one["later"]:
            code, kind = divmod(int(one["icmp"]), 256)
            name = icmp_name(kind, code, ipv6=number == _ICMPV6)
            header |= {"type": kind, "code": code, "name": name}
        return cls(family, header, bool(one["sent"]))


class Flows:
    """Tells flows apart. Who serves is known from a TCP handshake, for all packets of its connections.

    Else the destination does, but where its port is one that clients get, and the source's is not.
    """

    def __init__(self) -> None:
        self._servers: U64 = np.zeros(0, np.uint64)

    def keys(self, events: TraceEvents, sent: Mask) -> tuple[npt.NDArray[np.void], Mask]:
        """A key for each packet, equal bytes for those of a flow; of which packets it is known; shape (n,).

        ``events``: one a packet, as it came. ``sent``: which were sent by this host.
        """
        packets = Packets.of(events)
        protocol, *ends = packets.ends()
        first, later, cut = packets.transports()
        ip, ported = events.ip, np.isin(protocol, WITH_PORTS) & ~later
        icmp = np.isin(protocol, (_ICMP, _ICMPV6)) & ~later
        ports = swapped16(ends[2]), swapped16(ends[5])
        server = np.where(ported & ip, self._servers_of(packets, *ports), _NOBODY)
        keys = np.zeros(len(events), _KEY)
        keys["ip"], keys["ipv6"], keys["sent"] = ip, events.ipv6, sent
        keys["later"] = later & ip
        keys["protocol"] = np.where(ip, protocol, events.protocol)
        keys["server"] = server
        keys["port"] = np.where(server == _SOURCE, *ports) * (server != _NOBODY)
        keys["icmp"] = np.where(icmp & ip, first & np.uint64(0xFFFF), 0)
        for name, words in (("src", ends[:2]), ("dst", ends[3:5])):
            keys[name] = np.where(ip[:, None], np.stack(words, axis=1), 0)
        known = ~ip | (addressed(events) & ~(cut & (ported | icmp)))
        return keys.view(f"V{_KEY.itemsize}"), known

    def _servers_of(self, packets: Packets, source: U64, destination: U64) -> npt.NDArray[Any]:
        """Who serves of the two ends with these ports."""
        shake = packets.flags() & (_SYN | _ACK)
        asked, answered = shake == _SYN, shake == _SYN | _ACK
        ends = packets.end_keys()
        if len(self._servers) < _MOST_SERVERS:
            self._servers = np.unique(
                np.concatenate([self._servers, ends[1][asked], ends[0][answered]])
            )
        serves = [np.isin(one, self._servers) for one in ends]
        answers = (source < _CLIENTS) & (destination >= _CLIENTS)
        server = np.where(answers, _SOURCE, _DESTINATION)
        server = np.where(serves[0] & ~serves[1], _SOURCE, server)
        server = np.where(serves[1] & ~serves[0], _DESTINATION, server)
        return np.where(asked, _DESTINATION, np.where(answered, _SOURCE, server))
