"""nf_tables' ruleset changes while packets are traced: each is told once, and by the rules that it met."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import recorder

from iptrec.answers.packets import Packets
from iptrec.answers.rules import count_rules
from iptrec.answers.selection import Selection
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

SENT = 1000
SEND = f"""\
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
begin = time.monotonic()
for number in range({SENT}):
    out.sendto(b"%d" % number, ("10.0.2.2", 5000))
    time.sleep(max(0, begin + number * 0.002 - time.monotonic()))
out.sendto(b"end", ("10.0.2.2", 5001))
"""
# The traffic class of each packet tells which rules it met.
RECEIVE = """\
import select, socket
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for one, port in zip(sockets, (5000, 5001)):
    one.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    one.bind(("10.0.2.2", port))
print("ready", flush=True)
while True:
    ready = select.select(sockets, [], [])[0]
    if sockets[0] not in ready:
        break
    data, [(_, _, tos)], *_ = sockets[0].recvmsg(64, 64)
    print(data.decode(), tos[0])
"""
STATIC = """\
table inet still {
	set banned { type ipv4_addr; }
	chain f {
		type filter hook forward priority -5; policy accept
		udp dport 5000 counter
		ip saddr @banned drop
	}
}
"""
CLASSES = {"old": "af11", "new": "af12"}
TOS = {"old": 0x28, "new": 0x30}


def native(tag):
    """A table that is made anew; its last chain marks what passes."""
    more = "udp dport 99 drop" if tag == "new" else "udp dport { 98, 97 } drop"
    return f"""\
table inet fw
delete table inet fw
table inet fw {{
	chain ours {{
		meta l4proto udp counter accept
	}}
	chain forwarded {{
		type filter hook forward priority 0; policy drop
		{more}
		udp dport 1-6000 jump ours
	}}
	chain leaving {{
		type filter hook postrouting priority 300; policy accept
		ip dscp set {CLASSES[tag]} comment "{tag}"
	}}
}}
"""


def iptables(tag):
    """As an orchestrator does: whole tables, again and again."""
    more = "-A FORWARD -p tcp -m tcp --dport 99 -j DROP\n" if tag == "new" else ""
    return f"""\
*mangle
:POSTROUTING ACCEPT [0:0]
{more.replace("FORWARD", "POSTROUTING").replace("-j DROP", "-j TOS --set-tos 0x10")}\
-A POSTROUTING -p udp -m comment --comment {tag} -j DSCP --set-dscp-class {CLASSES[tag]}
COMMIT
*filter
:FORWARD DROP [0:0]
:OURS - [0:0]
{more}-A FORWARD -p udp -m udp --dport 1:6000 -j OURS
-A OURS -p udp -j ACCEPT
COMMIT
"""


def element(lab, number):
    lab.run(["nft", f"add element inet still banned {{ 10.9.0.{number % 250} }}"])


def made_anew(lab, number):
    lab.run(["nft", "-f", "-"], stdin=native(("old", "new")[number % 2]))


def restored(lab, number):
    lab.restore(None, "ipv4", iptables(("old", "new")[number % 2]), "nft")


PATTERNS = {"elements": (element, 0.02), "nft -f": (made_anew, 0.2), "restore": (restored, 0.2)}


def network(lab):
    for host, net in (("left", 1), ("right", 2)):
        lab.host(host)
        lab.link(host, "eth0", f"10.0.{net}.2/24", peer=host)
        lab.ip(None, f"address add 10.0.{net}.1/24 dev {host}")
        lab.ip(host, f"route add default via 10.0.{net}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.settle()
    lab.run(["nft", "-f", "-"], stdin=STATIC)


def recorded(lab, path, change, every_s):
    """Record while rules change; (number of the packet, its class) of those that came through, and changes."""
    change(lab, 0)
    received = lab.popen(
        [sys.executable, "-c", RECEIVE], "right", stdout=subprocess.PIPE, text=True
    )
    assert received.stdout.readline() == "ready\n"
    child = recorder.start(
        lab, "--force", "--backend", "nft", "-o", path, "udp dst port 5000", notes=True
    )
    sender = lab.popen([sys.executable, "-c", SEND], "left")
    begin, changes = time.monotonic(), 0
    while sender.poll() is None:
        changes += 1
        change(lab, changes)
        time.sleep(max(0, begin + changes * every_s - time.monotonic()))
    told = [line.split() for line in received.communicate(timeout=60)[0].splitlines()]
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 0
    return {int(number): int(tos) for number, tos in told}, changes


def counted(lab):
    """What the kernel counted in the table that nobody changed."""
    listed = json.loads(lab.run(["nft", "-j", "list", "chain", "inet", "still", "f"]).stdout)
    rules = [one["rule"] for one in listed["nftables"] if "rule" in one]
    return rules[0]["expr"][-1]["counter"]["packets"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_packets_are_told_once_whatever_changes(lab, tmp_path, pattern):
    """None as two, none without its rules, none by rules that it did not meet; hits are the kernel's."""
    network(lab)
    met, changes = recorded(lab, tmp_path / "x.db", *PATTERNS[pattern])
    kernel = counted(lab)
    assert changes > 3
    with Reader(tmp_path / "x.db") as reader:
        found = list(Packets(reader))
        tables = {one.table: one for one in count_rules(reader, Selection())}
    assert [one.complete for one in found] == [True] * SENT
    assert tables["inet still"].chains["f"][1][0].count.packets == kernel == SENT
    # Of both chains, where a packet passes the old one and the new one: the class of the last rule arrives.
    tags = [[step.comment for step in one.steps if step.comment in TOS] for one in found]
    sure = [number for number, one in enumerate(found) if not one.ambiguous and number in met]
    told = {number: TOS[tags[number][-1]] if tags[number] else 0 for number in sure}
    wrong = [number for number in sure if told[number] != met[number]]
    assert wrong == []
    if pattern != "restore":  # the one at each change, and where chains met two states
        assert SENT - len(sure) <= (3 * changes if pattern == "nft -f" else 0)
