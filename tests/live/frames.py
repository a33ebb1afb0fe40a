"""Packets of every sort, as hexadecimal Ethernet frames, and a program that sends them."""

from __future__ import annotations

import ipaddress
import json
import struct

SEND = """
import json, pathlib, socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
for frame in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    out.send(bytes.fromhex(frame))
"""
SRC4, DST4, SRC6, DST6 = "10.0.1.2", "10.0.1.1", "fd00:1::2", "fd00:1::1"
TCP_OPTIONS = bytes.fromhex("020405b401030307")  # MSS 1460, no operation, window scale
ROUTER_ALERT = bytes.fromhex("94040000")
CHECKSUM = {6: 16, 17: 6}  # where that of a protocol is


def checksum(data):
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol, body, *, src=SRC4, dst=DST4, tos=0, ttl=64, identity=7, offset=0, options=b""):
    words = 5 + len(options) // 4
    total = 4 * words + len(body)
    head = struct.pack("!BBHHHBBH", 0x40 | words, tos, total, identity, offset, ttl, protocol, 0)
    head += ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv6(protocol, body, *, src=SRC6, dst=DST6, tos=0, ttl=64, flow=0):
    head = struct.pack("!IHBB", 6 << 28 | tos << 20 | flow, len(body), protocol, ttl)
    return head + ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed + body


def udp(sport, dport, data=b"x"):
    return 17, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def tcp(sport, dport, flags, options=b"", data=b""):
    size = (5 + len(options) // 4) << 4
    return 6, struct.pack("!HHIIBBHHH", sport, dport, 1, 0, size, flags, 512, 0, 0) + options + data


def summed(body, src, dst, *, bad=False):
    """With its checksum, over the addresses, too; ``bad``: with another one."""
    protocol, data = body
    at = CHECKSUM.get(protocol)
    if at is None:
        return body
    ends = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    found = checksum(ends + struct.pack("!II", len(data), protocol) + data) ^ bad
    return protocol, data[:at] + struct.pack("!H", found) + data[at + 2 :]


def before(extension, kind, body):
    """An extension header of 8 bytes in front; ``body``: protocol and data."""
    return kind, bytes([body[0]]) + extension + body[1]


def echo(kind=8):
    body = struct.pack("!BBHHH", kind, 0, 0, 9, 1) + b"ping"
    return 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:]


IPV4 = {
    "udp": ipv4(*udp(9, 5000)),
    "dns": ipv4(*udp(9, 53, b"needle in a haystack"), tos=0x20, ttl=1),
    "long": ipv4(*udp(9, 5000, bytes(200) + b"NEEDLE"), tos=0xB8),
    "syn": ipv4(*tcp(1000, 80, 2, TCP_OPTIONS), tos=3),
    "ack": ipv4(*tcp(1000, 443, 0x50, data=b"GET /")),
    "echo": ipv4(*echo()),
    "esp": ipv4(50, struct.pack("!II", 5, 1) + bytes(16)),
    "ah": ipv4(51, bytes.fromhex("1104000000000006000000010000000000000000") + udp(9, 53)[1]),
    "options": ipv4(*udp(9, 5000), options=ROUTER_ALERT),
    "multicast": ipv4(*udp(9, 5000), dst="224.0.0.5"),
    "broadcast": ipv4(*udp(9, 5000), dst="10.0.1.255"),
    "first": ipv4(*udp(9, 5000, bytes(24)), offset=0x2000),
    "later": ipv4(17, bytes.fromhex("0009001600001234") + bytes(16), offset=4),
}
OPTION = bytes.fromhex("00010400000000")  # length, padding of four bytes
IPV6 = {
    "udp": ipv6(*udp(9, 5000, b"needle")),
    "syn": ipv6(*tcp(1000, 80, 2, TCP_OPTIONS), tos=0x20, flow=5),
    "hop": ipv6(*before(OPTION, 0, udp(9, 53))),
    "dst": ipv6(*before(OPTION, 60, tcp(9, 80, 2)), tos=3),
    "route": ipv6(*before(bytes.fromhex("00000000000000"), 43, udp(9, 53))),
    "both": ipv6(*before(OPTION, 0, before(OPTION, 60, udp(9, 53)))),
    "first": ipv6(*before(bytes.fromhex("00000100000005"), 44, udp(9, 53, bytes(16)))),
    "later": ipv6(*before(bytes.fromhex("00002000000006"), 44, udp(9, 53, bytes(16)))),
    "auth": ipv6(51, bytes.fromhex("1104000000000005000000010000000000000000") + bytes(4) + udp(9, 53)[1]),
    "esp": ipv6(50, struct.pack("!II", 6, 1) + bytes(16)),
    "other": ipv6(*udp(9, 5000), src="fe80::5", dst="ff02::1", ttl=1),
}  # fmt: skip


def mac(lab, host, name):
    """The link-layer address of an interface."""
    (found,) = json.loads(lab.run(["ip", "-json", "link", "show", "dev", name], host).stdout)
    return found["address"]


def framed(packets, destination, source):
    """Each as a frame."""
    link = destination.replace(":", "") + source.replace(":", "")
    return [link + ("0800" if one[0] >> 4 == 4 else "86dd") + one.hex() for one in packets]


def neighbour(lab):
    """A host "h", whose frames come in at v1, where the lab's own has 10.0.1.1 and fd00:1::1."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", "fd00:1::2/64", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.settle()


def of_neighbour(lab, packets):
    """Each as a frame of that host."""
    return framed(packets, mac(lab, None, "v1"), mac(lab, "h", "eth0"))
