"""Whose drop it was, by bytes, time and direction; nobody is blamed where it may have been another packet."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from handmade import REASONS, UUID, HandMade, link_message, udp, udp6
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.packets.drop_records import DropRecords

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RULES = (
    f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING {OWN}\n-A OUTPUT {OWN}\nCOMMIT\n"
    "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp --dport 66 -j DROP\nCOMMIT\n"
)
SECOND = 10**9
BEGIN = 1000 * SECOND
ONE, OTHER = udp(ident=1), udp(ident=2)
PLACES = (
    "ip_error+0x94", "nf_hook_slow+0x7d", "neigh_invalidate+0x7e", "tpacket_rcv+0x10", "ping_rcv+0xab",
    "tcp_v4_rcv+0x91", "tcp_rcv_state_process+0x61a", "skb_release_data+0x163", "__udp4_lib_rcv+0x4bc",
    "__dev_queue_xmit+0xdd1", "udp_queue_rcv_one_skb+0x437", "dst_discard_out+0x14",
)  # fmt: skip
NOT_SPECIFIED, NO_SOCKET, BY_RULES, OLD, NEIGHBOUR = 2, 3, 9, 30, 46


def arrived(packet, at_ns=0):
    """Events of a packet that came in and was seen in the raw table alone."""
    return [("raw:PREROUTING:policy:2", packet, {"indev": 2, "stamp_ns": BEGIN + at_ns})]


def forwarded(packet, at_ns=0, end="policy:2"):
    event = {"indev": 2, "outdev": 3, "stamp_ns": BEGIN + at_ns}
    return [*arrived(packet, at_ns), (f"filter:FORWARD:{end}", packet, event)]


def received(packet, at_ns=0):
    event = {"indev": 2, "stamp_ns": BEGIN + at_ns}
    return [*arrived(packet, at_ns), ("filter:INPUT:policy:1", packet, event)]


def sent(packet):
    return [("raw:OUTPUT:policy:2", packet, {"outdev": 1})]


def dropped(packet, at_ns=1_000_000, reason=NOT_SPECIFIED, **more):
    return BEGIN + at_ns, reason, packet, more


FAR = [udp(ident=1, dst=f"10.0.3.{one}") for one in range(40)]
GROUP, BESIDE = udp(dst="224.0.0.9"), udp(ident=1, dst="10.0.3.9")
UDP, QUEUE, SOCKET, NO_DATA = 9, 10, 11, 12  # places
LOST, NOT, PERHAPS = ("DISCARDED", True), ("UNKNOWN", None), ("UNKNOWN", False)
CASES = {  # events, drops; of each packet its verdict and whether its end is sure
    "one": (arrived(ONE), [dropped(ONE)], [LOST]),
    "nobody": (arrived(ONE), [], [NOT]),
    "another": (arrived(ONE), [dropped(OTHER)], [NOT]),
    "of two": ([*arrived(ONE), *arrived(OTHER)], [dropped(OTHER)], [NOT, LOST]),
    "NAT": (arrived(ONE), [dropped(udp(ident=1, dst="10.9.9.9", dport=5353))], [LOST]),
    "TTL": (arrived(ONE), [dropped(udp(ident=1, ttl=9))], [LOST]),
    "short": (arrived(ONE), [dropped(ONE, captured=28)], [LOST]),
    "without a packet": (arrived(ONE), [dropped(ONE, captured=0)], [NOT]),
    "before": (arrived(ONE, SECOND), [dropped(ONE, -SECOND)], [NOT]),
    "too late": (arrived(ONE), [dropped(ONE, 3 * SECOND)], [NOT]),
    "late": (forwarded(ONE), [dropped(ONE, 3 * SECOND, NEIGHBOUR, place=3, at=3)], [LOST]),
    "equal": ([*arrived(ONE), *arrived(ONE, 1000)], [dropped(ONE)], [PERHAPS, PERHAPS]),
    "both": ([*arrived(ONE), *arrived(ONE, 1000)], [dropped(ONE), dropped(ONE)], [LOST, LOST]),
    "ports": ([*arrived(udp(sport=1)), *arrived(udp(sport=2))], [dropped(udp(sport=2))], [NOT, LOST]),
    "long after": (
        [*arrived(ONE), *arrived(ONE, 2 * SECOND)], [dropped(ONE, 2 * SECOND + 1_000_000)], [NOT, LOST],
    ),
    "looped back": ([*sent(ONE), *arrived(ONE)], [dropped(ONE, iif=1)], [NOT, LOST]),
    "sent": ([*sent(ONE), *arrived(ONE)], [dropped(ONE, iif=0)], [LOST, NOT]),
    "other namespace": (arrived(ONE), [dropped(ONE, netns=7)], [NOT]),
    "unknown namespace": (arrived(ONE), [dropped(ONE, netns=0)], [LOST]),
    "a copy for tcpdump": (arrived(ONE), [dropped(ONE, place=4)], [NOT]),
    "a ping's answer": (arrived(ONE), [dropped(ONE, reason=NO_SOCKET, place=5)], [NOT]),
    "the end of a connection": (arrived(ONE), [dropped(ONE, place=6)], [NOT]),
    "the last but one": (arrived(ONE), [dropped(ONE, reason=OLD, place=7)], [NOT]),
    "put together": (arrived(ONE), [dropped(ONE, place=8)], [NOT]),
    "of equal ones who went no further": (
        [*forwarded(ONE), *arrived(ONE, 1000)], [dropped(ONE)], [("ACCEPT", None), LOST],
    ),
    "no socket of TCP": (arrived(ONE), [dropped(ONE, reason=NO_SOCKET, place=6)], [LOST]),
    "by a rule": (
        forwarded(ONE, end="rule:1"), [dropped(ONE, reason=BY_RULES, place=2)], [("DROP", None)],
    ),
    "many equal": (
        [one for _ in range(100) for one in arrived(ONE)], [dropped(ONE)] * 3, [PERHAPS] * 100,
    ),
    "all of many": (
        [one for _ in range(100) for one in arrived(ONE)], [dropped(ONE)] * 100, [LOST] * 100,
    ),
    "now and then": (
        [*arrived(ONE), *arrived(ONE), *arrived(ONE, 2 * SECOND), *arrived(ONE, 2 * SECOND)],
        [dropped(ONE), dropped(ONE, 2 * SECOND + 1000), dropped(ONE, 2 * SECOND + 2000)],
        [PERHAPS, PERHAPS, LOST, LOST],
    ),
    "to another address": (forwarded(ONE), [dropped(BESIDE, at=3, place=QUEUE)], [("ACCEPT", None)]),
    "from another address": (arrived(ONE), [dropped(udp(ident=1, src="10.9.9.9"))], [NOT]),
    "for this host": (
        [*forwarded(ONE), *received(ONE), *forwarded(ONE)], [dropped(ONE, place=UDP)],
        [("ACCEPT", None), LOST, ("ACCEPT", None)],
    ),
    "not for this host": (
        [*received(ONE), *forwarded(ONE)], [dropped(ONE, at=3, place=QUEUE)], [("ACCEPT", None), LOST],
    ),
    "at another device": (forwarded(ONE), [dropped(ONE, at=4, place=QUEUE)], [("ACCEPT", None)]),
    "many to different addresses": (
        [one for packet in FAR for one in arrived(packet)], [dropped(packet) for packet in FAR[::2]],
        [LOST, NOT] * 20,
    ),
    "behind NAT of many": (
        [one for packet in FAR for one in arrived(packet)], [dropped(udp(ident=1, dst="10.9.9.9"))],
        [PERHAPS] * 40,
    ),
    "a socket of a group's": (
        received(GROUP), [dropped(GROUP, place=SOCKET, cloned=True)], [("ACCEPT", False)],
    ),
    "the socket of a group": (received(GROUP), [dropped(GROUP, place=SOCKET)], [LOST]),
    "a socket, and tcpdump": (received(ONE), [dropped(ONE, place=SOCKET, cloned=True)], [LOST]),
    "without data": (received(ONE), [dropped(ONE, place=NO_DATA)], [LOST]),
    "IPv6": (arrived(udp6()), [dropped(udp6())], [LOST]),
}  # fmt: skip


def recorded(events, drops):
    made = HandMade(facts=HandMade().facts)
    made.ruleset(RULES).ruleset(RULES, kind="ip6tables-save")
    for one in events:
        made.events([one], start_ns=one[2].get("stamp_ns", BEGIN) + 1000, step_ns=0)
    return made.drops(drops, PLACES) if drops else made


@pytest.mark.parametrize("case", CASES)
def test_whose_it_was(case):
    events, drops, expected = CASES[case]
    found = list(Packets(recorded(events, drops)))
    assert [(one.verdict, one.end and one.end.sure) for one in found] == expected
    assert [one.complete for one in found if one.verdict == "DISCARDED"] == [True] * expected.count(
        LOST
    )
    unsure = [one for one in found if one.end and not one.end.sure]
    assert all(
        (one.ambiguous and "equal packets, perhaps this one" in one.reason)
        or one.end.text.startswith("perhaps none of its copies arrived; one was dropped: ")
        for one in unsure
    )


def test_an_end_says_all_that_is_known():
    """The reason in the kernel's word and in ours, the place, and the moment."""
    (found,) = Packets(recorded(arrived(ONE), [dropped(ONE, 5000)]))
    end = found.end
    assert (end.source, end.reason, end.where) == ("seen", "NOT_SPECIFIED", "ip_error+0x94")
    assert end.text == "a route blackholes, prohibits or refuses the destination"
    assert (end.time_ns, end.source) == (BEGIN + 5000, "seen")


@pytest.mark.parametrize(
    ("events", "text"),
    [
        (received(ONE), "nothing follows its headers (next header 59)"),
        (arrived(ONE), "a route blackholes the destination"),
    ],
)
def test_what_one_function_discards_for_two_reasons(events, text):
    (found,) = Packets(recorded(events, [dropped(ONE, place=NO_DATA)]))
    assert found.end.text == text


NAME, MASTER = 3, 10  # IFLA_
LINKS = b"".join(
    link_message(16, index, (NAME, name), *((MASTER, struct.pack("I", 3)) for _ in range(below)))
    for index, name, below in ((3, b"br0\0", False), (4, b"p1\0", True), (5, b"p2\0", False))
)


@pytest.mark.parametrize(
    ("at", "cloned", "expected"),
    [
        (4, True, ("ACCEPT", False)),  # another port may have sent another copy
        (4, False, LOST),  # it went out by this port alone
        (5, True, ("ACCEPT", None)),  # a copy that tc, or a rule, sent out elsewhere
        (3, True, LOST),  # tcpdump has a copy, too
    ],
)
def test_a_copy_at_a_port_of_a_bridge(at, cloned, expected):
    made = recorded(forwarded(ONE), [dropped(ONE, place=QUEUE, at=at, cloned=cloned)])
    made.snapshot("links", LINKS)
    (found,) = Packets(made)
    assert (found.verdict, found.end and found.end.sure) == expected


@pytest.mark.parametrize(
    ("events", "drop", "disagree"),
    [
        (forwarded(ONE), dropped(ONE, reason=BY_RULES, place=2), 1),
        (forwarded(ONE, end="rule:1"), dropped(ONE, reason=BY_RULES, place=2), 0),
        (forwarded(ONE, end="rule:1"), dropped(ONE), 1),
        (forwarded(ONE), dropped(ONE), 0),
        (
            arrived(ONE),
            dropped(ONE, reason=BY_RULES, place=2),
            0,
        ),  # no rule is known to have let it pass
    ],
)
def test_the_kernel_and_the_rules(events, drop, disagree):
    """Netfilter's drops are those of rules: what differs is counted."""
    assert summarize(recorded(events, [drop])).disagree == disagree


def test_reasons_are_counted():
    drops = [dropped(ONE), dropped(OTHER, reason=NO_SOCKET)]
    summary = summarize(recorded([*arrived(ONE), *arrived(OTHER)], drops))
    assert summary.ends == {"NOT_SPECIFIED": 1, "NO_SOCKET": 1}
    assert summary.verdicts == {"DISCARDED": 2}


MOMENTS = st.integers(0, 50).map(lambda one: one * 1_000_000)
IDENTS = st.integers(1, 3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(IDENTS, MOMENTS), min_size=1, max_size=30),
    st.lists(st.tuples(IDENTS, MOMENTS, st.sampled_from([*REASONS])), max_size=30),
)
def test_no_more_are_lost_than_were_dropped(packets, drops):
    """Whatever there is: each drop is of one packet at most, and who is DISCARDED is surely so."""
    events = [
        one
        for ident, at in sorted(packets, key=lambda one: one[1])
        for one in arrived(udp(ident=ident), at)
    ]
    told = [dropped(udp(ident=ident), at, reason) for ident, at, reason in drops]
    found = list(Packets(recorded(events, told)))
    assert len(found) == len(packets)
    lost = Counter(
        (one.header["id"], one.end.time_ns, one.end.reason)
        for one in found
        if one.verdict == "DISCARDED"
    )
    there = Counter((ident, BEGIN + at, REASONS[reason]) for ident, at, reason in drops)
    assert lost <= there
    assert all(one.end.sure for one in found if one.verdict == "DISCARDED")
    assert all(one.ambiguous for one in found if one.end and not one.end.sure)


def test_names_are_looked_up_once_a_chunk(monkeypatch):
    """However many places nobody named: a made-up file may have a new one in each record."""
    looked, look_up = [], DropRecords._look_up
    monkeypatch.setattr(DropRecords, "_look_up", lambda own: looked.append(own) or look_up(own))
    list(Packets(recorded(arrived(ONE), [dropped(ONE, place=100 + i) for i in range(50)])))
    assert len(looked) == 1
