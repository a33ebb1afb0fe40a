"""Events of traces: nflog's, nf_tables', and what is recorded beside them in structs of our own."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import first, headers
from iptrec.redact.netlink import attributes, keep, messages, nested
from iptrec.redact.packets import Packets, transport_at
from iptrec.redact.values import Values

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps
    from iptrec.redact.netlink import Layout
    from iptrec.redact.network import Network

_NFLOG, _TRACE, _GENERATION = 0x0400, 0x0A11, 0x0A0F
_PAYLOAD, _HARDWARE_TYPE = 9, 15
_SAME: Final = 8  # bytes by which `decode.nflog` tells a packet from a header
_ETHERNET: Final = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_TUNNELS: Final = (768, 769, 776, 778, 823)  # of IP in IP: their header is that of IP
_LINK, _NETWORK, _TRANSPORT, _IIFTYPE, _OIFTYPE = 7, 8, 9, 11, 13
_PREFIX: Final = b"TRACE: "
_DROP_HEAD, _SENDER = 64, 104


class Events:
    """Changes of datagrams; packets are mapped by `packets`."""

    def __init__(self, maps: Maps, network: Network) -> None:
        self._maps = maps
        self._value = Values(maps)
        self.packets = Packets(maps)
        self._prefixes: dict[bytes, bytes] = {}
        value = self._value
        self._nflog: Layout = {
            **dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 17, 19), keep),
            8: self._hardware, 9: self.packets, 10: self._prefix, 18: nested(network.connection),
            20: nested({1: keep, 2: keep}),
        }  # fmt: skip
        self._trace: Layout = {
            1: value.name, 2: value.name,
            **dict.fromkeys((3, 4, 6, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21), keep),
            5: nested({1: keep, 2: value.name}),
        }  # fmt: skip
        self._generation: Layout = {1: keep, 2: keep, 3: value.name}

    def nflog(self, data: bytes) -> bytes:
        """An event of nfnetlink_log."""
        return messages(data, self._of_nflog)

    def learn(self, data: bytes) -> bytes:
        """Look at a packet of nflog before the same one comes from nf_tables, which has less of it."""
        for _, _, start, end in headers(data):
            packet = first(data[start + 4 : end]).get(_PAYLOAD)
            if packet:
                self.packets.learn(packet)
        return data

    def learn_dropped(self, record: bytes) -> bytes:
        """The same of a record of a drop."""
        if len(record) > _DROP_HEAD:
            self.packets.learn(record[_DROP_HEAD:])
        return record

    def _of_nflog(self, kind: int, body: bytes) -> bytes | None:
        if kind != _NFLOG:
            self._maps.removed(f"messages of the stream nflog of the type {kind}")
            return None
        rest = body[4:]
        told = first(rest)
        hardware = int.from_bytes(told.get(_HARDWARE_TYPE, b""), "big")
        packet = told.get(_PAYLOAD, b"")
        layout = {**self._nflog, 16: lambda value: self._link(hardware, value, packet)}
        return body[:4] + attributes(rest, layout)

    def _hardware(self, value: bytes) -> bytes:
        """NFULA_HWADDR: a length, padding, and eight bytes."""
        size = int.from_bytes(value[:2], "big")
        found = self._value.hardware(value[4 : 4 + size])
        if found is None or len(value) < 4 + size:
            return value[:4] + self._maps.digest(value[4:])[: len(value) - 4]
        return value[:4] + found + bytes(len(value) - 4 - size)

    def _link(self, hardware_type: int, value: bytes, packet: bytes = b"") -> bytes | None:
        """A header of the link layer; without one the kernel sends the beginning of the packet."""
        if len(value) >= _SAME and value[:_SAME] == packet[:_SAME]:
            return self.packets(packet)[: len(value)].ljust(len(value), b"\0")
        if hardware_type in _ETHERNET:
            return self.packets.frame(value)
        if hardware_type in _TUNNELS:
            return self.packets(value)
        if value.strip(b"\0"):
            self._maps.removed(f"link headers of the hardware type {hardware_type}")
        return bytes(len(value))

    def _prefix(self, value: bytes) -> bytes:
        """NFULA_PREFIX: table, chain, type and number."""
        found = self._prefixes.get(value)
        if found is None:
            text = value.rstrip(b" \0")
            parts = text.removeprefix(_PREFIX)
            table, _, behind = parts.partition(b":")
            chain, *rest = behind.rsplit(b":", 2)
            if not text.startswith(_PREFIX) or len(rest) != 2:  # noqa: PLR2004
                found = self._value.prose(text) + value[len(text) :]
            else:
                names = self._value.name(table), self._value.name(chain)
                found = _PREFIX + b":".join([*names, *rest]) + value[len(text) :]
            self._prefixes[value] = found
        return found

    def nftrace(self, data: bytes) -> bytes:
        """An event of nf_tables, or the number of a ruleset."""
        return messages(data, self._of_nftrace)

    def _of_nftrace(self, kind: int, body: bytes) -> bytes | None:
        if kind == _GENERATION:
            return body[:4] + attributes(body[4:], self._generation)
        if kind != _TRACE:
            self._maps.removed(f"messages of the stream nftrace of the type {kind}")
            return None
        told = first(body[4:])
        layout = dict(self._trace)
        network, transport = told.get(_NETWORK, b""), told.get(_TRANSPORT, b"")
        if network or transport:
            whole = self._headers(network, transport)
            layout[_NETWORK] = lambda _: whole[0]
            layout[_TRANSPORT] = lambda _: whole[1]
        kind_in, kind_out = (
            int.from_bytes(told.get(one, b""), "big") for one in (_IIFTYPE, _OIFTYPE)
        )
        layout[_LINK] = lambda value: self._link(kind_in or kind_out or 1, value)
        return body[:4] + attributes(body[4:], layout)

    def _headers(self, network: bytes, transport: bytes) -> tuple[bytes, bytes]:
        """Both, which are parts of one packet; transport is the packet where it stands alone."""
        if not network:
            return b"", self.packets(transport)
        if transport and not _is_whole(network):
            known = transport[:4]
            return self.packets(network), known + self._maps.filler(transport[4:])
        whole = self.packets.begin(network + transport)
        return whole[: len(network)], whole[len(network) :]

    def drop(self, record: bytes) -> bytes:
        """A record of a dropped packet: `decode.drops`."""
        if len(record) < _DROP_HEAD:
            self._maps.removed("records of drops that are cut")
            return b""
        buffer = self._maps.digest(record[16:24])[:8]
        return record[:16] + buffer + record[24:_DROP_HEAD] + self.packets(record[_DROP_HEAD:])

    def sender(self, fact: bytes) -> bytes:
        """A fact about a sender: `decode.senders`."""
        if len(fact) != _SENDER:
            self._maps.removed("facts about senders of another length")
            return b""
        (family,) = struct.unpack_from("<H", fact, 26)
        size = {4: 4, 6: 16}.get(family)
        if size is None:
            ends = bytes(32)
        else:
            ends = b"".join(
                self._maps.address(fact[at : at + size]) + bytes(16 - size) for at in (32, 48)
            )
        comm = self._value.name(fact[64:80])[:16].ljust(16, b"\0")
        return fact[:32] + ends + comm + fact[80:]


def _is_whole(network: bytes) -> bool:
    """Whether the transport header lies behind these bytes."""
    if network[0] >> 4 == 4:  # noqa: PLR2004
        return len(network) == (network[0] & 15) * 4
    if network[0] >> 4 != 6 or len(network) < 40:  # noqa: PLR2004
        return False
    return transport_at(network) == len(network)
