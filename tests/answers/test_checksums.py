"""Which checksums are wrong, of bytes that senders and devices make."""

from __future__ import annotations

import ipaddress
import struct

import frames
import pytest

from iptrec.answers.checksums import wrong_in

ENDS = {4: ("10.0.1.2", "10.0.1.1"), 6: ("fd00:1::2", "fd00:1::1")}


def packet(version, kind, told):
    """A datagram or a SYN with a checksum: good, bad, or as the device is to make it."""
    src, dst = ENDS[version]
    protocol, body = kind
    at = frames.CHECKSUM[protocol]
    if told in ("good", "bad"):
        body = frames.summed(kind, src, dst, bad=told == "bad")[1]
    elif told != "none":
        length = 0 if told == "cut" else len(body)
        ends = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
        half = frames.checksum(ends + struct.pack("!II", length, protocol)) ^ 0xFFFF
        body = body[:at] + struct.pack("!H", half) + body[at + 2 :]
    return (frames.ipv6 if version == 6 else frames.ipv4)(protocol, body, src=src, dst=dst)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "kind", [frames.udp(9, 53, b"odd"), frames.tcp(9, 80, 2)], ids=["udp", "tcp"]
)
@pytest.mark.parametrize("told", ["good", "bad", "partial", "cut"])
def test_which_are_wrong(version, kind, told):
    """Neither good ones, nor those that the device is still to make."""
    found = wrong_in(packet(version, kind, told))
    assert (found is not None) == (told == "bad")


def test_what_has_none_or_is_not_whole_is_not_wrong():
    assert wrong_in(packet(4, frames.udp(9, 53), "none")) is None
    whole = packet(4, frames.udp(9, 53), "bad")
    assert wrong_in(whole) is not None
    assert [wrong_in(whole[:size]) for size in range(len(whole))] == [None] * len(whole)
    assert wrong_in(frames.IPV4["first"]) is None
    good = frames.ipv4(*frames.echo(), src="10.0.1.2", dst="10.0.1.1")
    assert wrong_in(good) is None
    assert wrong_in(good[:-1] + b"x").name == "ICMP"
