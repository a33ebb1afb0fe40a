"""Messages and attributes of netlink, as they are packed and read again."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.kernel import netlink
from iptrec.kernel.netlink import Listener

ATTRIBUTES = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=10)


@given(ATTRIBUTES)
def test_attributes_come_back(values):
    """Whatever their lengths: each begins at a multiple of four."""
    packed = netlink.packed(values)
    assert list(netlink.attributes(packed)) == values
    assert len(packed) % 4 == 0


@given(ATTRIBUTES, st.integers(0, 0x3FFF))
def test_one_attribute_is_the_first_of_its_kind(values, wanted):
    """The same as all of them would tell."""
    datagram = netlink.message(1, 0, netlink.netfilter_body(2, values))
    first = next((value for kind, value in values if kind == wanted), None)
    assert netlink.attribute(memoryview(datagram), wanted) == first


@given(st.binary(max_size=100))
def test_any_bytes_have_an_end(data):
    """A size of 0, or one that goes beyond the end, keeps nobody busy."""
    assert len(list(netlink.attributes(data))) <= len(data) // 4
    assert len(list(netlink.messages(data))) <= len(data) // 16
    netlink.attribute(memoryview(data), 12)


def test_flags_of_an_attribute_are_not_its_number():
    """NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
    assert list(netlink.attributes(struct.pack("=HHI", 8, 0xC000 | 5, 7))) == [
        (5, struct.pack("=I", 7))
    ]


def test_messages_of_a_datagram():
    """One behind the other, each at a multiple of four."""
    bodies = [b"", b"abc", b"abcd"]
    datagram = b"".join(
        netlink.message(number, netlink.REQUEST, body, sequence=9) + bytes(-len(body) % 4)
        for number, body in enumerate(bodies)
    )
    found = list(netlink.messages(datagram))
    assert [(one.kind, one.flags, one.sequence, one.body) for one in found] == [
        (number, netlink.REQUEST, 9, body) for number, body in enumerate(bodies)
    ]


@pytest.mark.parametrize("code", [0, errno.EPERM, errno.ERESTART])
def test_errors_tell_their_code(code):
    """0 acknowledges; what is not an error has none, whatever its body."""
    body = struct.pack("=i", -code)
    (error,) = netlink.messages(netlink.message(netlink.ERROR, 0, body))
    (other,) = netlink.messages(netlink.message(netlink.DONE, 0, body))
    assert (error.code, other.code) == (code, 0)


def test_a_listener_does_not_wait():
    """Nothing there is None; what comes is a datagram as it was sent. Unprivileged: it asks for links."""
    opened = netlink.connected(netlink.ROUTE)
    dump = netlink.message(
        18, netlink.REQUEST | netlink.DUMP, bytes(16)
    )  # RTM_GETLINK, struct ifinfomsg
    with Listener(opened, netlink.LARGEST) as links:
        assert links.receive() is None
        os.write(links.fileno(), dump)
        kinds = [one.kind for one in netlink.messages(links.receive())]
    assert kinds[0] == 16  # RTM_NEWLINK
