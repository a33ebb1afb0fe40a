"""Packets that carry a number of their own, and the numbers of recorded ones.

A number stands where both tracers dump it: in the first bytes behind the header of UDP and of an echo request,
in the sequence number of TCP. sender.py and receiver.py know these places, too.
"""

from __future__ import annotations

import struct

import numpy as np

MAGIC = b"IPTR"
SEQUENCE = 0x5A  # the first byte of TCP's
UDP, TCP, ICMP, ICMP6 = 17, 6, 1, 58
_ACK = 16


def packet(number, protocol, source, target, ports, flags):
    """From the IP header on; an echo request has the ports as its id and number."""
    four = source.version == 4
    mark = MAGIC + struct.pack("!I", number)
    if protocol == "udp":
        kind, at, body = UDP, 6, struct.pack("!HHHH", *ports, 16, 0) + mark
    elif protocol == "tcp":
        sequence, acked = SEQUENCE << 24 | number, int(bool(flags & _ACK))
        kind, at, body = (
            TCP,
            16,
            struct.pack("!HHIIBBHHH", *ports, sequence, acked, 80, flags, 512, 0, 0),
        )
    else:
        kind, at = (ICMP if four else ICMP6), 2
        body = struct.pack("!BBHHH", 8 if four else 128, 0, 0, *ports) + mark
    both = source.packed + target.packed
    pseudo = b"" if kind == ICMP else both + struct.pack("!II", len(body), kind)
    body = body[:at] + struct.pack("!H", _checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]
    if four:
        identity = number % 0xFFFF + 1
        return (
            struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), identity, 0, 64, kind, 0)
            + both
            + body
        )
    return struct.pack("!IHBB", 6 << 28, len(body), kind, 64) + both + body


def _checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def numbers(events, rows):
    """The number in the packet of each event; -1: another's, or not dumped."""
    buffer, start, length = events.buffer, events.payload[rows], events.payload_length[rows]
    at = np.maximum(start, 0)
    six = buffer[at] >> 4 == 6
    transport = at + np.where(six, 40, 20)
    protocol = np.where(six, buffer[at + 6], buffer[at + 9])
    kind = buffer[transport]
    echo = ((protocol == ICMP) & (kind == 8)) | ((protocol == ICMP6) & (kind == 128))
    marked = (_words(events, transport + 8) == int.from_bytes(MAGIC, "big")) & (
        echo | (protocol == UDP)
    )
    sequence = _words(events, transport + 4)
    numbered = (protocol == TCP) & (sequence >> 24 == SEQUENCE)
    found = np.where(numbered, sequence & 0xFFFFFF, -1)
    whole = (start >= 0) & (length >= transport - at + 16)
    return np.where(whole, np.where(marked, _words(events, transport + 12), found), -1)


def _words(events, at):
    """The big-endian words at these offsets."""
    words = np.lib.stride_tricks.sliding_window_view(events.buffer, 4)[at]
    return words.copy().view(">u4")[:, 0].astype(np.int64)
