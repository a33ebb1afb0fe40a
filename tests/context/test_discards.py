"""How much the kernel's counters of discarded packets rose while packets were recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from handmade import HandMade

from iptrec.context import counters
from iptrec.context.counters import Counts, of_routing
from iptrec.decode.counters import Counter
from iptrec.decode.counters import counters as read
from iptrec.recording.rows import Chunk, Snapshot, Stream

DEV = """\
Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes ...
  eth0: 20050  185    1    {}    0     0    0     0    20050     185    2    3    0     0  0   0
eth0:1:7 8 0 0 0 0 0 0 1 2 0 0 0 0 0 0"""
FILES = {
    "snmp": "Ip: Forwarding InReceives InAddrErrors\nIp: 2 178566 {0}\nUdp: InDatagrams NoPorts\nUdp: 5 {0}",
    "netstat": "TcpExt: ListenOverflows IPReversePathFilter\nTcpExt: 7 {0}\nIpExt: InNoRoutes\nIpExt: {0}",
    "snmp6": "Ip6InReceives                   \t5\nIp6InNoRoutes                   \t{0}",
    "dev": DEV,
    "stat/nf_conntrack": "entries drop insert_failed\n00000005 0000000a 00000001\n00000005 {0:08x} 00000001",
    "stat/synproxy": "entries cookie_invalid\n00000000 00000003",
    "xfrm_stat": "XfrmInError             \t0\nXfrmInPolBlock          \t{0}",
}


def files(number=0):
    return {name: text.format(number) for name, text in FILES.items()}


VALUES = {
    Counter("IpInAddrErrors"): 4, Counter("UdpNoPorts"): 4, Counter("ListenOverflows"): 7,
    Counter("IPReversePathFilter"): 4, Counter("InNoRoutes"): 4, Counter("Ip6InNoRoutes"): 4,
    Counter("rx_errors", "eth0"): 1, Counter("rx_dropped", "eth0"): 4, Counter("tx_errors", "eth0"): 2,
    Counter("tx_dropped", "eth0"): 3, Counter("rx_packets", "eth0:1"): 8, Counter("tx_packets", "eth0:1"): 2,
    Counter("drop", "conntrack"): 14, Counter("insert_failed", "conntrack"): 2,
    Counter("cookie_invalid", "synproxy"): 3, Counter("IpForwarding"): 2, Counter("XfrmInPolBlock"): 4,
}  # fmt: skip


@pytest.mark.parametrize("counter", VALUES, ids=str)
def test_what_the_files_of_proc_say(counter):
    assert read(files(4))[counter] == VALUES[counter]


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "Ip:", "Ip: A\nIp: x", "Ip: A B\nIp: 1", "Ip: A\nIp: -1", "Ip6A", "Ip6A x 5", ":", "eth0: 1",
        "eth0: " + "x " * 20, "a b\nzz 1", "Ip: A\nIp: " + "9" * 5000, "a\n" + "\N{SUPERSCRIPT TWO}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [*FILES, "else"])
def test_garbage_counts_nothing(path, text):
    """Of what is missing there is none; nothing is raised."""
    assert all(isinstance(one, int) for one in read({path: text}).values())


def recorded(*numbers, namespace=1, before=0):
    """Counters at times 0, 10, 20, ...; all discards are at this number then."""
    made = HandMade()
    for at, number in enumerate(numbers):
        content = json.dumps(files(number)).encode()
        made.snapshots_.append(
            Snapshot(before + at + 1, namespace, "counters", 10 * at, "/proc/net", content)
        )
    return made


RISING = [
    "IpInAddrErrors",
    "UdpNoPorts",
    "IPReversePathFilter",
    "InNoRoutes",
    "Ip6InNoRoutes",
    "rx_dropped eth0",
    "drop conntrack",
    "XfrmInPolBlock",
]


def test_what_rose_between_the_ends():
    rises = Counts(recorded(2, 9, 5), 1).rose()
    assert [str(one) for one in rises] == [f"{name} +3" for name in RISING]
    assert [one.counter.name for one in of_routing(rises, "ipv4")] == [
        "IpInAddrErrors",
        "IPReversePathFilter",
        "InNoRoutes",
    ]
    assert [one.counter.name for one in of_routing(rises, "ipv6")] == ["Ip6InNoRoutes"]


@pytest.mark.parametrize(
    "made", [recorded(), recorded(1), recorded(5, 5), recorded(5, 2), recorded(1, 5, namespace=2)]
)
def test_nothing_where_nothing_is_known_to_have_risen(made):
    """A counter that is lower is of an interface that was made anew."""
    assert Counts(made, 1).rose() == []


def test_an_interface_that_came_meanwhile_has_no_beginning():
    made = recorded(1, 2)
    text = json.loads(made.snapshots_[0].content) | {"dev": ""}
    first = made.snapshots_[0]
    made.snapshots_[0] = Snapshot(1, 1, "counters", 0, first.source, json.dumps(text).encode())
    assert "rx_dropped" not in [one.counter.name for one in Counts(made, 1).rose()]


@pytest.mark.parametrize(("first_ns", "by"), [(5, 9), (10, 7), (15, 7), (29, 4), (500, 4)])
def test_of_a_ring_it_is_what_rose_since_its_first_event(first_ns, by):
    """As far back as counters were read: before that event, but never at the end alone."""
    made = recorded(1, 3, 6, 10)
    made.streams[0] = Stream(1, 1, "nflog", {"ring_s": 1.0})
    made.chunks_.append(Chunk(1, 1, np.array([first_ns]), np.array([1], np.uint32), b"x"))
    assert {one.by for one in Counts(made, 1).rose()} == {by}


def test_one_counter_at_both_ends():
    failed, missing = Counter("drop", "conntrack"), Counter("nothing", "conntrack")
    assert Counts(recorded(1, 4), 1).rise(failed) == 3
    assert Counts(recorded(4, 1), 1).rise(failed) == 0
    assert Counts(recorded(4, 5), 1).rise(missing) == 0
    assert Counts(recorded(4), 1).rise(failed) is None
    assert Counts(HandMade(), 1).rise(failed) is None


def test_between_which_looks_a_counter_rose():
    failed = Counter("drop", "conntrack")
    assert Counts(recorded(1, 4, 4, 3, 5), 1).rises(failed) == [(0, 10, 3), (30, 40, 2)]
    assert Counts(recorded(4), 1).rises(failed) == []


def test_each_name_is_one_of_the_kernels():
    """As far as this kernel has them: a name that is misspelt would never be told."""
    there = {}
    for path in FILES:
        with_it = f"/proc/net/{path}"
        try:
            with open(with_it) as text:  # noqa: PTH123
                there.update(read({path: text.read()}))
        except OSError:
            continue
    missing = counters._DISCARDS - {one.name for one in there}
    if Counter("XfrmInError") not in there:  # without CONFIG_XFRM_STATISTICS
        missing = {one for one in missing if not one.startswith("Xfrm")}
    assert missing <= MAY_BE_MISSING, sorted(missing - MAY_BE_MISSING)


MAY_BE_MISSING = {
    "insert_failed", "drop", "early_drop", "chaintoolong", "cookie_invalid", "UdpMemErrors", "Udp6MemErrors",
    "TCPAOBad", "TCPAOKeyNotFound", "BeyondWindow", "PFMemallocDrop", "TCPReqQFullDrop", "TCPZeroWindowDrop",
    "TCPRcvQDrop",
}  # fmt: skip
