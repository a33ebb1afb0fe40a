"""Traversals that belong together, found by what their packets hold."""

from __future__ import annotations

import struct

import pytest
from handmade import UUID, HandMade, udp, udp6

from iptrec.answers.packets import Packets

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RULES = f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING {OWN}\n-A OUTPUT {OWN}\nCOMMIT\n"
INNER = udp(b"inside", ident=3)
INNER6 = udp6(b"inside")


def ip(protocol, body, ident=99):
    """An IPv4 packet around something."""
    return struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), ident, 0, 64, protocol, 0, b"\1\1\1\1", b"\2\2\2\2"
    ) + body  # fmt: skip


def gre(body, *, kind=0x0800, flags=0, options=b""):
    """RFC 2784, 2890."""
    return ip(47, struct.pack("!HH", flags, kind) + options + body)


def ethernet(body, kind=0x0800):
    return bytes(12) + struct.pack("!H", kind) + body


def vxlan(body, port=4789):
    """RFC 7348."""
    return ip(17, struct.pack("!HHHH", 5555, port, 8, 0) + bytes(8) + ethernet(body))


TUNNELS = {
    "ipip": (ip(4, INNER), INNER),
    "6in4": (ip(41, INNER6), INNER6),
    "gre": (gre(INNER), INNER),
    "gre_ipv6": (gre(INNER6, kind=0x86DD), INNER6),
    "gre_key_and_sequence": (gre(INNER, flags=0x3000, options=bytes(8)), INNER),
    "gre_ethernet": (gre(ethernet(INNER), kind=0x6558), INNER),
    "vxlan": (vxlan(INNER), INNER),
    "vxlan_of_old": (vxlan(INNER, 8472), INNER),
}


def related(recording):
    return [[(one.kind, one.packet) for one in packet.related] for packet in Packets(recording)]


def events(*packets, chain="OUTPUT"):
    return [(f"raw:{chain}:policy:2", packet, {}) for packet in packets]


@pytest.mark.parametrize("case", TUNNELS)
def test_tunnel_and_what_it_carries(case):
    """Going out the inner packet is first, coming in the outer one."""
    outer, inner = TUNNELS[case]
    recording = HandMade().ruleset(RULES).ruleset(RULES, kind="ip6tables-save")
    assert related(recording.events(events(inner, outer))) == [[], [("carries", 1)]]
    recording = HandMade().ruleset(RULES).ruleset(RULES, kind="ip6tables-save")
    assert related(recording.events(events(outer, inner, chain="PREROUTING"))) == [
        [],
        [("carried-by", 1)],
    ]


@pytest.mark.parametrize(
    "outer",
    [
        ip(4, INNER[:10]),
        gre(b"", options=b""),
        vxlan(b""),
        ip(17, struct.pack("!HHHH", 1, 53, 8, 0) + INNER),
    ],
    ids=["cut", "empty_gre", "empty_vxlan", "just_udp"],
)
def test_what_only_looks_like_a_tunnel(outer):
    """Nothing is made up of what is cut off, or of other payloads."""
    recording = HandMade().ruleset(RULES).events(events(INNER, outer))
    assert related(recording) == [[], []]


def test_error_of_a_router_that_quotes_little():
    """Eight bytes of the quoted packet's payload are enough to name its flow."""
    quoted = struct.pack("!BBHI", 3, 1, 0, 0) + INNER[:28]
    recording = HandMade().ruleset(RULES).events(events(INNER, udp(b"other"), ip(1, quoted)))
    assert related(recording) == [[], [], [("error-about", 2)]]  # the flow's last packet


def test_an_error_is_about_the_packet_that_it_quotes():
    """Of IPv6 no identification tells packets apart whose payloads are equal: their addresses do."""
    asked, other = udp6(last=2), udp6(last=3)
    body = struct.pack("!BBHI", 1, 3, 0, 0) + asked
    error = struct.pack("!IHBB", 6 << 28, len(body), 58, 64) + asked[8:24] + asked[8:24] + body
    recording = HandMade().ruleset(RULES, kind="ip6tables-save")
    recording.events([*events(asked, other, chain="PREROUTING"), *events(error)])
    assert related(recording) == [[], [], [("error-about", 1)]]


# Left as this packet by this interface, came in as that one by that one, in a frame or not.
ETHERNET = ethernet(b"", 0x0800)
SENT = udp(b"x", ident=0)
ANSWER = udp(b"x", ident=0, src="10.0.0.2", dst="10.0.0.1", sport=53, dport=1000)
OTHERS = udp(b"x", ident=0, src="10.0.0.9")
SNATTED = udp(b"x", ident=0, src="10.0.0.7", sport=9)
DNATTED = udp(b"x", ident=0, dst="127.0.0.1", dport=9)
IP_AS_LINK = SENT[:14]  # what nflog gives for a packet that never had a frame
LOOPS = {
    "by_lo": ((SENT, 1), (SENT, 1, ETHERNET), True),
    "translated_after_postrouting": ((SENT, 1), (SNATTED, 1, ETHERNET), True),
    "multicast": ((SENT, 7), (SENT, 7, IP_AS_LINK), True),
    "multicast_no_link": ((SENT, 7), (SENT, 7, b""), True),
    "back_from_outside": ((SENT, 7), (SENT, 7, ETHERNET), False),
    "answer": ((SENT, 7), (ANSWER, 7, ETHERNET), False),
    "answer_of_our_own": ((SENT, 1), (ANSWER, 1, ETHERNET), False),
    "another_host": ((SENT, 7), (OTHERS, 7, b""), False),
    "another_interface": ((SENT, 7), (SENT, 8, b""), False),
    "rerouted_but_not_into_lo": ((SENT, 7), (DNATTED, 7, ETHERNET), False),
}


@pytest.mark.parametrize("case", LOOPS)
@pytest.mark.parametrize("later_ns", [1_000, 9 * 10**8, 2 * 10**9])
def test_what_the_kernel_loops(case, later_ns):
    """By lo, or a clone without a frame; as it left, and at once."""
    (left, out), (came, into, link), looped = LOOPS[case]
    there = [
        ("raw:OUTPUT:policy:2", left, {"outdev": out}),
        ("mangle:POSTROUTING:policy:1", left, {"outdev": out}),
    ]
    back = [("raw:PREROUTING:policy:2", came, {"indev": into, "link": link})]
    rules = RULES + "*mangle\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"
    recording = HandMade().ruleset(rules).events(there).events(back, start_ns=later_ns)
    found = related(recording)
    assert found == [[], [("looped-back", 1)] if looped and later_ns <= 10**9 else []]


def test_dropped_packets_do_not_loop():
    """An equal packet that came in was another one."""
    rules = RULES.replace("OUTPUT ACCEPT", "OUTPUT DROP")
    recording = HandMade().ruleset(rules).events(
        [
            ("raw:OUTPUT:policy:2", SENT, {"outdev": 1}),
            ("raw:PREROUTING:policy:2", SENT, {"indev": 1, "link": ETHERNET}),
        ]
    )  # fmt: skip
    assert related(recording) == [[], []]


def test_redirected_in_output():
    """Without a chain in POSTROUTING nobody tells where it went: it is known again by its source."""
    recording = HandMade().ruleset(RULES).events(
        [
            ("raw:OUTPUT:policy:2", SENT, {"outdev": 7}),
            ("raw:PREROUTING:policy:2", DNATTED, {"indev": 1, "link": ETHERNET}),
        ]
    )  # fmt: skip
    assert related(recording) == [[], [("looped-back", 1)]]
