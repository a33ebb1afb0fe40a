"""Packets of which nf_tables dumps a part: what was not dumped is not invented."""

from __future__ import annotations

import json
import re
import sys

import frames
import pytest
from command import IPTREC

import iptrec

pytestmark = pytest.mark.live

# From an interface's other end, as frames: what the kernel makes of them is no matter of sockets.
SEND = """\
import socket, struct, sys
MAC = bytes.fromhex(sys.argv[1].replace(":", ""))
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
SRC6, DST6 = (socket.inet_pton(socket.AF_INET6, one) for one in ("fd00::2", "fd00::1"))
SRC4, DST4 = (socket.inet_aton(one) for one in ("10.0.1.2", "10.0.1.1"))
udp = lambda port: struct.pack("!HHHH", 7777, port, 8 + 16, 0) + bytes(16)
tcp = lambda port: struct.pack("!HHIIBBHHH", 7777, port, 1, 0, 0x50, 2, 99, 0, 0)
options = lambda following, size=1: bytes([following, size - 1, 1, 8 * size - 4]) + bytes(8 * size - 4)
def six(protocol, body):
    frame(0x86DD, struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + SRC6 + DST6 + body)
def four(protocol, body, extra=b"", fragment=0):
    size = 20 + len(extra)
    head = struct.pack("!BBHHHBBH", 0x40 + size // 4, 0, size + len(body), 4242, fragment, 64, protocol, 0)
    head += SRC4 + DST4 + extra
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    frame(0x0800, head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + body)
def frame(kind, packet):
    out.send(MAC + bytes(6) + struct.pack("!H", kind) + packet)
six(17, udp(1000))
six(60, options(17) + udp(1001))
six(60, options(6, 4) + tcp(1002))
six(0, options(60) + options(17) + udp(1003))
six(43, bytes([17, 0, 4, 0]) + bytes(4) + udp(1004))
four(17, udp(1005))
four(17, udp(1006), bytes([1] * 20))
four(17, udp(1007), bytes([1] * 24))
four(17, udp(1008), fragment=0x2000)
"""
IP6 = {"src": "fd00::2", "dst": "fd00::1"}
IP4 = {"src": "10.0.1.2", "dst": "10.0.1.1", "id": 4242}
EXPECTED = [  # some fields of the header, those that must not be there
    (IP6 | {"proto": "udp", "sport": 7777, "dport": 1000, "length": 64}, ["ext", "truncated"]),
    (IP6 | {"proto": None, "ext": ["dstopts"], "truncated": True, "length": 72}, ["sport"]),
    (IP6 | {"proto": None, "ext": ["dstopts"], "truncated": True, "length": 92}, ["sport"]),
    (IP6 | {"proto": None, "ext": ["hopopt"], "truncated": True, "length": 80}, ["sport"]),
    (IP6 | {"proto": None, "ext": ["routing"], "truncated": True, "length": 72}, ["sport"]),
    (IP4 | {"proto": "udp", "sport": 7777, "dport": 1005, "length": 44}, ["truncated"]),
    (IP4 | {"proto": "udp", "sport": 7777, "dport": 1006, "length": 64}, ["truncated"]),
    (IP4 | {"proto": "udp", "truncated": True, "length": 68}, ["sport"]),
    (IP4 | {"proto": "udp", "sport": 7777, "dport": 1008, "frag": 0, "mf": True}, ["truncated"]),
]
RULES = {  # where the packet is first told of
    "inet": "table inet t { chain c { type filter hook prerouting priority -300; counter; }; }",
    "netdev": "table netdev t { chain c { type filter hook ingress device va priority 0; counter; }; }",
}


def sender(lab, rules):
    """A host "a", whose frames come in at "va"."""
    lab.host("a")
    lab.link("a", "eth0", "10.0.1.2/24", peer="va")
    lab.ip(None, "address add 10.0.1.1/24 dev va")
    lab.ip(None, "address add fd00::1/64 dev va nodad")
    lab.settle()
    lab.run(["nft", rules])


def record(lab, directory):
    """A recording of what SEND sends."""
    mac = frames.mac(lab, None, "va")
    trace = str(directory / "t.db")
    lab.run([*IPTREC, "record", "-q", "--drops=no", "--backend", "nft", "-o", trace, "--", "nsenter",
             "--net=/run/netns/a", sys.executable, "-c", SEND, mac])  # fmt: skip
    return trace


@pytest.mark.parametrize("rules", RULES)
def test_no_header_is_invented(lab, tmp_path, rules):
    """Extension headers, options and fragments: what is told of each packet was sent so."""
    sender(lab, RULES[rules])
    trace = record(lab, tmp_path)
    shown = lab.run([*IPTREC, "show", "--json", trace]).stdout.splitlines()
    found = [
        one for one in map(json.loads, shown) if one["header"]["src"] in ("fd00::2", "10.0.1.2")
    ]
    found = [one for one in found if one["header"].get("name") is None]  # ICMP of the kernel's
    assert len(found) == len(EXPECTED)
    for one, (fields, absent) in zip(found, EXPECTED, strict=True):
        header = one["header"]
        assert {name: header.get(name) for name in fields} == fields
        assert not set(absent) & set(header), header
        assert one["family"] == ("ipv6" if header["src"] == "fd00::2" else "ipv4")
        assert one["in"] == "va"


def test_ipv6_at_egress(lab, tmp_path):
    """No link header is there yet: the packet is told once, with its family, from OUTPUT to the device."""
    lab.host("a")
    lab.link("a", "eth0", "10.0.1.2/24", peer="va")
    lab.ip(None, "address add fd00::1/64 dev va nodad")
    lab.ip("a", "address add fd00::2/64 dev eth0 nodad")
    lab.settle()
    lab.run(
        [
            "nft",
            "table netdev t { chain c { type filter hook egress device va priority 0; counter; }; }",
        ]
    )
    trace = str(tmp_path / "t.db")
    lab.run(
        [
            *IPTREC,
            "record",
            "-q",
            "--drops=no",
            "--backend",
            "nft",
            "-o",
            trace,
            "ip6",
            "--",
            "ping",
            "-c1",
            "fd00::2",
        ]
    )
    shown = map(json.loads, lab.run([*IPTREC, "show", "--json", trace]).stdout.splitlines())
    found = [one for one in shown if one["header"].get("name") == "echo-request"]
    assert [(one["family"], one["out"], one["complete"]) for one in found] == [("ipv6", "va", True)]
    assert [step["table"] for step in found[0]["steps"]] == ["raw", "netdev t", "netdev t"]


def test_what_a_filter_cannot_judge(lab, tmp_path):
    """It is said, and no expectation passes by ignorance; what does not depend on such packets passes."""
    sender(lab, RULES["inet"])
    trace = record(lab, tmp_path)
    filtered = ["udp", "dst", "port", "1001"]
    for command in (
        ["show"],
        ["paths"],
        ["why"],
        ["export", "ndjson", "-o", "-"],
        ["rules", "--hit"],
    ):
        done = lab.run([*IPTREC, *command, trace, *filtered], check=False)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert (
            "the filter cannot judge 1 packet: the headers were not recorded whole" in done.stderr
        )
    with iptrec.open(trace) as recording:
        words = " ".join(filtered)
        answers = recording.packets(words), recording.explain(words), recording.paths(words)
        assert [(list(one), one.unjudged) for one in answers] == [([], 1)] * 3
    asked = {  # conditions and what is required; whether it holds
        'filter = "udp dst port 1001"\nmin = 0\nmax = 0': "unknown",  # sent, behind an extension header
        'filter = "udp dst port 1001"': "unknown",
        'filter = "udp dst port 1001"\nmin = 2': "failed",
        'filter = "udp dst port 1001"\nmin = 0\nverdict = "DROP"': "unknown",
        'filter = "udp dst port 1001"\nmin = 0\nverdict = "ACCEPT"': "ok",
        'filter = "udp dst port 1007"\nmin = 0\nmax = 0': "unknown",  # behind long options
        'filter = "tcp dst port 1002"\nmin = 0\nmax = 0': "unknown",
        'filter = "udp dst port 1099"\nmin = 0\nmax = 0': "ok",  # nobody can have sent it
        'filter = "udp dst port 1000"\nmax = 1': "ok",
    }
    expectations = tmp_path / "e.toml"
    expectations.write_text("".join(f"[[expect]]\n{one}\n" for one in asked))
    junit = tmp_path / "j.xml"
    command = [*IPTREC, "check", trace, str(expectations), "--junit", str(junit)]
    done = lab.run([*command, "--json"], check=False)
    assert done.returncode == 1
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["result"] for one in results] == [*asked.values()]
    assert [one["ok"] for one in results] == [one == "ok" for one in asked.values()]
    assert [one["unjudged"] for one in results] == [1] * 7 + [0, 0]
    told = "not known: the filter cannot judge 1 packet: the headers were not recorded whole"
    assert junit.read_text().count(f'<failure type="unknown" message="{told}"') == 5
    lines = lab.run(command, check=False).stdout.splitlines()
    assert lines[0].startswith("???? ")
    assert lines[0].endswith(told)
    words = {"ok": "ok  ", "unknown": "????", "failed": "FAIL"}
    assert [line[:4] for line in lines] == [words[one] for one in asked.values()]


def test_a_protocol_that_is_not_known(lab, tmp_path):
    """It is said so, where packets are counted and where one is explained."""
    sender(lab, RULES["inet"])
    trace = record(lab, tmp_path)
    info = " ".join(lab.run([*IPTREC, "info", trace]).stdout.split())
    assert re.search(r"\d+ udp\b", info)  # others send, too, as hosts do that come up
    assert re.search(r"\d+ not known \(the headers were not recorded whole\)", info)
    assert (
        json.loads(lab.run([*IPTREC, "info", "--json", trace]).stdout)["protocols"]["unknown"] >= 4
    )
    with iptrec.open(trace) as recording:
        unknown = [
            one.number
            for one in recording.packets()
            if one.header["proto"] is None and one.header["src"] == "fd00::2"
        ]
    assert unknown
    why = lab.run([*IPTREC, "why", trace, "--packet", str(unknown[0])]).stdout
    assert re.search(rf"^#{unknown[0]} \S+ ACCEPT ipv6 fd00::2 > fd00::1 in ", why, re.MULTILINE)


@pytest.mark.parametrize("untold", [0, 5])
def test_what_nf_tables_tells_nothing_of(lab, tmp_path, untold):
    """Of IPv6 whose extension headers reach past its end no message comes; that rules counted it says so."""
    sender(lab, RULES["inet"])
    sound = frames.ipv6(60, bytes([17, 0, 1, 4, 0, 0, 0, 0]) + bytes(16))
    beyond = frames.ipv6(60, bytes([17, 40, 1, 4, 0, 0, 0, 0]) + bytes(16))
    sent = frames.framed([sound] * 3 + [beyond] * untold, frames.mac(lab, None, "va"), "02" * 6)
    path = tmp_path / "t.db"
    enter = ["nsenter", "--net=/run/netns/a", sys.executable, "-c", frames.SEND, "/dev/stdin"]
    record = [*IPTREC, "record", "-q", "--backend", "nft", "--family", "ipv6", "--iface", "va"]
    lab.run([*record, "--drops", "no", "-o", path, "--", *enter], stdin=json.dumps(sent))
    info = json.loads(lab.run([*IPTREC, "info", "--json", path]).stdout)
    assert info["untold"] == untold
    assert not (untold and info["complete"])
    text = lab.run([*IPTREC, "info", path]).stdout.splitlines()[0]
    assert ("nf_tables told nothing of 5 packets" in text) == bool(untold)
    said = lab.run([*IPTREC, "rules", path]).stderr
    assert said == ("iptrec rules: nf_tables told nothing of 5 packets\n" if untold else "")
