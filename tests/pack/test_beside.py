"""What of connections, of questions about routes and of drops is packed with some packets."""

from __future__ import annotations

import ipaddress
import struct

from handmade import attribute, drop, netlink, udp, udp6

from iptrec.decode.conntrack import connections
from iptrec.decode.route_answers import Answers, Changed, Exchange
from iptrec.kernel.questions import GET_NETCONF, GET_ROUTE, Question, settings, way_out
from iptrec.pack.beside import ANSWERS, CONNECTIONS, Belongs
from iptrec.pack.picked import _Dropped

PACKED, OTHER = ("10.0.0.9", "192.0.2.1"), ("10.0.0.7", "192.0.2.1")


def belongs(*pairs, ids=()):
    return Belongs(pairs={frozenset(one) for one in pairs}, ids=set(ids))


def ends(src, dst, sport=1000, dport=53):
    """A tuple of ctnetlink's."""
    addresses = b"".join(
        attribute(kind, ipaddress.ip_address(one).packed) for kind, one in ((1, src), (2, dst))
    )
    protocol = attribute(1, b"\x11") + attribute(2, struct.pack("!H", sport))
    protocol += attribute(3, struct.pack("!H", dport))
    return attribute(1, addresses) + attribute(2, protocol)


def connection(number, orig, reply=None, master=None):
    """IPCTNL_MSG_CT_NEW."""
    told = attribute(1, ends(*orig)) + attribute(2, ends(*(reply or orig[::-1])))
    told += attribute(12, struct.pack("!I", number)) + attribute(3, struct.pack("!I", 8))
    if master is not None:
        told += attribute(14, ends(*master))
    return netlink(1 << 8, bytes([2, 0, 0, 0]) + told)


def kept(known, *datagrams):
    """The ids of connections that stay, of datagrams with several messages."""
    known.learn_masters(datagrams)
    change = known.change(CONNECTIONS)
    return [one.id for datagram in datagrams for one in connections(change(datagram))]


def test_connections_of_the_packets_stay():
    """Either way round, before or after NAT, by the kernel's id; of a list of many, these alone."""
    many = (
        connection(1, PACKED) + connection(2, OTHER) + connection(3, PACKED[::-1])
        + connection(4, OTHER, ("192.0.2.1", "10.0.0.9")) + connection(5, OTHER)
    )  # fmt: skip
    assert kept(belongs(PACKED, ids=[5]), many) == [1, 3, 4, 5]
    assert kept(belongs(), many) == []


def test_the_connection_that_one_belongs_to_stays():
    """By its helper it is known why the other one is related."""
    first = connection(1, ("10.0.0.7", "192.0.2.7"))
    assert kept(belongs(PACKED), first, connection(2, PACKED, master=("10.0.0.7", "192.0.2.7"))) == [
        1, 2,
    ]  # fmt: skip


def test_the_end_of_a_list_stays_and_all_is_as_it_was_where_nothing_goes():
    """Bytes, too."""
    done = netlink(3, bytes(4))
    one = connection(1, PACKED) + done
    change = belongs(PACKED).change(CONNECTIONS)
    assert change(one) == one
    assert change(connection(2, OTHER) + done) == done
    assert change(connection(2, OTHER)) == b""


def question(number, src, dst):
    packed = (ipaddress.ip_address(one).packed for one in (src, dst))
    return netlink(GET_ROUTE, Question(2, 3, *packed, 0, 0, 17, 1000, 53).body(), number=number)


def route(number):
    body = struct.pack("<BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, 0)
    return netlink(24, body + attribute(4, struct.pack("<i", 4)), number=number)


def netconf(number, forwarding):
    told = attribute(2, struct.pack("<i", forwarding)) + attribute(3, struct.pack("<i", 0))
    return netlink(80, bytes([2, 0, 0, 0]) + told, number=number)


def test_answers_about_other_packets_go_with_their_questions():
    """What was asked after one, too; what is about an interface stays, and that something changed."""
    error = netlink(2, struct.pack("<i", -22), number=5)
    told = [
        question(1, *PACKED), route(1),
        question(2, *OTHER), route(2),
        netlink(GET_ROUTE, way_out(2, bytes([10, 0, 0, 7]), 0), number=3), route(3),
        netlink(GET_NETCONF, settings(2, 3), number=4), netconf(4, 1),
        netlink(1),
        question(5, *PACKED[::-1]), error,
    ]  # fmt: skip
    change = belongs(PACKED).change(ANSWERS)
    left = [change(one) for one in told]
    assert [at for at, one in enumerate(left) if not one] == [2, 3, 4, 5]
    assert not [one for one in left if ipaddress.ip_address(OTHER[0]).packed in one]
    found = list(Answers().read(enumerate(left)))
    every = list(Answers().read(enumerate(told)))
    assert found == [one for one in every if isinstance(one, Changed) or one.way.dst[0] != 192
                     or one.way.src == bytes([10, 0, 0, 9])]  # fmt: skip
    assert len([one for one in found if isinstance(one, Exchange)]) == 2


def test_drops_of_ipv6_are_known_by_label_and_address():
    """NAT leaves the label, and one of the addresses at least."""
    dropped = _Dropped(packed={5}, others={5, 9})
    packet = udp6()
    assert not dropped.keeps(drop(5, 3, packet))
    dropped.belongs.labels.add(int.from_bytes(packet[:4], "big") & 0xFFFFF)
    dropped.belongs.addresses.add(packet[24:40])
    assert dropped.keeps(drop(5, 3, packet))
    assert dropped.keeps(drop(5, 3, packet[:8] + bytes(16) + packet[24:]))
    assert not dropped.keeps(drop(5, 3, packet[:8] + bytes(32) + packet[40:]))
    assert not dropped.keeps(drop(5, 3, packet[:3] + b"\x77" + packet[4:]))
    assert not dropped.keeps(drop(9, 3, packet))
    assert dropped.keeps(drop(5, 3, packet[:20]))  # it is cut: nothing tells


def test_events_tell_the_addresses():
    """Of packets that are packed, with those that they quote; nothing of what was not captured."""

    class Events:
        conntrack = (7, -1, -1)
        contents = (udp(src="10.0.0.9", dst="192.0.2.1"), udp6(), b"")

        def packet(self, row):
            return self.contents[row]

        def header(self, row):
            raise AssertionError(row)

    known = Belongs()
    known.see(Events(), [0, 1, 2])
    assert known.ids == {7}
    assert frozenset(("10.0.0.9", "192.0.2.1")) in known.pairs
    assert len(known.pairs) == 2
    assert len(known.labels) == 1
