"""`iptrec why`: what native rules ask of connections and of inner headers, and what they make of marks."""

from __future__ import annotations

import json
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims
from rights import LINUX

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(LINUX < (6, 16), reason="traces do not tell of connections"),
]

ENTER = ("nsenter", "--net=/run/netns/h", sys.executable, "-c")
ZONES = """\
table ip fw {
	chain early {
		type filter hook prerouting priority -350; policy accept
		ct zone 0 counter
		udp dport 5000 ct zone set 5 counter
		udp dport 53 ct original zone set 6 counter
		ct zone 5 counter
		ct zone 0 counter
		ct state new counter
		ct mark set ct mark | 0x1 counter
		ct mark 1 counter
	}
	chain judged {
		type filter hook prerouting priority mangle; policy accept
		ct zone 0 counter
		ct zone 5 counter
		ct zone != 5 counter
		ct zone { 5, 6 } counter
		ct original zone 6 counter
		ct reply zone 6 counter
		ct reply zone 0 counter
		ct helper "ftp" counter
		ct helper != "ftp" counter
	}
}
"""
MARKS = """\
table ip fw {
	chain judged {
		type filter hook prerouting priority mangle; policy accept
		meta mark set 0x1f5 counter
		meta mark set meta mark & 0xff | 0x10 counter
		meta mark 0xf5 counter
		meta mark 0x1f5 counter
		meta mark set meta mark ^ 0x5 counter
		meta mark 0xf0 counter
		ct mark set 0x6 counter
		ct mark 6 counter
		ct mark != 6 counter
		ct mark set ct mark | 0x1 counter
		ct mark 7 counter
		ct mark & 0x1 == 0x1 counter
		ct mark & 0x8 == 0x8 counter
		ct mark { 5, 6 } counter
		udp dport 53 ct mark set meta mark counter
		udp dport 53 ct mark 0xf0 counter
		udp dport 53 ct mark 7 counter
		udp dport 5000 ct mark 7 counter
		meta mark set ct mark counter
		meta mark 7 counter
		meta mark 0xf0 counter
		ct mark set meta mark & 0xf or 0x20 counter
		ct mark 0x27 counter
		ct mark 0x20 counter
	}
}
"""
INNER = """\
table ip fw {
	chain judged {
		type filter hook prerouting priority mangle; policy accept
		@ih,0,8 0x78 counter
		@ih,0,8 0x6e counter
		@ih,0,8 != 0x6e counter
		@ih,0,32 0x6e656564 counter
		@ih,0,32 != 0x6e656564 counter
		@ih,8,8 { 0x65, 0x66 } counter
		@ih,0,8 & 0xf0 == 0x60 counter
		@ih,96,32 0x0 counter
		@ih,800,8 0 counter
		udp length > 9 @ih,0,8 0x6e counter
		@th,64,8 0x6e counter
		@ih,0,16 0x0000 counter
	}
}
"""
FTP_SERVER = """
import socket, subprocess, sys
listening = socket.create_server(("10.0.1.1", 21))
client = subprocess.Popen([*sys.argv[1:]])
commands, _ = listening.accept()
commands.recv(100)
commands.sendall(b"331 who?\\r\\n")
line = commands.recv(100).decode()
ports = line.split("PORT ")[1].split(",")
data = socket.create_connection(("10.0.1.2", int(ports[4]) * 256 + int(ports[5])))
data.sendall(b"data")
data.close()
commands.sendall(b"226 done")
sys.exit(client.wait())
"""
FTP_CLIENT = """
import socket
waiting = socket.create_server(("10.0.1.2", 5001))
commands = socket.create_connection(("10.0.1.1", 21))
commands.sendall(b"USER x\\r\\n")  # the helper looks behind the end of a line
commands.recv(100)
commands.sendall(b"PORT 10,0,1,2,%d,%d\\r\\n" % divmod(5001, 256))
data, _ = waiting.accept()
data.recv(100)
commands.recv(100)
"""
HELPERS = """\
table ip fw {
	ct helper ftp-standard { type "ftp" protocol tcp; }
	chain helping {
		type filter hook prerouting priority mangle; policy accept
		tcp dport 21 ct helper set "ftp-standard"
	}
	chain judged {
		type filter hook input priority filter; policy accept
		ct helper "ftp" counter
		ct helper != "ftp" counter
		ct helper "sip" counter
		ct helper { "ftp", "sip" } counter
	}
}
"""
TEMPLATES = """\
*raw
-A PREROUTING -p udp -j CT --zone 5
-A PREROUTING -p udp -m connmark --mark 0x0
-A PREROUTING -p udp -m connmark ! --mark 0x0
-A PREROUTING -p udp -m conntrack --ctstate INVALID
COMMIT
"""


def judged(lab, path):
    """What was said of each rule that was met, by its text: counts of True, False and None; none is false."""
    said, hits, false = {}, Counter(), []
    chains = ("early", "judged")
    for chain in chains:
        for _, rule, matched, judgement in claims(path, ("ip fw", chain)):
            hits[rule.handle] += matched
            said.setdefault(rule.spec.removesuffix(" counter"), Counter())[judgement.fits] += 1
            if judgement.fits not in (None, matched):
                false.append((rule.spec, matched, judgement))
    assert false == []
    listed = json.loads(lab.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    counted = {
        one["rule"]["handle"]: counter["packets"]
        for one in listed
        if "rule" in one and one["rule"]["chain"] in chains
        for part in one["rule"]["expr"]
        if (counter := part.get("counter"))
    }
    assert {one: hits[one] for one in counted} == counted
    return said


def load(lab, rules):
    frames.neighbour(lab)
    lab.run(["nft", "-f", "-"], stdin=rules)


def sent(lab, tmp_path, packets):
    """The command that sends packets of `frames.IPV4`."""
    path = tmp_path / "frames.json"
    path.write_text(json.dumps(frames.of_neighbour(lab, [frames.IPV4[one] for one in packets])))
    return [*ENTER, frames.SEND, str(path)]


def record(lab, tmp_path, command, *options):
    path = tmp_path / "t.db"
    ours = ["--family", "ipv4", "--backend", "nft", *options]
    lab.run([*IPTREC, "record", "-q", "-o", str(path), *ours, "--", *command])
    return path


def test_zones(lab, tmp_path):
    """Where connections are recorded; not behind a rule that sets one before there is a connection."""
    load(lab, ZONES)
    command = sent(lab, tmp_path, ["udp", "dns", "syn"])
    said = judged(lab, record(lab, tmp_path, command, "--conntrack"))
    assert None not in said["ct zone != 5"]
    assert None not in said["ct original zone 6"]
    assert None not in said["ct reply zone 6"]
    assert said['ct helper "ftp"'] == {False: 3}


def test_a_template_is_not_told(lab, tmp_path):
    """Behind -j CT a packet has one, with a mark of its own, which its trace does not tell."""
    frames.neighbour(lab)
    lab.run(["iptables-nft-restore"], stdin=TEMPLATES)
    path = record(lab, tmp_path, sent(lab, tmp_path, ["udp"]))
    found = list(claims(path, ("raw", "PREROUTING")))
    asking = [(matched, one.fits) for _, rule, matched, one in found if "CT" not in rule.spec]
    assert [matched for matched, _ in asking] == [True, False, False]
    assert all(fits in (None, matched) for matched, fits in asking)


def test_zones_are_not_told_without_connections(lab, tmp_path):
    load(lab, ZONES)
    path = record(lab, tmp_path, sent(lab, tmp_path, ["udp"]))
    found = {
        rule.spec: judgement
        for _, rule, _, judgement in claims(path, ("ip fw", "judged"))
        if "zone 5" in rule.spec
    }
    assert found
    assert {one.remark for one in found.values()} == {
        "connections are recorded with --conntrack alone"
    }
    assert judged(lab, path)


def test_marks(lab, tmp_path):
    """What rules set them to is known behind these rules."""
    load(lab, MARKS)
    said = judged(lab, record(lab, tmp_path, sent(lab, tmp_path, ["udp", "dns", "syn"])))
    assert {spec for spec, one in said.items() if None in one} == set()


def test_inner_headers(lab, tmp_path):
    """As far as they were captured; a packet that ends before has none."""
    load(lab, INNER)
    sorts = ["udp", "dns", "long", "syn", "ack", "echo", "esp", "multicast", "first", "later"]
    said = judged(lab, record(lab, tmp_path, sent(lab, tmp_path, sorts)))
    told = sum((one for one in said.values()), Counter())
    assert told[None] < 0.25 * told.total()


def test_helpers(lab, tmp_path):
    """FTP's data belong to commands that a helper has read."""
    load(lab, HELPERS)
    client = [*ENTER, FTP_CLIENT]
    command = [sys.executable, "-c", FTP_SERVER, *client]
    said = judged(lab, record(lab, tmp_path, command, "--conntrack"))
    assert said['ct helper "ftp"'][True] >= 2
    assert said['ct helper "ftp"'][False] >= 3
    assert {spec for spec, one in said.items() if None in one} == set()


def test_helpers_and_zones_of_iptables(lab, tmp_path):
    """Of iptables-nft."""
    frames.neighbour(lab)
    rules = [
        "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp --zone 5",
        "-A PREROUTING -p tcp -m tcp --sport 5001 -j CT --zone 5",
        "-A OUTPUT -p tcp -j CT --zone 5",
    ]
    lab.restore(None, "ipv4", "\n".join(["*raw", *rules, "COMMIT\n"]), "nft")
    helped = ["-m helper --helper ftp", "-m helper ! --helper ftp", "-m helper --helper sip"]
    matches = "".join(f"-A INPUT {one}\n" for one in helped)
    lab.restore(None, "ipv4", f"*filter\n{matches}COMMIT\n", "nft")
    command = [sys.executable, "-c", FTP_SERVER, *ENTER, FTP_CLIENT]
    path = record(lab, tmp_path, command, "--conntrack")
    said, hits, false = {}, Counter(), []
    for _, rule, matched, judgement in claims(path, ("filter", "INPUT")):
        hits[rule.spec] += matched
        said.setdefault(rule.spec, Counter())[judgement.fits] += 1
        if judgement.fits != matched:
            false.append((rule.spec, judgement))
    assert false == []
    assert set(said) == set(helped)
    saved = lab.run(["iptables-nft-save", "-c", "-t", "filter"]).stdout
    assert all(
        f"[{hits[one]}:" in line
        for one in helped
        for line in saved.splitlines()
        if line.endswith(f" {one}")
    )
    assert said[helped[0]][True] >= 2
