"""Lines of xtables-monitor --trace become events, as iptables 1.8.9 printed them on Linux 6.18."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import packet
from iptrec.pasted.nft_events import VERDICTS, Event
from iptrec.pasted.nft_monitor import Lost, Unread
from iptrec.pasted.xtables_monitor import Monitor, is_line

FRAME = "IN=n23v0 MACSRC=7e:8d:26:81:77:e3 MACDST=ca:81:22:cf:1b:d MACPROTO=0800 "
UDP = f"PACKET: 2 57e66e4a {FRAME}SRC=10.23.0.2 DST=10.23.0.1 LEN=39 TOS=0x8 TTL=64 ID=35567 DF"
UDP += " SPORT=9 DPORT=53 "
RULE = " TRACE: 2 57e66e4a raw:PREROUTING:rule:0x2:CONTINUE  -4 -t raw -A PREROUTING -j TRACE"


def events(*lines):
    """What lines tell."""
    monitor = Monitor()
    found = [one for line in lines for one in monitor.feed(line)]
    return [*found, *monitor.finish()]


def header(event):
    """The headers that came with an event."""
    data = event.packet.network + event.packet.transport
    return packet.header(data, 2 if event.version == 4 else 10)


def test_a_packet():
    """Its headers, its interface, its frame; the mark is told if it is not 0."""
    one, two = events(UDP, RULE, UDP + "MARK=0x17 ", RULE)
    told = header(one)
    assert (told["src"], told["dst"], told["tos"], told["id"]) == (
        "10.23.0.2",
        "10.23.0.1",
        8,
        35567,
    )
    assert (told["proto"], told["sport"], told["dport"], told["length"]) == ("udp", 9, 53, 39)
    assert one.packet.iif == "n23v0"
    assert packet.link(one.packet.link)["dst"] == "ca:81:22:cf:1b:0d"
    assert one.packet.network[6] == 0x40
    assert (one.mark, two.mark) == (0, 0x17)


def test_an_old_version():
    """There the packet's line comes behind the event's, and nothing is between ID and DF."""
    old = UDP.replace("PACKET: 2", "PACKET: 0").replace("ID=35567 DF", "ID=35567DF")
    first, second, third = events(RULE, old, RULE.replace("raw:", "nat:"), RULE, old)
    assert first.packet == third.packet
    assert header(first)["dport"] == 53
    assert second.packet is None


def test_ipv6():
    """The length that is told is 20 short; the flow label is decimal."""
    fields = "OUT=n23v0 SRC=fd23::1 DST=fd23::2 LEN=84 TC=3 HOPLIMIT=64 FLOWLBL=139190 "
    policy = " TRACE: 10 a859863d raw:OUTPUT:policy:ACCEPT "
    (one,) = events(f"PACKET: 10 a859863d {fields}", policy)
    told = header(one)
    assert (told["length"], told["flow_label"], told["tos"], told["hop_limit"]) == (
        104,
        139190,
        3,
        64,
    )
    assert (one.family, one.packet.oif, one.policy) == ("ip6", "n23v0", True)


@pytest.mark.parametrize(
    ("fields", "rule", "protocol"),
    [
        ("SPORT=1 DPORT=2 ACK RST ", "-j TRACE", "tcp"),
        ("SPORT=1 DPORT=2 ", "-p sctp -j TRACE", "sctp"),
        ("SPORT=1 DPORT=2 ", "! -p sctp -j TRACE", "udp"),
        ("SPORT=1 DPORT=2 ", "-j TRACE", "udp"),
        ("", "-p icmp -j TRACE", "icmp"),
        ("", "-p 89 -j TRACE", "ospf"),
        ("", "-j TRACE", "255"),
    ],
)
def test_protocols(fields, rule, protocol):
    """By TCP's flags, by what a rule that matched asks for, also a later one; else it is not known."""
    before = "PACKET: 2 57e66e4a SRC=10.0.0.1 DST=10.0.0.2 LEN=40 TOS=0x0 TTL=64 ID=1 "
    later = f" TRACE: 2 57e66e4a filter:INPUT:rule:0x3:ACCEPT  -4 -t filter -A INPUT {rule}"
    assert header(events(before + fields, RULE, later)[0])["proto"] == protocol


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("raw:PREROUTING:policy:ACCEPT ", {"policy": True, "verdict": VERDICTS["accept"]}),
        ("raw:PREROUTING:return:", {}),
        ("raw:PREROUTING:rule:0x0:CONTINUE ", {}),
        (
            "raw:PREROUTING:rule:0x1f:JUMP:a:b  -4 -t raw -A PREROUTING -j a:b",
            {"handle": 31, "verdict": VERDICTS["jump"], "target": "a:b", "text": "-j a:b"},
        ),
        (
            "raw:PREROUTING:rule:0x2:0xfffffffb  -4 -t raw [7:9] -A PREROUTING -j RETURN",
            {"handle": 2, "verdict": VERDICTS["return"], "text": "-j RETURN"},
        ),
    ],
)
def test_events(line, event):
    """Each kind of line."""
    head = {
        "trace": 0x57E66E4A,
        "family": "ip",
        "table": "raw",
        "chain": "PREROUTING",
        "version": 4,
    }
    assert events(f" TRACE: 2 57e66e4a {line}") == [Event(**head | event)]
    assert events(f"Nov 30 05:25:29 host x[7]:  TRACE: 2 57e66e4a {line}") == [
        Event(**head | event)
    ]


def test_a_chain_with_a_colon():
    """They are allowed; the rule's own words tell where the name ends."""
    (one,) = events(
        " TRACE: 2 57e66e4a filter:a:rule:0x1:b:rule:0x3:DROP  -4 -t filter -A a:rule:0x1:b -j DROP"
    )
    assert (one.chain, one.handle) == ("a:rule:0x1:b", 3)


def test_others():
    """Lines of --event are none of a trace; a loss is one."""
    assert (
        events(
            " EVENT: -4 -t filter -A INPUT -j ACCEPT",
            "NEWGEN: GENID=44 PID=10645 NAME=iptables-nft-re",
        )
        == []
    )
    assert events("error: No buffer space available") == [Lost()]
    assert is_line(RULE)
    assert is_line(UDP)
    assert not is_line("TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= SRC=10.0.0.1")
    assert not is_line("trace id 5d333a07 inet fw input policy accept")


@given(
    st.lists(st.text(max_size=90).map(lambda one: one.replace("\n", " ")), max_size=5),
    st.sampled_from(["", UDP, "PACKET: 2 57e66e4a SRC=", RULE, " TRACE: 7 57e66e4a a:b:rule:0x"]),
)
def test_any_text(lines, before):
    """Whatever a text holds, it gives events, losses and what could not be read."""
    for one in events(*(before + line for line in lines)):
        assert isinstance(one, Event | Lost | Unread)


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ("NFPROTO=2 SRC=10.23.0.2 DST=10.23.0.1 LEN=36 TOS=0x0 TTL=64 ID=7 SPORT=9 DPORT=53 ", 4),
        (
            "NFPROTO=10 SRC=fd23::2 DST=fd23::1 LEN=84 TC=0 HOPLIMIT=64 FLOWLBL=7 SPORT=9 DPORT=53 ",
            6,
        ),
    ],
)
def test_tables_of_inet(fields, version):
    """They have the packets of both versions of IP, and no text of their rules."""
    packet_line = f"PACKET: 1 57e66e4a IN=n23v0 {fields}"
    rule, policy = (
        f" TRACE: 1 57e66e4a fw:fwd:{one}" for one in ("rule:0x19:CONTINUE  ", "policy:ACCEPT ")
    )
    found = events(packet_line, rule, policy)
    assert [(one.family, one.table, one.chain, one.version) for one in found] == [
        ("inet", "fw", "fwd", version)
    ] * 2
    assert (found[0].handle, found[0].text, found[1].policy) == (0x19, None, True)
    assert found[0].packet.iif == "n23v0"
    told = header(found[0])
    assert (told["src"], told["dport"]) == (fields.split()[1][4:], 53)


def test_a_rule_that_cannot_be_printed():
    """Its handle and its verdict are told (as 1.8.9 does with rules of nft's own)."""
    (found,) = events(" TRACE: 10 2a5a1ee3 x6:fwdc:rule:0x3:ACCEPT  -6 -t x6 ")
    assert (found.table, found.chain, found.handle) == ("x6", "fwdc", 3)
    assert (found.verdict, found.text) == (VERDICTS["accept"], None)
