"""Lines as net/netfilter/nf_log_syslog.c prints them, from packets' bytes."""

from __future__ import annotations

import ipaddress
import struct

NAMES = {6: "TCP", 17: "UDP", 136: "UDPLITE", 1: "ICMP", 58: "ICMPv6", 51: "AH", 50: "ESP"}
_FLAGS = (
    (0x80, "CWR"), (0x40, "ECE"), (0x20, "URG"), (0x10, "ACK"), (8, "PSH"), (4, "RST"), (2, "SYN"), (1, "FIN"),
)  # fmt: skip


def printed(packet):
    """What stands behind the interfaces."""
    return (_ipv4 if packet[0] >> 4 == 4 else _ipv6)(packet)


def _ipv4(packet, *, quoted=False):
    tos, total, number, place, ttl, protocol = struct.unpack_from("!xBHHHBB", packet)
    size = packet[0] % 16 * 4
    source, destination = (ipaddress.IPv4Address(packet[at : at + 4]) for at in (12, 16))
    text = (
        f"SRC={source} DST={destination} LEN={total} TOS=0x{tos & 0x1E:02X} PREC=0x{tos & 0xE0:02X} TTL={ttl}"
        f" ID={number} "
    )
    text += "".join(
        f"{name} " for bit, name in ((0x8000, "CE"), (0x4000, "DF"), (0x2000, "MF")) if place & bit
    )
    if place & 0x1FFF:
        text += f"FRAG:{place & 0x1FFF} "
    if size > 20:
        text += f"OPT ({packet[20:size].hex().upper()}) "
    return text + _transport(protocol, packet[size:], fragment=bool(place & 0x1FFF), quoted=quoted)


def _ipv6(packet, *, quoted=False):
    first, length, protocol, hops = struct.unpack_from("!IHBB", packet)
    source, destination = (ipaddress.IPv6Address(packet[at : at + 16]).exploded for at in (8, 24))
    text = (
        f"SRC={source} DST={destination} LEN={length + 40} TC={first >> 20 & 0xFF} HOPLIMIT={hops}"
        f" FLOWLBL={first & 0xFFFFF} "
    )
    at, fragment = 40, False
    if protocol == 44:
        following, place, number = struct.unpack_from("!BxHI", packet, at)
        text += f"OPT ( FRAG:{place & 0xFFF8} {'INCOMPLETE ' * (place & 1)}ID:{number:08x} ) "
        protocol, at, fragment = following, at + 8, place > 7
    if protocol == 50:
        spi = "" if fragment else f"SPI=0x{struct.unpack_from('!I', packet, at)[0]:x} "
        return f"{text}OPT ( ESP {spi})"
    return text + _transport(protocol, packet[at:], fragment=fragment, quoted=quoted)


def _transport(protocol, data, *, fragment, quoted):
    text = f"PROTO={NAMES.get(protocol, protocol)} "
    if fragment or protocol not in NAMES:
        return text
    least = {6: 20, 51: 12}.get(protocol, 8)
    if len(data) < least:
        return text + f"INCOMPLETE [{len(data)} bytes] "
    if protocol == 6:
        sport, dport, seq, ack, where, flags, window, urgent = struct.unpack_from(
            "!HHIIBBHxxH", data
        )
        text += f"SPT={sport} DPT={dport} SEQ={seq} ACK={ack} WINDOW={window} RES=0x{(where & 15) << 2:02x} "
        text += "".join(f"{name} " for bit, name in _FLAGS if flags & bit) + f"URGP={urgent} "
        options = data[20 : 4 * (where >> 4)]
        return text + (f"OPT ({options.hex().upper()}) " if options else "")
    if protocol in (17, 136):
        return text + "SPT={} DPT={} LEN={} ".format(*struct.unpack_from("!HHH", data))
    if protocol in (50, 51):
        return text + f"SPI=0x{struct.unpack_from('!I', data, 4 * (protocol == 51))[0]:x} "
    return text + _icmp(protocol, data, quoted=quoted)


def _icmp(protocol, data, *, quoted):
    kind, code, number, seq = struct.unpack_from("!BBxxHH", data)
    text = f"TYPE={kind} CODE={code} "
    if kind in ((0, 8) if protocol == 1 else (128, 129)):
        return text + f"ID={number} SEQ={seq} "
    if protocol == 1 and kind in (3, 11):
        if not quoted:
            text += f"[{_ipv4(data[8:], quoted=True)}] "
        return text + (f"MTU={seq} " if (kind, code) == (3, 4) else "")
    if protocol == 58 and kind in (1, 2, 3):
        if not quoted:
            text += f"[{_ipv6(data[8:], quoted=True)}] "
        return text + (f"MTU={number << 16 | seq} " if kind == 2 else "")
    return text
