"""Lines of nft monitor trace become events, as nft 1.0.6 printed them on Linux 6.18."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import nftrace, packet
from iptrec.pasted.nft_events import VERDICTS, Event, Tracked, datagram
from iptrec.pasted.nft_monitor import Lost, Monitor, Unread, is_line
from iptrec.pasted.nft_packet import packet as read_packet
from iptrec.pasted.sources import Interfaces

HEAD = "trace id 5d333a07 inet fw input "
ETHER = 'iif "n23v0" ether saddr 7e:8d:26:81:77:e3 ether daddr ca:81:22:cf:1b:0d '
IPV4 = "ip saddr 10.23.0.2 ip daddr 10.23.0.1 ip dscp cs0 ip ecn not-ect ip ttl 64 ip id 53928 "
IPV6 = "ip6 saddr fd23::2 ip6 daddr fd23::1 ip6 dscp cs6 ip6 ecn ce ip6 hoplimit 64 ip6 flowlabel 1001042 "
V4 = {"src": "10.23.0.2", "dst": "10.23.0.1", "ttl": 64, "id": 53928, "tos": 0}
V6 = {"src": "fd23::2", "dst": "fd23::1", "hop_limit": 64, "tos": 0xC3, "flow_label": 1001042}
PING = V4 | {
    "proto": "icmp", "length": 84, "type": 8, "code": 0, "name": "echo-request", "icmp_id": 1891, "icmp_seq": 1,
}  # fmt: skip


def events(*lines, known=()):
    """What lines tell."""
    monitor = Monitor(known)
    found = [one for line in lines for one in monitor.feed(line)]
    return [*found, *monitor.finish()]


def header(text):
    """The headers that a packet's line tells, without what it does not."""
    found = read_packet(text)
    told = packet.header(found.network + found.transport, 2 if found.version == 4 else 10)
    return {
        name: one for name, one in told.items() if name not in {"csum", "seq", "ack", "truncated"}
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            (
                f"{ETHER}{IPV4}ip protocol icmp ip length 84 icmp type echo-request icmp code net-unreachable"
                " icmp id 1891 icmp sequence 1 @th,64,96 0xaf080d6b0000000019590a00 "
            ),
            PING,
        ),
        (
            (
                f"{ETHER}ip saddr 10.23.0.2 ip daddr 10.23.0.1 ip dscp 0x00 ip ecn 0x0 ip ttl 64 ip id 53928 ip"
                " protocol 1 ip length 84 icmp type 8 icmp code 0 icmp id 1891 icmp sequence 1"
            ),
            PING,
        ),
        (
            (
                f"{ETHER}{IPV4}ip length 39 udp sport 53548 udp dport 53 udp length 19 @th,64,88"
                " 0x7878787878787878787878 "
            ),
            V4 | {"proto": "udp", "length": 39, "sport": 53548, "dport": 53},
        ),
        (
            f"{IPV4}ip length 60 tcp sport 57954 tcp dport 22 tcp flags == syn tcp window 64240",
            V4
            | {
                "proto": "tcp",
                "length": 60,
                "sport": 57954,
                "dport": 22,
                "flags": "SYN",
                "window": 64240,
            },
        ),
        (
            f"{IPV4}ip protocol tcp ip length 40 tcp sport 22 tcp dport 9 tcp flags == 0x14 tcp window 0",
            V4
            | {
                "proto": "tcp",
                "length": 40,
                "sport": 22,
                "dport": 9,
                "flags": "RST,ACK",
                "window": 0,
            },
        ),
        (
            f"{IPV4}ip length 40 tcp sport 22 tcp dport 9 tcp flags == ( fin | ack ) tcp window 1",
            V4
            | {
                "proto": "tcp",
                "length": 40,
                "sport": 22,
                "dport": 9,
                "flags": "FIN,ACK",
                "window": 1,
            },
        ),
        (
            (
                f"{IPV6}ip6 nexthdr ipv6-icmp ip6 length 64 icmpv6 type echo-request icmpv6 code no-route"
                " icmpv6 parameter-problem 123994113 @th,64,96 0xaf080d6b00000000e96a0a00"
            ),
            V6
            | {
                "proto": "icmpv6",
                "length": 104,
                "type": 128,
                "code": 0,
                "name": "echo-request",
                "icmp_id": 1892,
                "icmp_seq": 1,
            },
        ),
        (
            f"{IPV6}ip6 nexthdr tcp ip6 length 40 tcp sport 53372 tcp dport 22 tcp flags == syn tcp window 648",
            V6
            | {
                "proto": "tcp",
                "length": 80,
                "sport": 53372,
                "dport": 22,
                "flags": "SYN",
                "window": 648,
            },
        ),
        (
            f"{IPV4}ip protocol esp ip length 40 esp spi 7 esp sequence 9",
            V4 | {"proto": "esp", "length": 40, "spi": 7},
        ),
        (
            f"{IPV4}ip protocol 99 ip length 40 @th,0,64 0x0102030405060708",
            V4 | {"proto": "99", "length": 40},
        ),
    ],
)
def test_headers(text, told):
    """All that nft prints of a packet is in its headers."""
    assert header(text) == told


def test_a_frame():
    """The addresses of the link layer and the interfaces are told."""
    found = read_packet(
        f'{ETHER}oif "br0" {IPV4}ip protocol 17 ip length 39 udp sport 1 udp dport 2'
    )
    assert (found.iif, found.oif) == ("n23v0", "br0")
    assert packet.link(found.link) == {
        "src": "7e:8d:26:81:77:e3", "dst": "ca:81:22:cf:1b:0d", "type": "0x0800",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("policy accept ", {"policy": True, "verdict": VERDICTS["accept"], "mark": 0}),
        (
            "policy drop meta mark 0x00001234 ",
            {"policy": True, "verdict": VERDICTS["drop"], "mark": 0x1234},
        ),
        ("policy drop mark 0x00000001", {"policy": True, "verdict": VERDICTS["drop"], "mark": 1}),
        ("verdict continue meta mark 0x00000001 ", {"verdict": VERDICTS["continue"], "mark": 1}),
        ("verdict continue", {"verdict": VERDICTS["continue"], "mark": 0}),
        ("rule meta nftrace set 1 (verdict continue)", {"text": "meta nftrace set 1"}),
        (
            "rule tcp dport 22 # handle 7 (verdict accept)",
            {"text": "tcp dport 22", "handle": 7, "verdict": VERDICTS["accept"]},
        ),
        (
            "rule tcp dport vmap @ports (verdict jump ssh)",
            {"text": "tcp dport vmap @ports", "target": "ssh", "verdict": VERDICTS["jump"]},
        ),
        (
            "rule goto web (verdict goto web)",
            {"text": "goto web", "target": "web", "verdict": VERDICTS["goto"]},
        ),
        ("unknown rule handle 23 (verdict return)", {"handle": 23, "verdict": VERDICTS["return"]}),
        ("rule x (verdict unknown verdict value 6)", {"text": "x", "verdict": 6}),
        (
            'rule accept comment "ping; accept (verdict drop)" (verdict accept)',
            {"text": 'accept comment "ping; accept (verdict drop)"', "verdict": VERDICTS["accept"]},
        ),
        (
            'rule accept comment "x # handle 9" (verdict accept)',
            {"text": 'accept comment "x # handle 9"', "verdict": VERDICTS["accept"]},
        ),
    ],
)
def test_events(line, event):
    """Each kind of line; what is not told is not in it."""
    head = {"trace": 0x5D333A07, "family": "inet", "table": "fw", "chain": "input"}
    assert events(HEAD + line) == [Event(**head | event)]
    assert events(f"Nov 30 05:25:29 host nft[7]: {HEAD}{line}") == [Event(**head | event)]


def test_a_rule_of_several_lines():
    """An anonymous chain, and a comment with line feeds, also where each line has a time before it."""
    body = ["rule jump {", "\t\t\tcounter packets 7 bytes 376", "\t\t} (verdict jump __chain2997)"]
    (one,) = events(HEAD + body[0], *body[1:])
    assert (one.text, one.target) == (
        "jump {\n\t\t\tcounter packets 7 bytes 376\n\t\t}",
        "__chain2997",
    )
    stamp = "05:25:29.123 "
    assert events(stamp + HEAD + body[0], *(stamp + line for line in body[1:])) == [one]
    (comment,) = events(HEAD + 'rule accept comment "a (verdict drop)', 'b" (verdict accept)')
    assert (comment.text, comment.verdict) == (
        'accept comment "a (verdict drop)\nb"',
        VERDICTS["accept"],
    )


def test_a_comment_with_a_quote():
    """Other programs than nft can make one; it ends where the next event begins."""
    body = [
        'rule accept comment "two "',
        "\t\taccept # handle 9",
        'lines" # handle 118 (verdict accept)',
    ]
    first, second = events(HEAD + body[0], *body[1:], HEAD + "policy drop ")
    assert (first.handle, first.verdict) == (118, VERDICTS["accept"])
    assert second.policy


def test_a_rule_that_is_cut():
    """The next event's line ends what has no end, and nothing is made of it."""
    first, second = events(HEAD + "rule jump {", HEAD + "policy drop ")
    assert first == Unread("rule jump {")
    assert second.policy
    assert events(HEAD + "rule tcp dport 22 (verdict acc") == [
        Unread("rule tcp dport 22 (verdict acc")
    ]


def test_the_packet_is_of_the_next_event():
    """Of its chain; the version of IP stays known."""
    told = f"packet: {IPV6}ip6 nexthdr tcp ip6 length 40 tcp sport 1 tcp dport 2"
    first, second = events(
        HEAD + told, HEAD + "rule accept (verdict continue)", HEAD + "policy accept"
    )
    assert first.packet is not None
    assert second.packet is None
    assert (first.version, second.version) == (6, 6)
    other = HEAD.replace("input", "other")
    assert events(HEAD + told, other + "policy accept")[0].packet is None


def test_connections():
    """What newer versions tell of connection tracking goes with the packet."""
    line = (
        "conntrack: ct direction original ct state new ct status snat,confirmed ct id 2871526910 "
    )
    (one,) = events(HEAD + line, f"{HEAD}packet: {IPV4}", HEAD + "policy accept ")
    assert one.tracked == Tracked(id=2871526910, direction=0, status=24, state=8)


def test_losses():
    """What nft says that it has lost."""
    assert events("# ERROR: We lost some netlink events!") == [Lost()]
    assert events("# anything else") == []


def test_names_with_spaces():
    """A ruleset tells where a name ends; without it nobody knows."""
    line = "trace id 00000001 inet my fw in put policy accept "
    assert events(line) == [Unread(line)]
    (one,) = events(line, known=[("inet", "my fw", "in put"), ("ip", "my", "fw")])
    assert (one.table, one.chain) == ("my fw", "in put")


def test_a_datagram():
    """What a reader finds in the message is what was told."""
    told = f"packet: {ETHER}{IPV4}ip protocol udp ip length 39 udp sport 53548 udp dport 53 udp length 19"
    found = events(
        HEAD + told, HEAD + "rule jump a # handle 7 (verdict jump a)", HEAD + "policy drop mark 0x9"
    )
    names = Interfaces()
    made = [datagram(one, names) for one in found]
    decoded = nftrace.decode(
        b"".join(made), np.array([len(one) for one in made], np.uint32), np.zeros(2, np.int64)
    )
    assert not len(decoded.undecoded)
    assert [decoded.sites[one] for one in decoded.site] == [
        nftrace.NftSite("inet", "fw", "input", policy=False, handle=7, verdict=-3, target="a"),
        nftrace.NftSite("inet", "fw", "input", policy=True, handle=None, verdict=0, target=None),
    ]
    assert decoded.mark.tolist() == [0, 9]
    assert decoded.header(1)["dport"] == 53
    assert names.met == {int(decoded.indev[0]): "n23v0"}


@given(
    st.lists(st.text(max_size=80).map(lambda one: one.replace("\n", " ")), max_size=5),
    st.sampled_from(
        [
            "",
            HEAD,
            f"{HEAD}rule ",
            f"{HEAD}packet: ",
            f"{HEAD}packet: {IPV4}",
            f"{HEAD}policy ",
            f"{HEAD}conntrack: ct ",
        ]
    ),
)
def test_any_text(lines, before):
    """Whatever a text holds, it gives events, losses and what could not be read, and each event a message."""
    names = Interfaces()
    for one in events(*(before + line for line in lines)):
        assert isinstance(one, Event | Lost | Unread)
        if isinstance(one, Event) and len(one.table.encode()) < 200:
            datagram(one, names)


WORDS = st.sampled_from(
    ["10.0.0.1", "fe80::1", "0x1", "1" * 40, "cs0", "-1", "ip", "tcp", "\x1b[2J", "0x" + "f" * 40]
)


KEYS = st.sampled_from(
    [
        f"{version} {name}"
        for version in ("ip", "ip6")
        for name in ("saddr", "daddr", "length", "dscp")
    ]
    + [
        "ip protocol",
        "ip6 nexthdr",
        "tcp flags",
        "tcp sport",
        "udp length",
        "icmp type",
        "icmp id",
        "iif",
    ]
    + [
        "icmpv6 parameter-problem",
        "ether saddr",
        "ether daddr",
        "vlan id",
        "@th,0,64",
        "@th,64,9999",
    ]
)


@given(st.lists(st.tuples(KEYS, WORDS)))
def test_any_headers(fields):
    """Fields that contradict one another give what headers they give."""
    found = read_packet(" ".join(f"{key} {value}" for key, value in fields))
    assert len(found.network) <= 40
    assert len(found.transport) <= 20


def test_recognised():
    """A line is known wherever it begins; others are not taken for one."""
    assert is_line(f"1764480000.123456 {HEAD}policy accept")
    assert not is_line("TRACE: 2 fc475095 raw:PREROUTING:rule:0x3:CONTINUE")
    assert not is_line("stack trace id 12 of inet")
