"""A bridge whose frames pass the chains of the bridge and of IP: one packet, in the kernel's order."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import pytest
from command import IPTREC
from rights import LINUX

pytestmark = pytest.mark.live

# At each hook of the bridge one chain before br_netfilter's priority, one at it and one behind it.
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
COUNT = "ip protocol udp counter;"
DROPS = {("forward", 2): "udp dport 1001 counter drop;"}
RULES = (
    "table bridge br {\n"
    + "".join(
        f" chain {hook}{number} {{ type filter hook {hook} priority {priority};"
        f" {DROPS.get((hook, number), '')} {COUNT} }}\n"
        for hook in HOOKS
        for number, priority in enumerate((-200, 0, 300))
    )
    + "}\ntable ip fw {\n"
    f" chain forward {{ type filter hook forward priority 0; udp dport 1002 counter drop; {COUNT} }}\n"
    f" chain input {{ type filter hook input priority 0; {COUNT} }}\n"
    f" chain postrouting {{ type filter hook postrouting priority 0; {COUNT} }}\n"
    "}\n"
)
SEND = """\
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for round in range(20):
    for host, port in (("10.5.0.3", 1000), ("10.5.0.3", 1001), ("10.5.0.3", 1002), ("10.5.0.1", 1003)):
        out.sendto(b"%d" % round, (host, port))
"""
# From the port on: the trace begins in a table of our own.
POSTROUTING = [f"postrouting{number}" for number in range(3)]
FIRST = ["prerouting0", "prerouting1", "raw", "prerouting2"]
# Before Linux 6.7 br_netfilter takes IP's frames at priority -1, and goes on behind 0 (br_nf_hook_thresh).
ZERO = ["forward1"] if LINUX >= (6, 7) else []
FORWARDED = [*FIRST, "forward0", *ZERO, "forward"]
BRIDGED = [
    *FORWARDED,
    "forward2",
    *POSTROUTING,
    "postrouting",
]
LOCAL = [*FIRST, "input0", "input1", "input2", "input"]
EXPECTED = {  # port: verdict, who decides, where it comes by
    1000: ("ACCEPT", BRIDGED),
    1001: ("DROP", [*FORWARDED, "forward2"]),
    1002: ("DROP", FORWARDED),
    1003: ("ACCEPT", LOCAL),
}


@pytest.fixture
def bridge(lab):
    """Two hosts on a bridge of the lab, which br_netfilter hands to iptables."""
    lab.ip(None, "link add br0 type bridge\nlink set br0 up\naddress add 10.5.0.1/24 dev br0")
    for number in (2, 3):
        lab.host(f"h{number}")
        lab.link(f"h{number}", "eth0", f"10.5.0.{number}/24", peer=f"p{number}", bridge="br0")
    lab.settle()
    if lab.run(
        ["test", "-e", "/proc/sys/net/bridge/bridge-nf-call-iptables"], check=False
    ).returncode:
        pytest.skip("br_netfilter is not loaded")
    lab.sysctl(None, "net/bridge/bridge-nf-call-iptables", 1)
    for host in ("10.5.0.3", "10.5.0.1"):
        lab.run(["ping", "-c1", "-W9", host], "h2")
    lab.run(["nft", "-f", "-"], stdin=RULES)
    return lab


def chains(packet):
    """The chains that it came by, each once; the first one by its table."""
    names = ["raw" if one["table"] == "raw" else one["chain"] for one in packet["steps"]]
    return list(dict.fromkeys(names))


def test_a_bridged_frame_is_one_packet(bridge, tmp_path):
    """Whatever decides; what the kernel counted at each rule is what was hit."""
    trace = str(tmp_path / "t.db")
    bridge.run([*IPTREC, "record", "-q", "--drops=no", "--backend", "nft", "-o", trace, "udp", "--",
                "nsenter", "--net=/run/netns/h2", sys.executable, "-c", SEND])  # fmt: skip
    shown = bridge.run([*IPTREC, "show", "--json", trace]).stdout.splitlines()
    found = [one for one in map(json.loads, shown) if one["header"].get("dport") in EXPECTED]
    assert Counter(one["header"]["dport"] for one in found) == dict.fromkeys(EXPECTED, 20)
    for one in found:
        verdict, passed = EXPECTED[one["header"]["dport"]]
        assert (one["verdict"], one["complete"], one["ambiguous"]) == (verdict, True, False)
        assert chains(one) == passed
    counted = {}
    for line in bridge.run(
        [*IPTREC, "rules", "--json", "--table", "bridge br,ip fw", trace]
    ).stdout.splitlines():
        chain = json.loads(line)
        counted |= {(chain["chain"], one["rule"]): one["packets"] for one in chain["rules"]}
    listing = bridge.run(["nft", "list", "ruleset"]).stdout
    kernel = {}
    for name, body in re.findall(r"chain (\w+) \{(.*?)\n\t\}", listing, re.DOTALL):
        for number, hits in enumerate(re.findall(r"counter packets (\d+)", body), 1):
            kernel[name, number] = int(hits)
    assert counted == {key: hits for key, hits in kernel.items() if key in counted}


def test_what_the_host_sends_is_one_packet(bridge, tmp_path):
    """IP's chains, then those of the bridge."""
    trace = str(tmp_path / "t.db")
    bridge.run(
        [
            *IPTREC,
            "record",
            "-q",
            "--backend",
            "nft",
            "-o",
            trace,
            "icmp",
            "--",
            "ping",
            "-c1",
            "10.5.0.2",
        ]
    )
    shown = map(json.loads, bridge.run([*IPTREC, "show", "--json", trace]).stdout.splitlines())
    (found,) = [one for one in shown if one["header"].get("name") == "echo-request"]
    assert (found["verdict"], found["complete"]) == ("ACCEPT", True)
    assert chains(found) == ["raw", "postrouting", "output0", "output1", "output2", *POSTROUTING]


FLOOD = """\
import socket
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
head = bytes.fromhex("02000000009902000000000208004500002000000000401166b90a0500020a050009")
for port in range(20000, 20020):
    out.send(head + port.to_bytes(2, "big") + bytes.fromhex("000a000c0000") + b"%04x" % port)
"""


def test_what_is_flooded_is_copied_where_only_its_last_chain_is_seen(bridge, tmp_path):
    """From the bridge's POSTROUTING br_netfilter goes to IP's; nothing comes back from there."""
    bridge.host("h4")
    bridge.link("h4", "eth0", "10.5.0.4/24", peer="p4", bridge="br0")
    bridge.settle()
    only = "table bridge br { chain c { type filter hook postrouting priority 0; counter; }; }"
    bridge.run(["nft", f"flush ruleset; {only}"])
    trace = str(tmp_path / "t.db")
    bridge.run([*IPTREC, "record", "-q", "--drops=no", "--backend", "nft", "-o", trace, "udp", "--",
                "nsenter", "--net=/run/netns/h2", sys.executable, "-c", FLOOD])  # fmt: skip
    shown = bridge.run([*IPTREC, "show", "--json", trace]).stdout.splitlines()
    found = [one for one in map(json.loads, shown) if one["header"].get("dst") == "10.5.0.9"]
    of_port = Counter(one["header"]["sport"] for one in found)
    assert of_port == dict.fromkeys(range(20000, 20020), 2)
    assert {(one["verdict"], one["complete"], one["ambiguous"]) for one in found} == {
        ("ACCEPT", True, False)
    }
    assert sum(one["related"][0]["kind"] == "copy" for one in found if one["related"]) == 20
    assert all(
        sum(step["chain"] == "c" and step["rule"] == 1 for step in one["steps"]) == 1
        for one in found
    )
