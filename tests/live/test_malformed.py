"""Packets that the match of a rule drops as malformed (hotdrop of x_tables): no rule matched, none counted."""

from __future__ import annotations

import json
import re
import struct
import sys
from typing import NamedTuple

import frames
import pytest
import recorder
import told_alike

pytestmark = pytest.mark.live


class Way(NamedTuple):
    """A rule, and a packet that its match cannot read."""

    rule: str
    packet: bytes


SHORT_TCP = struct.pack("!HHIIBBHHH", 9, 80, 1, 0, 0x40, 2, 512, 0, 0)  # a header of 16 bytes
ENDS = {"src": "10.0.1.2", "dst": "10.0.1.1"}
ENDS6 = {"src": "fd00:1::2", "dst": "fd00:1::1"}
WAYS = {
    4: {
        "tcpmss": Way("-p tcp -m tcpmss --mss 536:1460", frames.ipv4(6, SHORT_TCP, **ENDS)),
        "multiport": Way("-p udp -m multiport --dports 53,67", frames.ipv4(17, b"\0", **ENDS)),
        "esp": Way("-p esp -m esp --espspi 5", frames.ipv4(50, b"\0\0", **ENDS)),
        "ah": Way("-p ah -m ah --ahspi 5", frames.ipv4(51, b"\0\0", **ENDS)),
    },
    6: {
        "tcpmss": Way("-p tcp -m tcpmss --mss 536:1460", frames.ipv6(6, SHORT_TCP, **ENDS6)),
        "multiport": Way("-p udp -m multiport --dports 53,67", frames.ipv6(17, b"\0", **ENDS6)),
        "esp": Way("-p esp -m esp --espspi 5", frames.ipv6(50, b"\0\0", **ENDS6)),
        "rt": Way("-m rt --rt-type 0", frames.ipv6(43, b"\x3b", **ENDS6)),
    },
}
FINE = {
    4: [
        frames.ipv4(*frames.tcp(9, 80, 2, frames.TCP_OPTIONS), **ENDS),
        frames.ipv4(*frames.udp(9, 53), **ENDS),
    ],
    6: [
        frames.ipv6(*frames.tcp(9, 80, 2, frames.TCP_OPTIONS), **ENDS6),
        frames.ipv6(*frames.udp(9, 53), **ENDS6),
    ],
}


@pytest.mark.parametrize("target", ["", " -j ACCEPT"], ids=["count", "accept"])
@pytest.mark.parametrize("version", WAYS)
@pytest.mark.parametrize("drops", ["no", "yes"])
def test_the_match_dropped_it(lab, tmp_path, backend, version, target, drops):
    """nf_tables names the rule: its match is told to have dropped the packet; of legacy the drop alone is."""
    tool = "iptables" if version == 4 else "ip6tables"
    frames.neighbour(lab)
    ways = WAYS[version]
    rules = "".join(f"-A PREROUTING {one.rule}{target}\n" for one in ways.values())
    rules = f"*mangle\n-A PREROUTING -j MARK --set-mark 3\n{rules}COMMIT\n"
    lab.restore(None, f"ipv{version}", rules, backend)
    path = tmp_path / "t.db"
    words = ["--family", f"ipv{version}", "--iface", "v1", "--drops", drops, "-o", path]
    child = recorder.start(lab, "--backend", backend, *words, notes=True)
    packets = [*FINE[version], *(one.packet for one in ways.values())]
    told = json.dumps(frames.of_neighbour(lab, packets))
    lab.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "h", stdin=told)
    recorder.stop(child)
    counted = re.findall(
        r"^\[(\d+):\d+\] -A PREROUTING",
        lab.run([f"{tool}-{backend}-save", "-c", "-t", "mangle"]).stdout,
        re.MULTILINE,
    )
    source = ENDS6["src"] if version == 6 else ENDS["src"]
    found = [
        one
        for one in recorder.packets(path)
        if one.header["src"] == source and one.header["proto"] != "icmp6"
    ]
    hits = [0] * len(counted)
    for one in found:
        for step in one.steps:
            if (step.table, step.chain, step.type) == ("mangle", "PREROUTING", "rule"):
                hits[step.rule - 1] += 1
    if version == 4:
        assert hits == list(map(int, counted))
    malformed = found[len(FINE[version]) :]
    assert len(malformed) == len(ways)
    for number, one in enumerate(malformed, 2):
        if backend == "nft":
            assert (one.verdict, one.complete, one.ambiguous) == ("DROP", True, False)
            assert (one.decided_by.chain, one.decided_by.rule) == ("PREROUTING", number)
            assert (one.steps[-1].type, one.steps[-1].target) == ("match", "DROP")
            continue
        # Of IPv6 a rule with -p looks for what follows all extension headers (ip6_packet_match).
        first = 2 if (version, number) == (6, 5) else number
        said = f"the match of mangle/PREROUTING rule {first} drops it"
        if drops == "yes":
            assert (one.verdict, one.end.reason) == ("DISCARDED", "NETFILTER_DROP")
            assert said in one.end.text
        else:
            assert (one.verdict, one.end) == ("UNKNOWN", None)
            assert said in one.reason


NATIVE = [  # what drops by itself; whether nobody else in the rule can have
    ("ct count over 3 counter", True),
    ("counter ct count 3 meta mark set 7", True),
    ("ct count over 3 udp dport vmap { 53 : drop }", False),
    ("ct count over 3 drop", False),
]


@pytest.mark.parametrize(("rule", "alone"), NATIVE)
def test_an_expression_of_nf_tables_dropped_it(lab, tmp_path, rule, alone):
    """The rule did not match: what stands behind the expression was not reached."""
    frames.neighbour(lab)
    hook = "type filter hook prerouting priority mangle; policy accept"
    lab.run(["nft", "-f", "-"], stdin=f"table ip fw {{\nchain c {{ {hook}\n{rule}\n}}\n}}\n")
    path = tmp_path / "t.db"
    words = ["--backend", "nft", "--family", "ipv4", "--iface", "v1", "--drops", "no", "-o", path]
    child = recorder.start(lab, *words, notes=True)
    packets = [frames.ipv4(17, b"\0", **ENDS)]
    told = json.dumps(frames.of_neighbour(lab, packets))
    lab.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "h", stdin=told)
    recorder.stop(child)
    (one,) = (one for one in recorder.packets(path) if one.header["proto"] == "udp")
    assert (one.verdict, one.complete, one.ambiguous) == ("DROP", True, False)
    assert (one.steps[-1].rule, one.steps[-1].target) == (1, "DROP")
    assert one.steps[-1].type == ("match" if alone else "rule")


@pytest.mark.parametrize("drops", ["no", "yes"])
def test_every_view_tells_of_each_which_match_it_was(lab, tmp_path, drops):
    """Their ways read alike: the match that dropped a packet is told of it, not of its like."""
    frames.neighbour(lab)
    rules = "".join(f"-A INPUT {one.rule}\n" for one in WAYS[4].values())
    lab.restore(None, "ipv4", f"*mangle\nCOMMIT\n*filter\n{rules}COMMIT\n", "legacy")
    path = tmp_path / "t.db"
    words = ["--family", "ipv4", "--iface", "v1", "--drops", drops, "-o", path]
    child = recorder.start(lab, "--backend", "legacy", *words, notes=True)
    packets = [one.packet for one in WAYS[4].values() for _ in range(4)]
    told = json.dumps(frames.of_neighbour(lab, packets))
    lab.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "h", stdin=told)
    recorder.stop(child)
    told_alike.ends(path, tmp_path)
    found = [one for one in recorder.packets(path) if one.header["src"] == ENDS["src"]]
    assert len(found) == len(packets)
    for number, one in enumerate(found):
        said = f"the match of filter/INPUT rule {number // 4 + 1} drops it"
        assert said in (one.end.text if drops == "yes" else one.reason)
