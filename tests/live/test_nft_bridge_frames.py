"""Frames that are not IP, in the chains of a bridge: what hit each rule, as the kernel counted it."""

from __future__ import annotations

import json
import re
import sys

import frames
import pytest
import test_nft
from command import IPTREC

pytestmark = test_nft.pytestmark

HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
PLAIN = "ether type 0x88b5 counter; ether type arp counter; ether type ip counter;"
DROPS = {"forward": "ether daddr 02:00:00:00:00:99 counter drop;"}
RULES = (
    "table bridge br {\n"
    + "".join(
        f" chain {hook} {{ type filter hook {hook} priority 0; {DROPS.get(hook, '')} {PLAIN} }}\n"
        for hook in HOOKS
    )
    + "}\n"
)
ARP = "080600010800060400010200000000020a0500%02x0000000000000a050009" + "00" * 18
OTHER = "88b5%02x" + "78" * 45
ALL, NOBODY, HOST = "ffffffffffff", "020000000099", "020000000001"
SEND = """\
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
for round in range(10, 20):
    for frame in sys.argv[2:]:
        out.send(bytes.fromhex(frame % round))
"""


@pytest.fixture
def bridge(lab):
    """Three hosts on a bridge; one of them has an address of its own that nobody else speaks to."""
    lab.ip(
        None, "link add br0 address 02:00:00:00:00:01 type bridge mcast_snooping 0\nlink set br0 up"
    )
    for number in (2, 3, 4):
        lab.host(f"h{number}")
        lab.link(f"h{number}", "eth0", f"10.5.0.{number}/24", peer=f"p{number}", bridge="br0")
    lab.settle()
    lab.run(["nft", "-f", "-"], stdin=RULES)
    return lab


def told(lab, trace):
    """By chain and rule, how many packets hit it, and whether that is all."""
    rows = lab.run([*IPTREC, "rules", "--json", "--table", "bridge br", trace]).stdout
    return {
        (chain["chain"], one["rule"]): (one["packets"], chain["untraced"])
        for chain in map(json.loads, rows.splitlines())
        for one in chain["rules"]
    }


def counted(lab):
    listing = lab.run(["nft", "list", "table", "bridge", "br"]).stdout
    return {
        (name, number): int(hits)
        for name, body in re.findall(r"chain (\w+) \{(.*?)\n\t\}", listing, re.DOTALL)
        for number, hits in enumerate(re.findall(r"counter packets (\d+)", body), 1)
    }


def sent(device, *frames, netns=None):
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    return [*inside, sys.executable, "-c", SEND, device, *frames]


@pytest.mark.parametrize("frame", [ARP, OTHER], ids=["arp", "other"])
@pytest.mark.parametrize("to", [ALL, NOBODY, HOST], ids=["all", "nobody", "host"])
def test_what_is_not_ip_hits_rules(bridge, tmp_path, frame, to):
    """As often as the kernel counted it, each frame one packet and its copies."""
    trace = str(tmp_path / "t.db")
    before = counted(bridge)
    command = sent("eth0", to + "020000000002" + frame, netns="h2")
    bridge.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", trace, "--", *command])
    hits = {key: (hits - before[key], None) for key, hits in counted(bridge).items()}
    assert told(bridge, trace) == hits
    assert max(number for number, _ in hits.values()) >= 10
    shown = map(json.loads, bridge.run([*IPTREC, "show", "--json", trace]).stdout.splitlines())
    found = [one for one in shown if (one["link"] or {}).get("src") == "02:00:00:00:00:02"]
    assert {(one["complete"], one["ambiguous"]) for one in found} == {(True, False)}


@pytest.mark.parametrize("frame", [ARP, OTHER], ids=["arp", "other"])
def test_what_the_host_sends(bridge, tmp_path, frame):
    """It begins in the bridge's OUTPUT, once for each port."""
    trace = str(tmp_path / "t.db")
    before = counted(bridge)
    command = sent("br0", ALL + "020000000001" + frame)
    bridge.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", trace, "--", *command])
    hits = {key: (hits - before[key], None) for key, hits in counted(bridge).items()}
    assert told(bridge, trace) == hits
    assert sum(number for number, _ in hits.values()) >= 10 * 3 * 2


@pytest.mark.parametrize("kind", ["888e", "0026"], ids=["802.1X", "802.3"])
def test_what_a_bridge_hands_to_its_host_at_once(bridge, tmp_path, kind):
    """Frames for link-local groups pass no PREROUTING."""
    bridge.run(["nft", "add rule bridge br input ether daddr 01:80:c2:00:00:03 counter drop"])
    trace = str(tmp_path / "t.db")
    frame = "0180c2000003020000000002" + kind + "%02x" + "42" * 45
    command = sent("eth0", frame, netns="h2")
    bridge.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", trace, "--", *command])
    assert counted(bridge)["input", 4] == 10
    assert told(bridge, trace)["input", 4] == (10, None)
    shown = map(json.loads, bridge.run([*IPTREC, "show", "--json", trace]).stdout.splitlines())
    found = [one for one in shown if (one["link"] or {}).get("src") == "02:00:00:00:00:02"]
    assert [(one["verdict"], one["complete"]) for one in found] == [("DROP", True)] * 10


@pytest.mark.parametrize("words", [["udp"], ["--family", "ipv4"]], ids=["filter", "family"])
def test_where_a_filter_is_given_they_are_not_traced(bridge, tmp_path, words):
    """That is said while it is recorded, by `info`, and of each rule."""
    trace = str(tmp_path / "t.db")
    command = sent("eth0", ALL + "020000000002" + ARP, netns="h2")
    done = bridge.run([*IPTREC, "record", "--backend", "nft", "-o", trace, *words, "--", *command])
    assert "frames that do not come through IP pass there untraced" in done.stderr
    assert {why for _, why in told(bridge, trace).values()} == {"beside"}
    assert "frames that do not come through IP" in bridge.run([*IPTREC, "info", trace]).stdout
    unused = bridge.run([*IPTREC, "rules", "--unused", trace], check=False).stdout
    assert "ether type" not in unused


def test_chains_of_arp_are_passed_behind_a_bridge(bridge, tmp_path):
    """By the same packet."""
    bridge.run(
        ["nft", "table arp a { chain c { type filter hook input priority 0; counter drop; }; }"]
    )
    trace = str(tmp_path / "t.db")
    command = sent("eth0", HOST + "020000000002" + ARP, netns="h2")
    bridge.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", trace, "--", *command])
    shown = map(json.loads, bridge.run([*IPTREC, "show", "--json", trace]).stdout.splitlines())
    found = [one for one in shown if (one["link"] or {}).get("src") == "02:00:00:00:00:02"]
    said = [(one["verdict"], one["complete"], one["decided_by"]["table"]) for one in found]
    assert said == [("DROP", True, "arp a")] * 10


# Of each the last byte is another one.
IP, IP6 = (
    f"{kind}{packet.hex()[:-2]}%02x"
    for kind, packet in (
        ("0800", frames.ipv4(*frames.udp(9, 5000), src="10.5.0.1", dst="10.5.0.3")),
        ("86dd", frames.ipv6(*frames.udp(9, 5000))),
    )
)
OF_IP = 3  # the rule for it, by its number
BESIDE = "table inet beside {{\n{}}}\n".format(
    "".join(
        f" chain {hook} {{ type filter hook {hook} priority 0; udp dport 5000 counter; }}\n"
        for hook in ("prerouting", "forward", "output", "postrouting")
    )
)


@pytest.mark.parametrize("called", [0, 1], ids=["plain", "br_netfilter"])
@pytest.mark.parametrize("device", ["br0", "p3"])
@pytest.mark.parametrize("kind", [IP, IP6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("to", ["all", "one", "nobody"])
def test_ip_by_packet_sockets(bridge, tmp_path, to, kind, device, called):
    """No chain of IP sees it: onto the bridge it begins in the bridge's OUTPUT, onto a port it passes none."""
    trace = str(tmp_path / "t.db")
    bridge.run(["nft", "-f", "-"], stdin=BESIDE)
    for name in ("iptables", "ip6tables"):
        bridge.sysctl(None, f"net/bridge/bridge-nf-call-{name}", called)
    before = counted(bridge)
    address = {"all": ALL, "one": frames.mac(bridge, "h3", "eth0"), "nobody": NOBODY}[to]
    command = sent(device, address.replace(":", "") + HOST + kind)
    bridge.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", trace, "--", *command])
    hits = {key: (hits - before[key], None) for key, hits in counted(bridge).items()}
    assert of_ip(told(bridge, trace)) == of_ip(hits)
    beside = bridge.run(["nft", "list", "table", "inet", "beside"]).stdout
    assert beside.count("counter packets 0 ") == 4
    shown = bridge.run([*IPTREC, "show", "--json", trace], check=False).stdout
    found = [
        one for one in map(json.loads, shown.splitlines()) if one["header"].get("dport") == 5000
    ]
    copies = {"all": 3, "one": 1, "nobody": 3}[to] if device == "br0" else 0
    assert len(found) == 10 * copies
    assert {(one["verdict"], one["complete"], one["ambiguous"]) for one in found} <= {
        ("ACCEPT", True, False)
    }


def of_ip(hits):
    """Of ARP there may be answers after the recording."""
    return {key: count for key, count in hits.items() if key[1] == OF_IP}
