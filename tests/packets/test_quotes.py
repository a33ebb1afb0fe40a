"""Packets that are found by the 12 bytes that nf_tables dumps of their quotes."""

from __future__ import annotations

import ipaddress
import struct

import frames
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.packets.quotes import Quotes

OURS = {4: "10.0.0.1", 6: "fd00::1"}
ADDRESSES = {
    4: st.integers(1, 2**32 - 2).map(lambda one: str(ipaddress.IPv4Address(one))),
    6: st.integers(1, 2**128 - 2).map(lambda one: str(ipaddress.IPv6Address(one))),
}


def quotes(*packets):
    """The packets, one behind the other."""
    ends = np.cumsum([len(one) for one in packets])
    buffer = np.frombuffer(b"".join(packets) + bytes(256), np.uint8)
    v6 = np.array([one[0] >> 4 == 6 for one in packets])
    return Quotes(buffer, ends - [len(one) for one in packets], ends, v6)


def error(packet, to):
    """That a neighbour did not answer, as far as nf_tables dumps it."""
    body = struct.pack("!BBHI", *((1, 3) if ":" in to else (3, 1)), 0, 0) + packet[:12]
    if ":" in to:
        return frames.ipv6(58, body, src=OURS[6], dst=to)
    return frames.ipv4(1, body, src=OURS[4], dst=to)


def sent(src, dst, name, size, **more):
    body = frames.udp(4000, 53, bytes(size))
    if ":" in src:
        return frames.ipv6(*body, src=src, dst=dst, flow=name, **more)
    return frames.ipv4(*body, src=src, dst=dst, identity=name, **more)


@pytest.mark.parametrize("version", [4, 6])
@given(st.data())
def test_a_packet_has_the_key_of_its_quote(version, data):
    """Whatever rules do to class and TTL. Other names and lengths have others, and of IPv4 other addresses."""
    src, dst, other = (data.draw(ADDRESSES[version]) for _ in range(3))
    name, ttl, tos = (data.draw(st.integers(0, most)) for most in (0xFFFF, 255, 255))
    packets = [
        sent(src, dst, name, 9),
        sent(src, dst, name, 9, ttl=ttl, tos=tos),
        sent(src, dst, name ^ 1, 9),
        sent(src, dst, name, 8),
        sent(src, other, name, 9),
    ]
    found, _ = quotes(*packets).quotable_keys()
    key, _, named = quotes(error(packets[1], src)).quoted_keys()
    assert named[0] == (name != 0)
    summed = [
        sum(struct.unpack("!2H", ipaddress.ip_address(one).packed[:4])) % 0xFFFF
        for one in (dst, other)
    ]
    alike = version == 6 or summed[0] == summed[1]
    assert (found == key[0]).tolist() == [True, True, False, False, alike]


def test_which_errors_tell_of_neighbours():
    packets = [sent(*one, 1, 9) for one in (("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3"))]
    errors = [error(one, to) for one, to in zip(packets, ("10.0.0.2", "fd00::2"), strict=True)]
    others = [
        one[:21] + b"\3" + one[22:] if len(one) < 45 else one[:41] + b"\4" + one[42:]
        for one in errors
    ]
    assert (
        quotes(*errors, *others, *packets).tell_of_neighbours().tolist() == [True] * 2 + [False] * 4
    )


def test_what_has_options_or_is_quoted_as_a_whole_has_no_key():
    """The sum of a header's options is in its checksum, too."""
    packet = frames.ipv4(*frames.udp(1, 2), options=frames.ROUTER_ALERT)
    assert quotes(packet).quotable_keys()[0].tolist() == [0]
    whole = frames.ipv4(1, struct.pack("!BBHI", 3, 1, 0, 0) + frames.ipv4(*frames.udp(1, 2)))
    assert quotes(whole).quoted_keys()[0].tolist() == [0]
