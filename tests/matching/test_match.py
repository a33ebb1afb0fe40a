"""Matches of rules against a packet: what a stranger's ruleset may say must not raise."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import packet
from iptrec.decode.rulesets import iptables_save
from iptrec.matching import judge
from iptrec.matching.bits import Bits
from iptrec.matching.facts import Facts
from iptrec.matching.iptables_host import UNREAD
from iptrec.matching.iptables_options import MODULES

HEADER = {
    "src": "fd00::1",
    "dst": "ff02::1",
    "proto": "udp",
    "length": 60,
    "hop_limit": 1,
    "sport": 1,
    "dport": 2,
}
FACTS = Facts(HEADER, 0, "eth0", None, None, None, "02:00:00:00:00:01", None)
OPTIONS = [
    "-p", "-s", "-d", "-i", "-o", "-f", "--sport", "--dport", "--sports", "--dports", "--ports",
    "--tcp-flags", "--icmp-type", "--icmpv6-type", "--src-range", "--dst-range", "--mark", "--src-type",
    "--dst-type", "--length", "--ttl-eq", "--hl-lt", "--mac-source", "--physdev-in", "--comment", "-m",
    "!", "tcp", "udp", "state", "statistic",
]  # fmt: skip


def rule(spec):
    return (
        iptables_save.parse(f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {spec}\nCOMMIT\n".encode())
        .tables["filter"]["INPUT"]
        .rules[0]
    )


CASES = {
    "-s fd00::/64 -j DROP": (True, None),
    "-s 10.0.0.0/8 -j DROP": (False, "-s 10.0.0.0/8 (it is fd00::1)"),
    "! -d ff02::1/128 -j DROP": (False, "! -d ff02::1/128 (it is ff02::1)"),
    "-m hl --hl-lt 2 -j DROP": (True, None),
    "-m mac --mac-source 02:00:00:00:00:01 -j DROP": (True, None),
    "-m addrtype --dst-type MULTICAST -j DROP": (True, None),
    "-m addrtype --src-type LOCAL -j DROP": (None, "--src-type LOCAL"),
    "-m addrtype --src-type BLACKHOLE -j DROP": (None, "--src-type BLACKHOLE"),
    "-m socket -j DROP": (None, "-m socket"),
    "-m socket -p tcp -j DROP": (False, "-p tcp (it is udp)"),
    "-m conntrack --ctstate NEW -m udp --dport 3": (False, "--dport 3 (it is 2)"),
    # Of no connection there is no protocol, and a packet that is no ICMP error has that of its connection.
    "-m conntrack --ctproto 6 -j DROP": (False, "--ctproto 6 (it is udp)"),
    "-m conntrack ! --ctproto 17 -j DROP": (False, "! --ctproto 17 (it is udp)"),
    "-m conntrack --ctproto 17 -j DROP": (None, "--ctproto 17"),
    "-m conntrack ! --ctproto 6 -j DROP": (None, "! --ctproto 6"),
    "-m conntrack --ctstate INVALID --ctproto 6 -j DROP": (None, "--ctstate INVALID"),
    "-m set --match-set bad src -j DROP": (None, "--match-set bad src"),
    # An option is of the module that was loaded last and has it.
    "-m mark --mark 0x0 -j DROP": (True, None),
    "-m mark ! --mark 0x0 -j DROP": (False, "! --mark 0x0 (it is 0x0)"),
    "-m connmark --mark 0x0 -j DROP": (None, "--mark 0x0"),
    "-m connmark ! --mark 0x0 -j DROP": (None, "! --mark 0x0"),
    "-m connmark --mark 0x1 -j DROP": (None, "--mark 0x1"),
    "-m mark --mark 0x0 -m connmark --mark 0x1 -j DROP": (None, "--mark 0x1"),
    "-m connmark --mark 0x1 -m mark --mark 0x2 -j DROP": (False, "--mark 0x2 (it is 0x0)"),
    "-m mark -m connmark --mark 0x1 -j DROP": (None, "-m mark"),
    "-m mark -m comment --comment x --mark 0x1 -j DROP": (False, "--mark 0x1 (it is 0x0)"),
    "-m third-party --mark 0x1 -j DROP": (None, "--mark 0x1"),
    "-m third-party --length 1 -j DROP": (None, "--length 1"),
    "--mark 0x1 -j DROP": (None, "--mark 0x1"),
    # A protocol loads the module of its name where an option asks for it.
    "-p udp --dport 3 -j DROP": (False, "--dport 3 (it is 2)"),
    "-p 17 --dport 3 -j DROP": (False, "--dport 3 (it is 2)"),
    "-p udp -m mark --mark 0x0 --dport 3 -j DROP": (False, "--dport 3 (it is 2)"),
    "-m mark --mark 0x0 -p udp --dport 3 -j DROP": (False, "--dport 3 (it is 2)"),
    "-p ipip -j DROP": (False, "-p ipip (it is udp)"),
    "-m rpfilter --invert -j DROP": (None, "--invert"),
    "-m pkttype --pkt-type unicast -j DROP": (None, "--pkt-type unicast"),
    "-p ipv6-icmp --icmpv6-type 128 -j DROP": (False, "-p ipv6-icmp (it is udp)"),
    # By one interface's addresses: which they are is not known here.
    "-m addrtype --dst-type LOCAL --limit-iface-in -j DROP": (
        None, "--dst-type LOCAL --limit-iface-in"
    ),
    "-m addrtype ! --src-type MULTICAST --dst-type LOCAL --limit-iface-in -j DROP": (
        None, "--dst-type LOCAL --limit-iface-in"
    ),
    '-m bpf --bytecode "2,48 0 0 4294963220,22 0 0 0" -j DROP': (  # loads the mark
        None, '--bytecode "2,48 0 0 4294963220,22 0 0 0"'
    ),
    # The kernel would not have taken these.
    '-m bpf --bytecode "2,5 0 0 -2,6 0 0 1" -j DROP': (None, '--bytecode "2,5 0 0 -2,6 0 0 1"'),
    '-m bpf --bytecode "1,5 0 0 7" -j DROP': (None, '--bytecode "1,5 0 0 7"'),
    '-m bpf --bytecode "9,6 0 0 1" -j DROP': (None, '--bytecode "9,6 0 0 1"'),
    "-m policy --dir in --pol none -j DROP": (None, f"--dir in --pol none ({UNREAD})"),
    "-m policy --dir in --pol ipsec ! --reqid 5 -j DROP": (
        None, f"--dir in --pol ipsec ! --reqid 5 ({UNREAD})"
    ),
    "-m devgroup ! --src-group 0x5 -j DROP": (None, "! --src-group 0x5"),
    '-m comment --comment "-p tcp" -j DROP': (True, None),
    "-j DROP": (True, None),
}  # fmt: skip


@pytest.mark.parametrize("spec", CASES)
def test_judgements(spec):
    """Yes, no and why not, or what it depends on; a condition that fails decides, whatever is unknown."""
    found = judge(rule(spec), FACTS)
    assert (found.fits, found.because) == CASES[spec]


def test_the_page_names_every_module():
    """What is judged is in docs/matches.md."""
    page = (Path(__file__).parents[2] / "docs/matches.md").read_text()
    judged = re.findall(r"^\| ([\w, ]+) \| ", page, re.MULTILINE)
    assert {name for one in judged for name in one.split(", ")} - {"module"} == MODULES.keys() - {
        "comment"
    }


@given(
    words=st.lists(
        st.sampled_from(OPTIONS) | st.text("0123456789abcdef.:/,-²\\", min_size=1, max_size=9),
        max_size=12,
    )
)
def test_no_rule_raises(words):
    """Numbers that are none, masks out of range, options without values."""
    spec = " ".join(word for word in words if word not in ("-j", "-g")) + " -j DROP"
    found = judge(rule(spec), FACTS)
    assert found.fits in (True, False, None)
    assert (found.because is None) == (found.fits is True)


def test_numbers_too_long_for_python():
    """A number of ten thousand digits is no port."""
    assert judge(rule(f"--dport {'9' * 10_000} -j DROP"), FACTS).fits in (False, None)
    assert judge(rule(f"-s fd00::/{'9' * 10_000} -j DROP"), FACTS).fits is None


OLD, NEW = (6, 6), (6, 7)  # the kernel finds no pattern that ends behind --to since then
TEXT = b"....needle.."  # behind IPv6's header: from byte 44 to 50
STRINGS = [
    ("", OLD, True),
    ("", NEW, True),
    ("--from 44", NEW, True),
    ("--from 45", NEW, False),
    ("--to 50", OLD, True),
    ("--to 50", NEW, True),
    ("--to 49", OLD, None),
    ("--to 49", NEW, False),
    ("--to 44", OLD, None),
    ("--to 44", NEW, False),
    ("--to 43", OLD, False),
    ("--from 44 --to 44", (0, 0), None),
    ("--from 40 --to 44", NEW, False),
]


def captured(body, following=17, cut=None):
    """A packet of IPv6, as far as it was captured."""
    whole = bytes([0x60, 0, 0, 0, 0, len(body), following, 64]) + bytes(32) + body
    data = whole[:cut]
    return replace(FACTS, header=packet.header(data, 10), bits=Bits(data))


@pytest.mark.parametrize(("span", "kernel", "fits"), STRINGS)
def test_where_a_pattern_may_be(span, kernel, fits):
    """All of it before --to; older kernels find some that only begin there, as the packet lies in memory."""
    facts = replace(captured(TEXT), kernel=kernel)
    assert judge(rule(f'-m string --string "needle" --algo bm {span}'), facts).fits is fits
    wanted = fits if fits is None else not fits
    assert judge(rule(f'-m string ! --string "needle" --algo bm {span}'), facts).fits is wanted


@pytest.mark.parametrize(
    ("cut", "kernel", "fits"), [(48, NEW, False), (47, NEW, None), (48, OLD, None)]
)
def test_a_pattern_behind_what_was_captured(cut, kernel, fits):
    facts = replace(captured(TEXT, cut=cut), kernel=kernel)
    assert judge(rule('-m string --string "needle" --algo bm --to 48'), facts).fits is fits


PROGRAMS = {
    "6 0 0 1": True,
    "6 0 0 0": False,
    "128 0 0 0,53 0 1 47,6 0 0 1,6 0 0 0": True,  # 47 bytes at least
    "48 0 0 46,22 0 0 0": None,  # not captured
    "48 0 0 47,6 0 0 1": False,  # behind the packet's end
    "1 0 0 4294967295,80 0 0 1,6 0 0 1": True,  # at byte 0
    "4 0 0 1,53 0 1 1,6 0 0 1,6 0 0 0": True,
    "20 0 0 1,21 0 1 4294967295,6 0 0 1,6 0 0 0": True,  # below zero
    "0 0 0 5,132 0 0 0,21 0 1 4294967291,6 0 0 1,6 0 0 0": True,
    "0 0 0 3,60 0 0 0,6 0 0 1": False,  # by zero
    "5 0 0 9,6 0 0 1": None,  # to nowhere
    "85 0 0 0,6 0 0 1": None,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_bpf(program):
    """Run over what was captured; what the kernel would not take is not run."""
    count = program.count(",") + 1
    found = judge(rule(f'-m bpf --bytecode "{count},{program}"'), captured(TEXT[:7], cut=45))
    assert found.fits is PROGRAMS[program]


@pytest.mark.parametrize(
    ("written", "fits"),
    [("meta mark", True), ("ip6 hoplimit", None), ("udp checksum", True), ("", None)],
)
def test_bytes_that_rules_may_have_changed(written, fits):
    """They are not what was captured; what is before them is."""
    facts = replace(captured(bytes(20)), written=frozenset([written]))
    assert judge(rule('-m u32 --u32 "0x4&0xff=0x40"'), facts).fits is fits


LATER = bytes.fromhex("11000008") + bytes(4) + bytes(16)  # a fragment of UDP with an offset
FIRST = bytes.fromhex("11000001") + bytes(4) + bytes(16)
OF_FRAGMENT = bytes.fromhex("3c000008") + bytes(4) + bytes.fromhex("1100010400000000") + bytes(8)
OPTIONS_FIRST = bytes.fromhex("2c00010400000000") + FIRST
HEADERS = [
    (44, LATER, "--header ipv6-frag", False),
    (44, LATER, "--header ipv6-frag,protocol", True),
    (44, LATER, "! --header ipv6-frag", True),
    (44, LATER, "--header ipv6-frag --soft", True),
    (44, FIRST, "--header ipv6-frag,protocol", True),
    # Of a later fragment the kernel takes data for headers.
    (44, OF_FRAGMENT, "--header ipv6-frag,ipv6-opts,protocol", True),
    (60, OPTIONS_FIRST, "--header ipv6-frag,ipv6-opts --soft", True),
    (60, OPTIONS_FIRST, "! --header ipv6-frag,ipv6-opts --soft", False),
    # None of them, not: not all of them
    (44, FIRST, "! --header ipv6-frag,ipv6-opts --soft", False),
    (44, FIRST, "--header ipv6-frag,ipv6-opts --soft", False),
    (44, FIRST, "! --header esp,ipv6-opts --soft", True),
    (50, bytes(8), "--header esp", True),
    (59, b"\0\0", "--header ipv6-nonxt", True),
    (17, bytes(8), "--header protocol", True),
    # Without room for a header there is no match, whatever is negated.
    (44, b"", "--header ipv6-frag --soft", False),
    (44, b"\x11", "! --header protocol", False),
    (50, b"\0", "! --header protocol", False),
    # Behind a header that says to be longer than the packet there is no other one.
    (60, bytes.fromhex("2c280104000000000000"), "--header ipv6-opts,protocol", True),
]


@pytest.mark.parametrize(("following", "body", "asked", "fits"), HEADERS)
def test_headers_of_ipv6(following, body, asked, fits):
    """As net/ipv6/netfilter/ip6t_ipv6header.c walks over them."""
    found = judge(rule(f"-m ipv6header {asked}"), captured(body, following))
    assert found.fits is fits
    assert judge(rule(f"-m ipv6header {asked}"), captured(body, following, 40)).fits in (None, fits)


WITH_OPTIONS = bytes.fromhex("0009005000000001000000007002ffff00000000020405b401030307")  # TCP
CUT_TCP = [
    ("-p tcp -m tcp --tcp-option 2", 60, "--tcp-option 2 ({} 20 bytes of the TCP header)"),
    ("-p tcp -m tcpmss ! --mss 536", 64, "! --mss 536 ({} 24 bytes of the TCP header)"),
    ("-p tcp -m tcpmss --mss 536", 50, "--mss 536 ({} 10 bytes of the TCP header)"),
    ("-p tcp -m tcpmss --mss 1460", 68, None),
]


@pytest.mark.parametrize(("spec", "cut", "because"), CUT_TCP)
def test_what_was_dumped_of_tcp(spec, cut, because):
    """Why its options are not judged."""
    found = judge(rule(spec), captured(WITH_OPTIONS, 6, cut))
    assert found.because == (because and because.format("the kernel dumped no more than"))
    assert found.fits is (True if because is None else None)


BEYOND = bytes.fromhex("1128010400000000") + bytes(16)  # says to have 328 bytes
WITHIN = bytes.fromhex("1100010400000000") + bytes(16)


@pytest.mark.parametrize("asked", ["-m dst", "-m dst --dst-len 328", "-m dst ! --dst-len 8"])
def test_options_that_are_longer_than_their_packet(asked):
    """They match nothing, whatever is negated: the match drops them (ip6t_hbh.c)."""
    found = judge(rule(asked), captured(BEYOND, 60))
    assert found.fits is False
    assert found.because.endswith("(it is cut short)")
    assert judge(rule("-m dst --dst-len 8"), captured(WITHIN, 60)).fits is True
