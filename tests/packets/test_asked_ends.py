"""What became of a packet that was not seen after PREROUTING, as the kernel answered when it was asked."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from handmade import UUID, HandMade, attribute, netlink, udp, udp6

from iptrec.answers.packets import Packets
from iptrec.kernel.questions import ALL, GET_NETCONF, GET_ROUTE, Question, settings, way_out
from iptrec.recording.rows import Stream

MS = 1_000_000
OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RAW = f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING {OWN}\n-A OUTPUT {OWN}\nCOMMIT\n"
MANGLE = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
NAT = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{}COMMIT\n"
FILTER = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
SEEN = "raw:PREROUTING:policy:2"
ETH = 3


def error(code):
    return 2, struct.pack("<i", -code)


def route(kind=1, oif=4, family=2):
    return 24, struct.pack("<BBBBBBBBI", family, 32, 0, 0, 254, 0, 0, kind, 0) + attribute(
        4, struct.pack("<i", oif)
    )


def netconf(forwarding=1, rp_filter=0, family=2):
    values = ((2, forwarding), (3, rp_filter))
    return 80, bytes([family, 0, 0, 0]) + b"".join(
        attribute(kind, struct.pack("<i", one)) for kind, one in values
    )


def asked(packet, answer, *, back=None, out=None, here=None, all_=None, time_ns=12 * MS, **more):
    """What the kernel was asked about a packet, and what it said."""
    family = 10 if packet[0] >> 4 == 6 else 2
    (question,) = Question.about(family, ETH, 0, packet)
    question = question._replace(**more)
    told = [(GET_ROUTE, question.body(), answer)]
    told += [
        (GET_ROUTE, way_out(family, one, 0), said)
        for one, said in ((question.src, back), (question.dst, out))
        if said
    ]
    told += [
        (GET_NETCONF, settings(family, index), said)
        for index, said in ((ETH, here), (ALL, all_))
        if said
    ]
    pairs = [
        (netlink(kind, body, number=number), netlink(*said, number=number))
        for number, (kind, body, said) in enumerate(told)
    ]
    return [(time_ns, datagram) for pair in pairs for datagram in pair]


def with_answers(made, datagrams):
    """The recording, with a stream of answers beside the events."""
    made.streams.append(Stream(2, 1, "route-answers", {}))
    return made.received(2, *zip(*datagrams, strict=True))


def one(packet, datagrams, *prefixes, tables="", rules=None, **more):
    """The packet that came in by an interface."""
    kind = "ip6tables-save" if packet[0] >> 4 == 6 else "iptables-save"
    made = HandMade().ruleset(RAW + FILTER + tables if rules is None else rules, kind)
    made.events([(prefix, packet, {"indev": ETH} | more) for prefix in prefixes or (SEEN,)])
    (found,) = Packets(with_answers(made, datagrams))
    return found


def from_to(src="10.0.0.1", dst="10.0.0.2"):
    return udp(src=src, dst=dst)


A, SIX = from_to(), udp6()
OFF, ON = {"here": netconf(forwarding=0)}, {"here": netconf()}
STRICT = {"here": netconf(rp_filter=1), "all_": netconf()}
LOOSE = {"here": netconf(), "all_": netconf(rp_filter=2)}
NONE = {"here": netconf(), "all_": netconf()}
BACK_ELSEWHERE = {"back": route(oif=7), "out": route()}
NO_WAY_BACK = {"back": error(101), "out": route()}
REFUSED = "reverse path filtering, a martian source, or a blackhole by rules"
NOT_HERE = "forwarding is off for if3, and 10.0.0.2 is not an address of this host"
ENDS = {
    "no route": (A, error(101), {}, "IP_INNOROUTES", "no route to 10.0.0.2"),
    "prohibited": (A, error(13), {}, "PROHIBIT", "10.0.0.2 is prohibited"),
    "unreachable": (A, error(113), ON, "UNREACHABLE", "10.0.0.2 is unreachable"),
    "forwarding off": (
        A, error(113), OFF, "IP_INADDRERRORS",
        NOT_HERE,
    ),
    "unreachable or off": (
        A, error(113), {}, "EHOSTUNREACH",
        f"10.0.0.2 is unreachable, or {NOT_HERE}",
    ),
    "rp_filter, strict": (
        A, error(22), STRICT | BACK_ELSEWHERE, "IP_RPFILTER",
        "reverse path filtering: 10.0.0.1 came in by if3, and the way back is not if3",
    ),
    "rp_filter, loose": (
        A, error(22), LOOSE | NO_WAY_BACK, "IP_RPFILTER",
        "reverse path filtering: 10.0.0.1 came in by if3, and there is no way back",
    ),
    "rp_filter before Linux 6.13": (
        A, error(18), {}, "IP_RPFILTER",
        "reverse path filtering: 10.0.0.1 came in by if3, and the way back is not if3",
    ),
    "blackhole": (
        A, error(22), STRICT | {"back": route(oif=ETH), "out": error(22)}, "BLACKHOLE",
        "10.0.0.2 is in a blackhole",
    ),
    "an own address as source": (
        A, error(22), STRICT | {"back": route(kind=2, oif=1), "out": route()}, "IP_LOCAL_SOURCE",
        "martian source: 10.0.0.1 is an address of this host",
    ),
    "a source of lo": (
        from_to("127.0.0.1"), error(22), NONE, "IP_LOCALNET",
        "martian: 127.0.0.1 is of the loopback network",
    ),
    "to lo": (
        from_to(dst="127.0.0.2"), error(22), NONE, "IP_LOCALNET",
        "martian: 127.0.0.2 is of the loopback network",
    ),
    "multicast as source": (
        from_to("224.0.0.1"), error(22), NONE, "IP_INVALID_SOURCE",
        "martian source: 224.0.0.1 cannot be a sender",
    ),
    "nobody as source": (
        from_to("0.0.0.9"), error(22), NONE, "IP_INVALID_SOURCE",
        "martian source: 0.0.0.9 cannot be a sender",
    ),
    "a group that nobody has joined": (
        from_to(dst="224.9.9.9"), error(22), NONE, "EINVAL",
        "nobody here has joined 224.9.9.9, or its source is martian or filtered",
    ),
    "not known which": (A, error(22), {}, "EINVAL", REFUSED),
    "filtered, and nobody knows why": (
        A, error(22), STRICT | {"back": route(oif=ETH), "out": route()}, "EINVAL",
        REFUSED,
    ),
    "neither": (
        A, error(22), NONE | BACK_ELSEWHERE, "EINVAL",
        "a martian address, or a blackhole by rules",
    ),
    "IPv6 no route": (SIX, error(101), {}, "IP_INNOROUTES", "no route to ::2"),
    "IPv6 blackhole": (SIX, error(22), {}, "BLACKHOLE", "::2 is in a blackhole"),
    "IPv6 unreachable": (SIX, error(113), {}, "IP_INNOROUTES", "::2 is unreachable"),
    "IPv6 prohibited": (SIX, error(13), {}, "IP_INNOROUTES", "::2 is prohibited"),
    "IPv6 forwarding off": (
        SIX, route(family=10), {"all_": netconf(forwarding=0, family=10)}, "IP_INADDRERRORS",
        "IPv6 forwarding is off, and ::2 is not an address of this host",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_the_kernels_answer_is_the_end(case):
    packet, answer, more, reason, text = ENDS[case]
    found = one(packet, asked(packet, answer, **more))
    assert (found.end.source, found.end.reason, found.end.sure) == ("asked", reason, True)
    assert found.end.text == f"the kernel says (asked 12 ms later): {text}"
    assert found.end.time_ns == 12 * MS
    assert found.reason == "not seen after raw PREROUTING"
    assert (found.verdict, found.complete) == ("UNKNOWN", False)


NO_END = {
    "a way": (A, route(), ON),
    "its own address": (A, route(kind=2, oif=1), OFF),
    "IPv6 that is forwarded": (SIX, route(family=10), {"all_": netconf(family=10)}),
    "IPv6 of which that is not known": (SIX, route(family=10), {}),
    "IPv6 for this host": (SIX, route(2, 1, 10), {"all_": netconf(forwarding=0, family=10)}),
    "an interface that has gone": (A, error(19), {}),
    "a protocol that it takes no question about": (A, error(95), {}),
    "too long an answer": (SIX, error(90), {}),
}


@pytest.mark.parametrize("case", NO_END)
def test_other_answers_are_no_end(case):
    packet, answer, more = NO_END[case]
    found = one(packet, asked(packet, answer, **more))
    assert found.end is None
    assert found.reason.startswith("not seen after raw PREROUTING: the kernel dropped or consumed")


def test_a_packet_that_went_on_has_none():
    found = one(A, asked(A, error(101)), SEEN, "filter:INPUT:policy:1", hook=0)
    assert found.end is None


@pytest.mark.parametrize("more", [{"iif": 9}, {"mark": 5}, {"dst": bytes(4)}, {"tos": 8}])
def test_an_answer_about_another_packet_is_none(more):
    assert one(A, asked(A, error(101), **more)).end is None


def test_ports_do_not_matter_without_rules_about_them():
    assert one(A, asked(A, error(101), sport=5, dport=5)).end.sure


CHANGED = [(5 * MS, netlink(1))]
STATUS = {"unchanged": [], "routing has changed in between": CHANGED}


@pytest.mark.parametrize("doubt", STATUS)
def test_a_change_in_between_makes_it_doubtful(doubt):
    end = one(A, STATUS[doubt] + asked(A, error(101))).end
    sure = doubt == "unchanged"
    assert end.sure == sure
    said = "asked 12 ms later" if sure else f"asked 12 ms later, {doubt}"
    assert (
        end.text == f"{'' if sure else 'perhaps, '}the kernel says ({said}): no route to 10.0.0.2"
    )


def test_a_packet_of_a_bridge_may_have_gone_another_way():
    end = one(A, asked(A, error(101)), physin=8).end
    assert not end.sure
    assert "if the bridge has not taken it" in end.text


DNAT = "-A PREROUTING -p udp -j DNAT --to-destination 10.9.9.9\n"
SNAT = "-A POSTROUTING -o eth0 -j MASQUERADE\n"
NATTED = "unless NAT gave it another address"
TRANSLATED = {
    "by no rule": ("", (SEEN,), True),
    "perhaps by connection tracking": (SNAT, (SEEN,), False),
    "a new one that no rule translates": (DNAT, (SEEN, "nat:PREROUTING:policy:2"), True),
    "by the last rule": (DNAT, (SEEN, "nat:PREROUTING:rule:1"), None),
}


@pytest.mark.parametrize("case", TRANSLATED)
def test_what_nat_does_to_it_is_not_seen(case):
    """The question was about the packet as it was before."""
    rules, prefixes, sure = TRANSLATED[case]
    end = one(A, asked(A, error(101)), *prefixes, tables=NAT.format(rules)).end
    assert (None if end is None else end.sure) == sure
    assert sure is not False or NATTED in end.text


def test_what_is_lost_before_routing_is_no_matter_of_it():
    """Connection tracking or defragmentation took it: a table that sees every packet saw none."""
    assert one(A, asked(A, error(101)), tables=MANGLE).end is None
    assert one(A, asked(A, error(101)), SEEN, "mangle:PREROUTING:policy:1", tables=MANGLE).end.sure


def test_time_is_told_in_words():
    assert "asked 2.5 s later" in one(A, asked(A, error(101), time_ns=2500 * MS)).end.text
    late = one(A, asked(A, error(101), time_ns=0)).end.text
    assert "asked 0 ms before" in late


def test_addresses_are_the_packets_own():
    """As they are after the last rule that was seen."""
    changed = from_to(dst="10.0.0.7")
    made = HandMade().ruleset(RAW + FILTER + MANGLE)
    made.events(
        [(SEEN, A, {"indev": ETH}), ("mangle:PREROUTING:policy:1", changed, {"indev": ETH})]
    )
    (found,) = Packets(with_answers(made, asked(changed, error(101))))
    assert found.end.text.endswith(f"no route to {ipaddress.ip_address('10.0.0.7')}")
