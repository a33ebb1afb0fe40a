"""Whose drop it was, by bytes, time and direction; nobody is blamed where it may have been another packet."""

from __future__ import annotations

import ipaddress
import json
import struct
from collections import Counter

import pytest
from handmade import REASONS, UUID, HandMade, attribute, netlink, sent_from, summed, udp, udp6
from hypothesis import given
from hypothesis import strategies as st

from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.decode.snapshots import NETLINK
from iptrec.packets import window
from iptrec.packets.drop_records import DropRecords
from iptrec.packets.in_flight import EQUAL
from iptrec.recording.rows import Loss, Snapshot

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
    "tcp_v4_rcv+0x91", "tcp_rcv_state_process+0x61a", "skb_release_data+0x163", "__udp4_lib_rcv+0x1",
    "__dev_queue_xmit+0xdd1", "raw_rcv+0x50", "vxlan_xmit_one+0x2", "nf_dup_ipv4+0x9",
    "ip_rcv_core+0x1", "__udp4_lib_rcv+0x9",
)  # fmt: skip
CLONED, ALONE = 2, 4
NOT_SPECIFIED, NO_SOCKET, FULL, BY_RULES, OLD, NEIGHBOUR, QUEUE = 2, 3, 7, 9, 30, 46, 53


def arrived(packet, at_ns=0):
    """Events of a packet that came in and was seen in the raw table alone."""
    return [("raw:PREROUTING:policy:2", packet, {"indev": 2, "stamp_ns": BEGIN + at_ns})]


def forwarded(packet, at_ns=0, end="policy:2", out=3):
    event = {"indev": 2, "outdev": out, "stamp_ns": BEGIN + at_ns}
    return [*arrived(packet, at_ns), (f"filter:FORWARD:{end}", packet, event)]


def delivered(packet, at_ns=0):
    """One that came to INPUT."""
    event = {"indev": 2, "stamp_ns": BEGIN + at_ns}
    return [*arrived(packet, at_ns), ("filter:INPUT:policy:1", packet, event)]


REWRITTEN = udp(ident=1, dst="10.0.9.9")


def rewritten(packet, at_ns=0):
    """One that goes on with another destination."""
    event = {"indev": 2, "outdev": 3, "stamp_ns": BEGIN + at_ns}
    return [*arrived(packet, at_ns), ("filter:FORWARD:policy:2", REWRITTEN, event)]


def go_on_and_stay(living, dead):
    """Equal packets of which some were seen rewritten, and others were not seen again."""
    first = [one for at in range(living) for one in rewritten(ONE, at)]
    return [*first, *(one for at in range(dead) for one in arrived(ONE, 1000 + at))]


def sent(packet, out=1):
    return [("raw:OUTPUT:policy:2", packet, {"outdev": out})]


def dropped(packet, at_ns=1_000_000, reason=NOT_SPECIFIED, **more):
    return BEGIN + at_ns, reason, packet, more


LOST, NOT, PERHAPS = ("DISCARDED", True), ("UNKNOWN", None), ("UNKNOWN", False)
ON = ("ACCEPT", None)
EITHER = ("DISCARDED", False)  # for one of several reasons
GROUP = udp(dst="224.0.0.9")
UNTIMED = ("raw:PREROUTING:policy:2", ONE, {"indev": 2})
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
    "late": (forwarded(ONE), [dropped(ONE, 3 * SECOND, NEIGHBOUR, place=3, device=3)], [LOST]),
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
    "both, at one place of a function and another": (
        [*arrived(ONE), *arrived(ONE, 1000)],
        [dropped(ONE, reason=NO_SOCKET, place=9), dropped(ONE, reason=NO_SOCKET, place=15)], [LOST, LOST],
    ),
    "both, in one function and another": (
        [*arrived(ONE), *arrived(ONE, 1000)],
        [dropped(ONE, reason=NO_SOCKET, place=9), dropped(ONE, reason=NO_SOCKET, place=6)], [LOST, LOST],
    ),
    "both, for one reason and another": (
        [*arrived(ONE), *arrived(ONE, 1000)],
        [dropped(ONE, reason=NO_SOCKET, place=9), dropped(ONE, reason=FULL, place=9)], [EITHER, EITHER],
    ),
    "all of many, for one reason and another": (
        [one for _ in range(21) for one in arrived(ONE)],
        [dropped(ONE, reason=NO_SOCKET, place=9)] * 11 + [dropped(ONE, reason=FULL, place=9)] * 10,
        [EITHER] * 21,
    ),
    "both, perhaps a socket's copy": (
        [*arrived(GROUP), *arrived(GROUP, 1000)],
        [dropped(GROUP, reason=NO_SOCKET, place=9), dropped(GROUP, reason=FULL, place=9)],
        [PERHAPS, PERHAPS],
    ),
    "both, one of them perhaps of a raw socket": (
        [*arrived(ONE), *arrived(ONE, 1000)],
        [dropped(ONE, reason=NO_SOCKET, place=9), dropped(ONE, reason=FULL, place=11, flags=CLONED)],
        [PERHAPS, PERHAPS],
    ),
    "more than all": (
        [*arrived(ONE), *arrived(ONE, 1000)],
        [dropped(ONE), dropped(ONE, reason=NO_SOCKET, place=9), dropped(ONE)], [PERHAPS, PERHAPS],
    ),
    "many equal": (
        [one for _ in range(100) for one in arrived(ONE)], [dropped(ONE)] * 3, [PERHAPS] * 100,
    ),
    "all of many": (
        [one for _ in range(100) for one in arrived(ONE)], [dropped(ONE)] * 100, [LOST] * 100,
    ),
    "of many that go elsewhere": (
        [one for host in range(100) for one in arrived(udp(ident=1, dst=f"10.1.0.{host}"))],
        [dropped(udp(ident=1, dst="10.1.0.7")), dropped(udp(ident=1, dst="10.1.0.8"))],
        [LOST if host in (7, 8) else NOT for host in range(100)],
    ),
    "of many, some of them equal": (
        [one for host in [*range(20), *[7] * 20] for one in arrived(udp(ident=1, dst=f"10.1.0.{host}"))],
        [dropped(udp(ident=1, dst="10.1.0.7")), dropped(udp(ident=1, dst="10.1.0.8"))],
        [
            {7: PERHAPS, 8: LOST}.get(host, NOT) for host in [*range(20), *[7] * 20]
        ],
    ),
    "of many before NAT": (
        [one for host in range(20) for one in arrived(udp(ident=1, dst=f"10.1.0.{host}"))],
        [dropped(udp(ident=1, dst="10.9.9.9"))], [PERHAPS] * 20,
    ),
    "what is for this host is not forwarded": (
        forwarded(ONE), [dropped(ONE, reason=NO_SOCKET, place=9)], [("ACCEPT", None)],
    ),
    "a socket's copy": (
        arrived(udp(dst="224.0.0.9")), [dropped(udp(dst="224.0.0.9"), reason=FULL, place=9)], [PERHAPS],
    ),
    "a socket's own": (
        arrived(udp(dst="10.0.0.9")), [dropped(udp(dst="10.0.0.9"), reason=FULL, place=9)], [LOST],
    ),
    "a socket's copy, told": (
        arrived(udp(dst="224.0.0.9")), [dropped(udp(dst="224.0.0.9"), reason=FULL, place=9, flags=CLONED)],
        [PERHAPS],
    ),
    "the only socket of a group": (
        arrived(udp(dst="224.0.0.9")), [dropped(udp(dst="224.0.0.9"), reason=FULL, place=9, flags=ALONE)],
        [LOST],
    ),
    "a multicast that was forwarded unseen": (
        arrived(udp(dst="224.0.0.9")), [dropped(udp(dst="224.0.0.9"), reason=QUEUE, place=10, flags=ALONE)],
        [PERHAPS],
    ),
    "flooded unseen": (arrived(ONE), [dropped(ONE, reason=QUEUE, place=10, flags=CLONED)], [PERHAPS]),
    "not flooded": (arrived(ONE), [dropped(ONE, reason=QUEUE, place=10, flags=ALONE)], [LOST]),
    "flooded or not": (arrived(ONE), [dropped(ONE, reason=QUEUE, place=10)], [LOST]),
    "asked for the neighbour with it": (
        arrived(ONE), [dropped(ONE, reason=NEIGHBOUR, place=3, flags=CLONED)], [LOST],
    ),
    "at another device": (
        forwarded(ONE), [dropped(ONE, reason=QUEUE, place=10, device=9)], [("ACCEPT", False)],
    ),
    "of two, by the device": (
        [*forwarded(ONE), *forwarded(ONE, 1000, out=9)], [dropped(ONE, reason=QUEUE, place=10, device=9)],
        [("ACCEPT", None), LOST],
    ),
    "of many, by the device": (
        [one for i in range(40) for one in forwarded(ONE, i, out=3 + i % 2)],
        [dropped(ONE, reason=QUEUE, place=10, device=4)] * 20, [("ACCEPT", None), LOST] * 20,
    ),
    "a copy that was sent on": (
        [*forwarded(ONE), *sent(ONE, out=9)], [dropped(ONE, reason=QUEUE, place=10, device=9)],
        [("ACCEPT", None), LOST],
    ),
    "itself, and not its copy": (
        [*forwarded(ONE), *sent(ONE, out=9)], [dropped(ONE, reason=QUEUE, place=10, device=3)],
        [LOST, NOT],
    ),
    "itself, or its copy": (
        [*arrived(ONE), *sent(ONE, out=9)], [dropped(ONE, reason=QUEUE, place=10, device=9)],
        [PERHAPS, PERHAPS],
    ),
    "a raw socket's copy": (arrived(ONE), [dropped(ONE, reason=FULL, place=11, flags=CLONED)], [PERHAPS]),
    "a VXLAN's copy": (arrived(ONE), [dropped(ONE, place=12, flags=CLONED)], [PERHAPS]),
    "a copy that TEE had no route for": (arrived(ONE), [dropped(ONE, place=13, flags=ALONE)], [NOT]),
    "many behind DNAT": (go_on_and_stay(20, 20), [dropped(REWRITTEN)] * 20, [*[ON] * 20, *[LOST] * 20]),
    "few of many behind DNAT": (
        go_on_and_stay(20, 20), [dropped(REWRITTEN)] * 3, [*[ON] * 20, *[PERHAPS] * 20],
    ),
    "few that live behind DNAT": (
        go_on_and_stay(3, 20), [dropped(REWRITTEN)] * 20, [*[ON] * 3, *[LOST] * 20],
    ),
    "whose steps may be an equal one's": (
        [UNTIMED, UNTIMED, ("filter:FORWARD:policy:2", ONE, {"indev": 2, "outdev": 3})],
        [dropped(ONE, reason=QUEUE, place=10)], [ON, PERHAPS],
    ),
    "all, or others that nobody traces": (
        [*arrived(ONE), *arrived(ONE, 1000)], [dropped(ONE)] * 3, [PERHAPS, PERHAPS],
    ),
    "now and then": (
        [*arrived(ONE), *arrived(ONE), *arrived(ONE, 2 * SECOND), *arrived(ONE, 2 * SECOND)],
        [dropped(ONE), dropped(ONE, 2 * SECOND + 1000), dropped(ONE, 2 * SECOND + 2000)],
        [PERHAPS, PERHAPS, LOST, LOST],
    ),
    "of two for this host, by where they go": (
        [*delivered(udp(dport=53)), *delivered(udp(dport=54))],
        [
            dropped(udp(src="10.7.0.1", dport=53), reason=FULL, place=9, flags=ALONE),
            dropped(udp(src="10.7.0.1", dport=54), reason=NO_SOCKET, place=9),
        ],
        [LOST, LOST],
    ),
    "IPv6": (arrived(udp6()), [dropped(udp6())], [LOST]),
}  # fmt: skip


def recorded(events, drops):
    made = HandMade(facts=HandMade().facts)
    made.ruleset(RULES).ruleset(RULES, kind="ip6tables-save")
    for one in events:
        made.events([one], start_ns=one[2].get("stamp_ns", BEGIN) + 1000, step_ns=0)
    return made.drops(drops, PLACES) if drops else made


# Equal packets for a neighbour, before the end of a window and behind it; how many are dropped.
WAITING = {
    "one and one": (1, 1, 2, [LOST, LOST]),
    "two and one": (2, 1, 3, [(ON[0], False), (ON[0], False), LOST]),
    "one and two": (1, 2, 3, [LOST, LOST, LOST]),
    "one of two behind": (1, 2, 2, [LOST, (ON[0], False), (ON[0], False)]),
    "none behind": (1, 1, 1, [LOST, ON]),
}


@pytest.mark.parametrize("case", WAITING)
def test_records_for_packets_of_the_next_window(case, monkeypatch):
    """They wait for the same neighbour, and are dropped together."""
    monkeypatch.setattr(window, "WINDOW_EVENTS", 20)
    before, behind, many, expected = WAITING[case]
    others = [
        one for at in range(60) for one in forwarded(udp(ident=100 + at), (at + 1) * SECOND // 100)
    ]
    equal = [one for at in range(before) for one in forwarded(ONE, at)]
    equal += [*others, *(one for at in range(behind) for one in forwarded(ONE, SECOND + at))]
    drops = [dropped(ONE, 3 * SECOND + at, NEIGHBOUR, place=3, device=3) for at in range(many)]
    found = [one for one in Packets(recorded(equal, drops)) if one.header["id"] == 1]
    assert [(one.verdict, one.end and one.end.sure) for one in found] == expected


@pytest.mark.parametrize(("lost_ns", "told"), [(0, PERHAPS), (5 * SECOND, LOST)])
def test_a_rule_whose_event_was_lost(lost_ns, told):
    """That no rule tells of a drop by netfilter is sure only where no event was lost."""
    made = recorded(arrived(ONE), [dropped(ONE, reason=BY_RULES, place=2)])
    made.losses.append(Loss(1, BEGIN + lost_ns, BEGIN + lost_ns + SECOND, 3, "sequence"))
    (found,) = Packets(made)
    assert (found.verdict, found.end and found.end.sure) == told
    assert ("whose event was lost" in (found.reason or "")) is (told == PERHAPS)


def test_a_rule_whose_text_is_not_known():
    """Netfilter dropped the packet, and that rule may have: that none tells of it is not known."""
    event = "filter:FORWARD:rule:1", ONE, {"indev": 2, "outdev": 3, "stamp_ns": BEGIN}
    made = recorded([*arrived(ONE), event], [dropped(ONE, reason=BY_RULES, place=2)])
    made.ruleset("filter", kind="iptables-unknown", time_ns=1, after_ns=0)
    (found,) = Packets(made)
    assert (found.verdict, found.end and found.end.sure) == ("UNKNOWN", False)
    assert found.reason == (
        "the rules of table filter at that time are not known; netfilter dropped it, perhaps by a rule of these"
    )


@pytest.mark.parametrize("case", CASES)
def test_whose_it_was(case):
    events, drops, expected = CASES[case]
    found = list(Packets(recorded(events, drops)))
    assert [(one.verdict, one.end and one.end.sure) for one in found] == expected
    assert [one.complete for one in found if one.verdict == "DISCARDED"] == [True] * sum(
        verdict == "DISCARDED" for verdict, _ in expected
    )
    unsure = [one for one in found if one.end and not one.end.sure]
    words = (
        "equal packets, perhaps this one",
        "all 2 of these equal packets, or others that read the same",
        "dropped it, or one of its copies and not all",
        EQUAL,
        "of these equal packets, 1 for NO_SOCKET, 1 for SOCKET_RCVBUFF",
        "of these equal packets, 11 for NO_SOCKET, 10 for SOCKET_RCVBUFF",
    )
    assert all(one.ambiguous and one.reason.endswith(words) for one in unsure)


def long6(end, *, sport=1000, last=2):
    """A packet of IPv6 whose payload begins as that of others does; ``last``: of where it goes to."""
    packet = udp6(b"z" * 20 + end)
    return packet[:39] + bytes([last]) + struct.pack("!H", sport) + packet[42:]


def masqueraded(*packets):
    return [sent_from(one, "fd00::9" if one[0] >> 4 == 6 else "10.0.9.9") for one in packets]


def gone(*packets):
    """Records of packets that waited for a neighbour, and nothing told which."""
    return [dropped(one, 3 * SECOND, NEIGHBOUR, place=3, device=3) for one in packets]


A, B = (summed(long6(end)) for end in (b"one", b"two"))
FAR, NEAR = (summed(long6(b"one", last=last)) for last in (3, 4))
SOON, LATER = (summed(long6(end), waits=True) for end in (b"one", b"two"))
FOUR = [summed(udp(b"z" * 20 + end, ident=0)) for end in (b"one", b"two")]
MANY = [summed(long6(b"%03d" % number)) for number in range(60)]
TO_MANY = [summed(long6(b"", last=number + 3)) for number in range(60)]
WAITS = [summed(one, waits=True) for one in masqueraded(LATER)]
MAYBE = ("ACCEPT", False)
BEHIND_NAT = {  # packets that were forwarded; those that died, with another source; what is told
    "payloads that go on unlike": ([A, B], masqueraded(B), [ON, LOST]),
    "both": ([A, B], masqueraded(B, A), [LOST, LOST]),
    "IPv4": (FOUR, masqueraded(FOUR[1]), [ON, LOST]),
    "other destinations": ([FAR, NEAR], masqueraded(NEAR), [ON, LOST]),
    "an equal one": ([A, A, B], masqueraded(A), [MAYBE, MAYBE, ON]),
    "no checksum yet": ([SOON, LATER], WAITS, [MAYBE, MAYBE]),
    "a checksum that came later": ([SOON, LATER], masqueraded(LATER), [MAYBE, MAYBE]),
    "one that may have got it later": ([SOON, A, B], masqueraded(A), [MAYBE, MAYBE, ON]),
    "many": (MANY, masqueraded(*MANY[::2]), [LOST, ON] * 30),
    "many, some of them twice": (
        MANY * 2,
        masqueraded(*MANY[:30]) * 2,
        ([LOST] * 30 + [ON] * 30) * 2,
    ),
    "many destinations": (TO_MANY, masqueraded(*TO_MANY[::2]), [LOST, ON] * 30),
    "many of few destinations": ([FAR, NEAR] * 30, masqueraded(NEAR) * 30, [ON, LOST] * 30),
}


@pytest.mark.parametrize("case", BEHIND_NAT)
def test_unlike_packets_behind_nat(case):
    """Their source is another one by then."""
    packets, died, expected = BEHIND_NAT[case]
    events = [one for at, packet in enumerate(packets) for one in forwarded(packet, at * 1000)]
    found = Packets(recorded(events, gone(*died)))
    assert [(one.verdict, one.end and one.end.sure) for one in found] == expected


def test_a_destination_that_nobody_saw_translated():
    """After the raw table it may be another one: what goes there was not seen to be it."""
    events = [*arrived(FAR), *forwarded(NEAR, 1000)]
    found = list(Packets(recorded(events, gone(*masqueraded(NEAR)))))
    assert [one.end and one.end.sure for one in found] == [False, False]


def of_any(packet, at_ns=1_000_000, reason=NOT_SPECIFIED, *, alone=False, **more):
    """A record of the host's drop monitor; ``alone``: where there are no other namespaces."""
    return dropped(packet, at_ns, reason, **{"netns": int(alone), "device": 0, "flags": 8, **more})


def alone(packet, **more):
    return of_any(packet, alone=True, **more)


def delivered(packet):
    """Events of one that came to INPUT."""
    return [*arrived(packet), ("filter:INPUT:policy:1", packet, {"indev": 2, "stamp_ns": BEGIN})]


OF_ANY = {  # events, records of any packets; of each packet its verdict and whether its end is sure
    "of the only namespace": (arrived(ONE), [alone(ONE)], [LOST]),
    "perhaps of another namespace": (arrived(ONE), [of_any(ONE)], [PERHAPS]),
    "by another interface": (arrived(ONE), [alone(ONE, iif=3)], [NOT]),
    "by another interface, elsewhere": (arrived(ONE), [of_any(ONE, iif=3)], [NOT]),
    "where nothing is traced yet": (arrived(ONE), [alone(ONE, place=14)], [PERHAPS]),
    "a hook before tracing": (
        forwarded(ONE), [alone(ONE, reason=BY_RULES, place=2)], [("ACCEPT", False)],
    ),
    "what went on, in another namespace": (
        forwarded(ONE), [of_any(ONE, reason=NO_SOCKET, place=9)], [("ACCEPT", None)],
    ),
    "what was sent": ([*sent(ONE), *arrived(ONE)], [alone(ONE, iif=0, place=10)], [LOST, NOT]),
    "what arrived is sent nowhere": (
        delivered(ONE), [alone(ONE, reason=QUEUE, place=10)], [("ACCEPT", None)],
    ),
    "no socket": (delivered(ONE), [alone(ONE, reason=NO_SOCKET, place=9)], [LOST]),
    "no socket, or elsewhere": (
        delivered(ONE), [of_any(ONE, reason=NO_SOCKET, place=9)], [("ACCEPT", False)],
    ),
    "by a rule": (
        forwarded(ONE, end="rule:1"), [of_any(ONE, reason=BY_RULES, place=2)], [("DROP", None)],
    ),
    "both": (
        [*arrived(ONE), *arrived(ONE, 1000)], [of_any(ONE), of_any(ONE)], [PERHAPS, PERHAPS],
    ),
    "as many by another interface": (
        [one for _ in range(20) for one in arrived(ONE)], [alone(ONE, iif=3)] * 20, [NOT] * 20,
    ),
    "as many": ([one for _ in range(20) for one in arrived(ONE)], [alone(ONE)] * 20, [LOST] * 20),
    "as many, perhaps elsewhere": (
        [one for _ in range(20) for one in arrived(ONE)], [of_any(ONE)] * 20, [PERHAPS] * 20,
    ),
    "one here, one elsewhere or here": (arrived(ONE), [alone(ONE, place=14), alone(ONE)], [LOST]),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_ANY)
def test_records_of_any_packets(case):
    """A packet that is not traced, or is of another namespace, may be equal: nobody who lives is blamed."""
    events, drops, expected = OF_ANY[case]
    found = list(Packets(recorded(events, drops)))
    assert [(one.verdict, one.end and one.end.sure) for one in found] == expected
    assert all(one.ambiguous for one in found if one.end and not one.end.sure)


def test_rules_do_not_differ_from_what_may_be_elsewhere():
    made = recorded(forwarded(ONE), [of_any(ONE, reason=BY_RULES, place=2)])
    assert summarize(made).disagree == 0


def test_a_port_of_a_bridge_that_nobody_tells():
    """Which interface it was at is not in such a record: another port may have sent its copy."""
    made = recorded(forwarded(ONE), [alone(ONE, reason=QUEUE, place=10)])
    links = [{"index": 3, "name": "br0", "linkinfo": {"kind": "bridge"}}]
    made.snapshots_.append(Snapshot(99, 1, "links", 0, "links", json.dumps(links).encode()))
    (found,) = Packets(made)
    assert (found.verdict, found.end.sure) == ("ACCEPT", False)


LINKS = [
    {"index": 3, "name": "br0", "linkinfo": {"kind": "bridge"}},
    {"index": 4, "name": "port", "master": 3, "link": 77, "linkinfo": {"kind": "veth"}},
    {"index": 5, "name": "upper", "link": 6},
    {"index": 7, "name": "stranger", "link": 3, "link_netnsid": 0},
]


@pytest.mark.parametrize(
    ("device", "flags", "sure"),
    [
        (3, 0, True), (4, 0, False), (4, CLONED, False), (4, ALONE, True), (0, 0, True),
        (5, ALONE, False), (7, ALONE, False), (77, ALONE, False),
    ],
)  # fmt: skip
def test_what_is_sent_by_what_lies_below(device, flags, sure):
    """A bridge sends a copy by each port: one that dies there does not tell what became of the others."""
    drop = dropped(ONE, reason=QUEUE, place=10, device=device, flags=flags)
    made = recorded(forwarded(ONE), [drop])
    made.snapshots_.append(Snapshot(99, 1, "links", 0, "links", json.dumps(LINKS).encode()))
    (found,) = Packets(made)
    assert found.end.sure == sure
    assert (found.verdict == "DISCARDED") == sure


@pytest.mark.parametrize(
    ("to", "sure"), [("10.0.0.255", False), ("10.0.0.200", False), ("10.0.0.3", True)]
)
@pytest.mark.parametrize("flags", [0, CLONED])
def test_broadcasts_are_those_of_routes(to, sure, flags):
    """Whatever they look like: each socket gets a copy of a broadcast."""
    drop = dropped(udp(dst=to), reason=FULL, place=9, flags=flags)
    made = recorded(arrived(udp(dst=to)), [drop])
    listed = b"".join(broadcast_route(one) for one in ("10.0.0.255", "10.0.0.200"))
    made.snapshots_.append(Snapshot(99, 1, "routes", 0, "routes", listed, media=NETLINK))
    (found,) = Packets(made)
    assert found.end.sure == sure


@pytest.mark.parametrize(
    ("more", "event", "sure"),
    [
        ({}, {}, True),
        ({"net/ipv4/conf/all/mc_forwarding": "1"}, {}, False),
        ({"net/ipv4/conf/all/mc_forwarding": None}, {}, False),
        (None, {}, False),
        ({}, {"physin": 4}, False),
    ],
    ids=["nobody routes them", "routed", "not known whether", "no settings", "by a bridge"],
)
def test_a_group_that_is_not_routed_has_no_copy_elsewhere(more, event, sure):
    """Whoever listened got a copy of it, as of any packet; where it may have been forwarded one lives on."""
    made = HandMade().ruleset(RULES)
    given = {"indev": 2, "stamp_ns": BEGIN} | event
    made.events([("raw:PREROUTING:policy:2", GROUP, given)], start_ns=BEGIN + 1000, step_ns=0)
    made.drops([dropped(GROUP, reason=NO_SOCKET, place=9, flags=CLONED)], PLACES)
    if more is not None:
        off = {f"net/{one}/conf/all/mc_forwarding": "0" for one in ("ipv4", "ipv6")}
        told = {key: value for key, value in (off | more).items() if value is not None}
        made.snapshot("sysctls", json.dumps(told).encode(), 1)
    (found,) = Packets(made)
    assert found.end.sure == sure
    assert found.verdict == ("DISCARDED" if sure else "UNKNOWN")


@pytest.mark.parametrize(
    ("packet", "port", "sure"), [(GROUP, 4, False), (GROUP, None, True), (ONE, 4, True)]
)
def test_what_a_bridge_floods_lives_on_where_it_has_let_go_of_it(packet, port, sure):
    """The host's own copy had no route, and shares its bytes with nobody any more."""
    made = HandMade().ruleset(RULES)
    given = {"indev": 2, "stamp_ns": BEGIN} | ({} if port is None else {"physin": port})
    made.events([("raw:PREROUTING:policy:2", packet, given)], start_ns=BEGIN + 1000, step_ns=0)
    made.drops([dropped(packet)], PLACES)
    (found,) = Packets(made)
    assert (found.end.sure, found.verdict) == (sure, "DISCARDED" if sure else "UNKNOWN")


def broadcast_route(to):
    """A route of the local table (struct rtmsg; RTA_DST)."""
    head = struct.pack("<BBBBBBBBI", 2, 32, 0, 0, 255, 2, 253, 3, 0)
    return netlink(24, head + attribute(1, ipaddress.ip_address(to).packed))


def test_an_end_says_all_that_is_known():
    """The reason in the kernel's word and in ours, the place, and the moment."""
    (found,) = Packets(recorded(arrived(ONE), [dropped(ONE, 5000)]))
    end = found.end
    assert (end.source, end.reason, end.where) == ("seen", "NOT_SPECIFIED", "ip_error+0x94")
    assert end.text == "a route blackholes, prohibits or refuses the destination"
    assert (end.time_ns, end.source) == (BEGIN + 5000, "seen")


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


@given(
    st.lists(st.tuples(IDENTS, MOMENTS), min_size=1, max_size=30),
    st.lists(st.tuples(IDENTS, MOMENTS, st.sampled_from([*REASONS])), max_size=30),
)
def test_no_more_are_lost_than_were_dropped(packets, drops):
    """Whatever there is: each drop is of one packet at most, and who is DISCARDED was dropped."""
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
        if one.verdict == "DISCARDED" and one.end.sure
    )
    there = Counter((ident, BEGIN + at, REASONS[reason]) for ident, at, reason in drops)
    assert lost <= there
    gone = Counter(
        (one.header["id"], one.end.time_ns) for one in found if one.verdict == "DISCARDED"
    )
    assert gone <= Counter((ident, BEGIN + at) for ident, at, _ in drops)
    assert all(one.ambiguous for one in found if one.end and not one.end.sure)


def test_names_are_looked_up_once_a_chunk(monkeypatch):
    """However many places nobody named: a made-up file may have a new one in each record."""
    looked, look_up = [], DropRecords._look_up
    monkeypatch.setattr(DropRecords, "_look_up", lambda own: looked.append(own) or look_up(own))
    list(Packets(recorded(arrived(ONE), [dropped(ONE, place=100 + i) for i in range(50)])))
    assert len(looked) == 1
