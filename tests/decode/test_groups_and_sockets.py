"""Multicast groups and sockets out of what the kernel tells of them."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from handmade import netlink

from iptrec.decode.groups import groups
from iptrec.decode.sockets import closed, listed, rows

IGMP = """\
Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
4\teth0      :     2      V3
\t\t\t\t030201EF     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0"""
IGMP6 = """\
1    lo              ff020000000000000000000000000001     1 0000000C 0
4    eth0            ff050000000000000000000000001234     1 00000004 0"""


def test_groups():
    found = groups({"igmp": IGMP, "igmp6": IGMP6})
    address = ipaddress.ip_address
    assert found == {
        ("lo", 4): {address("224.0.0.1")},
        ("eth0", 4): {address("224.0.0.1"), address("239.1.2.3")},
        ("lo", 6): {address("ff02::1")},
        ("eth0", 6): {address("ff05::1234")},
    }


@pytest.mark.parametrize("files", [{}, {"igmp": "\t\t\t\tnonsense"}, {"igmp6": "1 lo ff"}])
def test_no_groups(files):
    assert groups(files) == {}


def one(port, family=2, state=7, peer=0):
    own = (ipaddress.ip_address("10.0.0.1").packed + bytes(12), bytes(16))
    return netlink(
        20,
        struct.pack(">BBBBHH16s16s", family, state, 0, 0, port, peer, *own)
        + struct.pack("<I20xII", 3, 7, 0),
    )


DONE = netlink(3, bytes(4))


def test_sockets():
    """Of which protocol they are, their place tells."""
    content = one(80, state=10) + DONE + DONE + one(53) + one(54) + DONE + DONE
    assert listed(content) == {(6, 80), (17, 53), (17, 54)}
    first = next(rows(content))
    assert (first["protocol"], first["address"], first["port"], first["index"], first["uid"]) == (
        6,
        "10.0.0.1",
        80,
        3,
        7,
    )
    assert list(closed(one(53) + one(80))) == [53, 80]


@pytest.mark.parametrize(
    "content", [b"", DONE * 3, DONE + netlink(2, bytes(4)) + DONE * 3, DONE * 5, one(1) + DONE * 3]
)
def test_sockets_that_are_not_all(content):
    assert listed(content) is None
