"""What is told of a packet that was let pass at PREROUTING and not seen again, and what is not."""

from __future__ import annotations

import ast
import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import frames
import pytest
from handmade import HandMade, attribute, link_message, netlink, udp

import iptrec
from iptrec.answers.packets import Packets
from iptrec.packets.ends import End
from iptrec.recording.rows import Loss, Stream

SECOND = 1_000_000_000
DOUBT = re.compile(r"\b(perhaps|may|might|possibly)\b")
TIME = 500 * SECOND
DONE = netlink(3, bytes(4))
KNOWN = {
    **{f"net/ipv4/conf/{name}/{key}": "0" for name in ("eth0", "all")
       for key in ("rp_filter", "accept_local", "route_localnet", "src_valid_mark")},
    "net/ipv4/conf/eth0/forwarding": "1", "net/ipv4/conf/all/send_redirects": "1",
    "net/ipv4/conf/all/bc_forwarding": "0",
}  # fmt: skip
RAW = """*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -m comment --comment "iptrec:00000000-0000-4000-8000-000000000001" -j TRACE
-A OUTPUT -m comment --comment "iptrec:00000000-0000-4000-8000-000000000001" -j TRACE
COMMIT
"""
FILTER = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
NAT = (
    "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
    "-A PREROUTING -p udp --dport 9 -j DNAT --to-destination 10.2.0.9:99\n"
    "-A PREROUTING -p udp --dport 10 -j DNAT --to-destination 10.2.0.9-10.2.0.11\nCOMMIT\n"
)
MANGLE = (
    "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    ":POSTROUTING ACCEPT [0:0]\nCOMMIT\n"
)
RAWS, MANGLES, NATS = (
    "raw:PREROUTING:policy:2",
    "mangle:PREROUTING:policy:1",
    "nat:PREROUTING:policy:3",
)


def routes():
    """10.1.0.0/16 by eth0, 10.2.0.0/16 by eth1, and the host's own address."""
    found = b""
    for table, kind, to, length, link in (
        (254, 1, (10, 1, 0, 0), 16, 2), (254, 1, (10, 2, 0, 0), 16, 3), (255, 2, (10, 1, 0, 1), 32, 2),
    ):  # fmt: skip
        head = struct.pack("<BBBBBBBBI", 2, length, 0, 0, table, 3, 0, kind, 0)
        found += netlink(24, head + attribute(1, bytes(to)) + attribute(4, struct.pack("<i", link)))
    return found + DONE


def rules():
    found = b""
    for priority, table in {0: 255, 32766: 254, 32767: 253}.items():
        head = struct.pack("<BBBBBxxBI", 2, 0, 0, 0, table, 1, 0)
        found += netlink(
            32,
            head
            + attribute(6, struct.pack("<I", priority))
            + attribute(15, struct.pack("<I", table)),
        )
    return found + DONE


def links():
    names = {1: b"lo\0", 2: b"eth0\0", 3: b"eth1\0"}
    mtu = (4, struct.pack("<I", 1500))
    return b"".join(link_message(16, index, (3, name), mtu) for index, name in names.items()) + DONE


def recording(
    tables, *prefixes, src="10.1.0.9", dst="10.9.9.9", lists=2, settings=KNOWN, after=(), **packet
):
    """A packet by eth0, which passed these; ``lists``: before and after it, ``after``: with other settings."""
    made = HandMade().ruleset(RAW + tables)
    made.facts = replace(made.facts, closed=True)
    made.streams.append(Stream(3, 1, "conntrack", {}))
    made.streams.append(
        Stream(
            2, 1, "rtnetlink", {"groups": ["link", "route"], "looked_at": ["routes", "ip-rules"]}
        )
    )
    for time, now in ((1, settings), (1000 * SECOND, settings | dict(after)))[:lists]:
        for kind, content in (
            ("links", links()),
            ("routes", routes()),
            ("ip-rules", rules()),
            ("sysctls", json.dumps(now).encode()),
        ):
            made.snapshot(kind, content, time)
    payload = udp(src=src, dst=dst, dport=packet.pop("dport", 53), **packet)
    return made.events([(one, payload, {"indev": 2}) for one in prefixes], start_ns=TIME)


def told(made):
    (found,) = Packets(made)
    end = found.end
    return (end.reason, end.sure) if end else None


NO_ROUTE = ("IP_INNOROUTES", True)
CASES = {
    "no route": ((FILTER, RAWS), {}, NO_ROUTE),
    "TTL": ((FILTER, RAWS), {"dst": "10.2.0.9", "ttl": 1}, ("IP_INHDR", True)),
    "what should have been forwarded": ((FILTER, RAWS), {"dst": "10.2.0.9"}, ("NOT_SPECIFIED", False)),
    "what should have come here": ((FILTER, RAWS), {"dst": "10.1.0.1"}, ("NOT_SPECIFIED", False)),
    "lists of the beginning alone": ((FILTER, RAWS), {"lists": 1}, ("IP_INNOROUTES", False)),
    "no lists": ((FILTER, RAWS), {"lists": 0}, None),
    "nothing would tell": (("", RAWS), {}, NO_ROUTE),
    "nothing would tell that it passed": (("", RAWS), {"dst": "10.2.0.9"}, None),
    "nothing would tell, and who knows": (("", RAWS), {"lists": 1}, None),
    "between two tables": ((MANGLE + FILTER, RAWS), {}, None),
    "behind both": ((MANGLE + FILTER, RAWS, MANGLES), {}, NO_ROUTE),
    "of a connection, with NAT": ((NAT + FILTER, RAWS), {}, None),
    "the first of a connection": ((NAT + FILTER, RAWS, NATS), {}, NO_ROUTE),
    "what DNAT sends elsewhere": (
        (NAT + FILTER, RAWS, "nat:PREROUTING:rule:1"), {"dport": 9, "ttl": 1}, ("IP_INHDR", True)),
    "what DNAT sends to one of several": ((NAT + FILTER, RAWS, "nat:PREROUTING:rule:2"), {"dport": 10}, None),
    "what went on": ((FILTER, RAWS, "filter:FORWARD:policy:1"), {"dst": "10.2.0.9"}, None),
    "what began late": ((FILTER, "nat:PREROUTING:policy:1"), {}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_told(case):
    (tables, *prefixes), given, expected = CASES[case]
    assert told(recording(tables, *prefixes, **given)) == expected


@pytest.mark.parametrize(
    ("first", "stream", "how", "lossy"),
    [
        (TIME, 1, "sequence", True),
        (TIME - 20 * SECOND, 1, "sequence", False),
        (TIME, 3, "sequence", False),
        (TIME, 1, "overflow", False),
    ],
)
def test_losses(first, stream, how, lossy):
    """That its events may have been lost is said where some of its stream were, at its time."""
    made = recording(FILTER, RAWS)
    made.losses.append(Loss(stream, first, first + SECOND, 3, how))
    (found,) = Packets(made)
    assert (found.end.sure, "the events were lost" in found.end.text) == (not lossy, lossy)
    assert found.reason == "not seen after raw PREROUTING"
    bare = recording(FILTER, RAWS, lists=0)
    bare.losses.append(Loss(stream, first, first + SECOND, 3, how))
    (found,) = Packets(bare)
    assert found.reason.endswith("socket), or the events were lost" if lossy else "socket)")


def test_the_words():
    (found,) = Packets(recording(FILTER, RAWS))
    assert found.end.text == "routing would have dropped it: there is no route to 10.9.9.9"
    (found,) = Packets(recording(FILTER, RAWS, dst="10.2.0.9"))
    assert found.end.text == (
        "perhaps routing would have forwarded it (10.2.0.0/16 dev eth1): what discarded it is not known"
    )


@pytest.mark.parametrize("source", ["seen", "asked", "recorded"])
@pytest.mark.parametrize("evidence", ["", "the route is blackhole"])
def test_whose_text_is_not_sure(source, evidence):
    """Each end that is not sure says so, once, and no other does, whoever made it."""
    sure = End(source, "BLACKHOLE", "routing would have dropped it", evidence=evidence)
    unsure = replace(sure, sure=False)
    assert not DOUBT.search(sure.text)
    assert len(DOUBT.findall(unsure.text)) == 1
    assert unsure.text.endswith(sure.text)
    assert replace(unsure, sure=True) == sure


def test_no_sentence_has_its_own_doubt():
    """`End.text` has it: where an end is made, and in the words that it is made of, no text says "perhaps"."""
    package = Path(iptrec.__file__).parent
    texts = [path.read_text() for path in package.rglob("*.py")]
    making = [
        one for one in texts if re.search(r"\bEnd\(\n? *\"|\bFate\(|^_BY_BOTH\b", one, re.MULTILINE)
    ]
    assert len(making) >= 8
    said = [
        node.value
        for one in making
        for node in ast.walk(ast.parse(one))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and not node.value.endswith(".")
    ]
    kinds = ("perhaps", "perhaps,")  # of `Vanished`, and of `End.text`
    assert [one for one in said if DOUBT.search(one) and "\n" not in one and one not in kinds] == []


def listening(*ports):
    """Lists of sockets of UDP."""
    every = (
        netlink(
            20, struct.pack(">BBBBHH16s16s", 2, 7, 0, 0, port, 0, bytes(16), bytes(16)) + bytes(32)
        )
        for port in ports
    )
    return DONE * 2 + b"".join(every) + DONE * 2


def with_sockets(made, lists, closed, settings):
    """Add lists of sockets (time, what was listed), and those that were closed (time, what was told)."""
    made.streams.append(Stream(4, 1, "sockets", {}))
    for time, listed in lists:
        made.snapshot("sockets", listed, time)
        made.snapshot("sysctls", json.dumps(settings).encode(), time)
    return made.received(4, [time for time, _ in closed], [one for _, one in closed])


def let_in(first=(), last=(), closed=(), *, tables=FILTER, lists=2, settings=KNOWN):
    """A datagram to port 53 that came to INPUT."""
    made = recording(tables, RAWS, "filter:INPUT:policy:1", dst="10.1.0.1", lists=0)
    listed = [(1, listening(*first)), (1000 * SECOND, listening(*last))]
    gone = [(TIME, listening(port)) for port in closed]
    return with_sockets(made, listed[:lists], gone, settings)


NO_SOCKET = ("NO_SOCKET", False)
TPROXY = MANGLE.replace(
    "COMMIT", "-A PREROUTING -p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0\nCOMMIT"
)
SOCKETS = {
    "nobody": ({}, NO_SOCKET),
    "another port": ({"first": [54], "last": [54], "closed": [54]}, NO_SOCKET),
    "at the start": ({"first": [53]}, None),
    "at the end": ({"last": [53]}, None),
    "in between": ({"closed": [53]}, None),
    "no list of the end": ({"lists": 1}, None),
    "balanced": ({"settings": KNOWN | {"net/ipv4/vs/conntrack": "0"}}, None),
    "diverted": ({"tables": TPROXY + FILTER}, None),
}


@pytest.mark.parametrize("case", SOCKETS)
def test_no_socket(case):
    """Told where none can have been; the packet was accepted all the same."""
    given, expected = SOCKETS[case]
    made = let_in(**given)
    if case != "diverted":
        assert [one.verdict for one in Packets(made)] == ["ACCEPT"]
    assert told(made) == expected


def test_sockets_whose_ends_were_lost():
    made = let_in()
    made.losses.append(Loss(4, TIME, TIME, None, "enobufs"))
    assert told(made) is None


def test_a_fragment_waits_here():
    """Nobody tells how long, nor whether the others came."""
    made = recording(FILTER, RAWS, dst="10.1.0.1")
    data = bytearray(made.chunks_[0].data)
    at = data.index(bytes([10, 1, 0, 9, 10, 1, 0, 1])) - 6
    data[at] |= 0x20  # more fragments
    made.chunks_[0] = replace(made.chunks_[0], data=bytes(data))
    (found,) = Packets(made)
    assert found.end.text == (
        "perhaps routing would have delivered it (local 10.1.0.1/32 dev eth0), where a fragment waits for the"
        " others"
    )


SPOOFED = {"src": "10.2.0.7", "dst": "10.2.0.9"}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, ("NOT_SPECIFIED", False)),
        ({"net/ipv4/conf/all/rp_filter": "1"}, ("IP_RPFILTER", False)),
    ],
)
def test_a_setting_that_changed(after, expected):
    """When is not known: perhaps it was the reason."""
    made = recording(FILTER, RAWS, after=after, **SPOOFED)
    assert told(made) == expected
    (found,) = Packets(made)
    assert found.end.text.startswith(
        "perhaps strict reverse path" if after else "perhaps routing would have forwarded"
    )


def test_who_has_sent_has_a_socket():
    """Of two SYNs that meet neither needs a socket that listens."""
    made = let_in()
    sent = udp(src="10.1.0.1", dst="10.1.0.9", sport=53, dport=1000)
    taken = udp(src="10.1.0.9", dst="10.1.0.1")
    made.chunks_.clear()
    made.events(
        [("raw:OUTPUT:policy:2", sent, {}), ("filter:OUTPUT:policy:1", sent, {})]
        + [(one, taken, {"indev": 2}) for one in (RAWS, "filter:INPUT:policy:1")],
        start_ns=TIME,
    )
    assert [(one.verdict, one.end) for one in Packets(made)] == [("ACCEPT", None)] * 2


@pytest.mark.parametrize("flags", [2, 0xC2], ids=["", "ECN"])
@pytest.mark.parametrize("answered", [True, False])
def test_who_answers_a_syn_has_a_socket(flags, answered):
    """It is in no list: a program of BPF chose another one (bpf_sk_lookup), or its end was told too late."""
    made = let_in()
    made.chunks_.clear()
    asked = frames.ipv4(*frames.tcp(1000, 53, flags), src="10.1.0.9", dst="10.1.0.1")
    told = frames.ipv4(*frames.tcp(53, 1000, 0x12), src="10.1.0.1", dst="10.1.0.9", identity=0)
    events = [(one, asked, {"indev": 2}) for one in (RAWS, "filter:INPUT:policy:1")]
    if answered:
        events += [
            (one, told, {"outdev": 2}) for one in ("raw:OUTPUT:policy:2", "filter:OUTPUT:policy:1")
        ]
    made.events(events, start_ns=TIME)
    found = [one.end and one.end.reason for one in Packets(made)]
    assert found == ([None, None] if answered else ["NO_SOCKET"])


@pytest.mark.parametrize(
    ("detail", "rose", "expected"),
    [
        (None, 1, ("UDP_CSUM", False)),
        ({"not_recorded": "no BTF"}, 1, ("UDP_CSUM", False)),
        ({}, 1, None),
        (None, 0, None),
    ],
)
def test_a_checksum_where_the_kernel_would_have_told(detail, rose, expected):
    """Where its reasons of drops were recorded, they are all that there is to tell."""
    made = let_in(first=[53], last=[53])
    made.chunks_.clear()
    src, dst = "10.1.0.9", "10.1.0.1"
    wrong = frames.ipv4(*frames.summed(frames.udp(1000, 53), src, dst, bad=True), src=src, dst=dst)
    made.events(
        [(one, wrong, {"indev": 2}) for one in (RAWS, "filter:INPUT:policy:1")], start_ns=TIME
    )
    for time, value in ((1, 7), (1000 * SECOND, 7 + rose)):
        told = {"snmp": f"Udp: InCsumErrors\nUdp: {value}\n"}
        made.snapshot("counters", json.dumps(told).encode(), time)
    if detail is not None:
        made.streams.append(Stream(5, 1, "drops", detail))
    (found,) = Packets(made)
    assert (found.end and (found.end.reason, found.end.sure)) == expected


@pytest.mark.parametrize("dead", [1, 2, 3])
def test_nothing_says_perhaps_of_an_end_that_is_sure(dead):
    """Some of three equal packets died, and this host answered about the second one."""
    made = HandMade().ruleset(RAW + FILTER)
    packet = udp(src="10.1.0.9", dst="10.1.0.1", ident=9)
    body = struct.pack("!BBHI", 3, 3, 0, 0) + packet
    error = frames.ipv4(1, body, src="10.1.0.1", dst="10.1.0.9")
    came = [(one, packet, {"indev": 2}) for one in (RAWS, "filter:INPUT:policy:1")]
    sent = [
        (f"{one}:OUTPUT:policy:{number}", error, {"outdev": 2})
        for one, number in (("raw", 2), ("filter", 1))
    ]
    made.events([*came * 2, *sent, *came], start_ns=TIME, step_ns=1000)
    record = TIME + 100_000, 3, packet, {}
    made.drops([record] * dead, ["__udp4_lib_rcv+0x1"])
    _, second, _, _ = Packets(made)
    assert second.end.sure
    assert "perhaps" not in (second.reason or "")
    assert dead == 3 or second.reason == f"the kernel dropped {dead} of 3 equal packets"


def unanswered(errors):
    """Three equal packets for a neighbour, and errors that quote one of them."""
    made = HandMade().ruleset(RAW + FILTER)
    packet = udp(src="10.1.0.9", dst="10.2.0.9", ident=0)
    body = struct.pack("!BBHI", 3, 1, 0, 0) + packet
    error = frames.ipv4(1, body, src="10.1.0.1", dst="10.1.0.9")
    passed = [
        (RAWS, packet, {"indev": 2}),
        ("filter:FORWARD:policy:1", packet, {"indev": 2, "outdev": 3}),
    ]
    sent = [
        ("raw:OUTPUT:policy:2", error, {"outdev": 2}),
        ("filter:OUTPUT:policy:1", error, {"outdev": 2}),
    ]
    return made.events([*passed * 3, *sent * errors], start_ns=TIME, step_ns=SECOND // 4)


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_equal_packets_whose_neighbour_does_not_answer(errors):
    """Each has its error, or nobody knows whose the errors are."""
    ends = [one.end for one in Packets(unanswered(errors))][:3]
    assert [(one.reason, one.sure) for one in ends] == [("NEIGH_FAILED", errors == 3)] * 3
    said = "the next hop did not answer: this host answered host-unreachable (#"
    if errors == 3:
        assert [one.text for one in ends] == [f"{said}{number})" for number in (4, 5, 6)]
    else:
        assert {one.text for one in ends} == {f"perhaps {said}4), about it or another packet"}
