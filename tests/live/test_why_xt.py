"""`iptrec why`: matches of x_tables in rules of nf_tables, beside native rules of the same chain.

nft names such a match and does not tell what it asks for; iptables-nft-save does, and leaves out what is
native.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live

MATCHES = """\
-m dscp --dscp 0x08
-m ecn --ecn-ip-ect 3
-m length --length 29:60
-m mark ! --mark 0x6
-m devgroup --src-group default
-m devgroup ! --src-group 0x7
-m policy --dir in --pol none
-m policy --dir in --pol ipsec
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type MULTICAST
-m conntrack --ctstate INVALID
-m pkttype --pkt-type unicast
-m rpfilter --loose
-m mac --mac-source 02:00:00:00:00:99
-p udp -m multiport --dports 53,80
-p udp -m multiport ! --sports 1:8
-p tcp -m multiport --ports 80
-p tcp -m tcp --tcp-flags SYN,ACK SYN
-p udp -m udp --dport 53
""".splitlines()
OF = {
    4: [
        '-m bpf --bytecode "4,48 0 0 9,21 0 1 17,6 0 0 1,6 0 0 0"',
        '-m u32 --u32 "0x6&0xff=0x11"',
        '-m string --string "needle" --algo bm --to 34',
        "-m ttl --ttl-eq 64",
        "-m iprange --src-range 10.0.1.1-10.0.1.9",
        "-p icmp -m icmp --icmp-type 8",
    ],
    6: [
        '-m bpf --bytecode "4,48 0 0 6,21 0 1 17,6 0 0 1,6 0 0 0"',
        "-m hl --hl-eq 64",
        "-m iprange ! --src-range fd00:1::1-fd00:1::9",
        "-m eui64",
        "-m ipv6header --header protocol",
        "-m frag --fragmore",
    ],
}
# They make iptables-nft-save print less than there is, and have the same words as a rule of its own.
NATIVE = (
    "udp dport @ports counter",
    "meta l4proto udp counter",
    "udp dport vmap { 7 : drop }",
    "tcp dport 80-90 counter",
)
FAMILIES = {4: ("iptables", "ip", "ipv4"), 6: ("ip6tables", "ip6", "ipv6")}
PACKETS = {4: frames.IPV4, 6: frames.IPV6}


def counted(lab):
    """The packets that each rule counted, by its handle."""
    listed = json.loads(lab.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    return {
        rule["handle"]: counter["packets"]
        for one in listed
        if (rule := one.get("rule"))
        for part in rule["expr"]
        if (counter := part.get("counter"))
    }


@pytest.mark.parametrize("version", FAMILIES)
def test_matches_of_x_tables_are_judged_by_their_options(lab, tmp_path, version):
    """No claim is against the counters, and each of these rules is judged."""
    tool, family, name = FAMILIES[version]
    frames.neighbour(lab)
    lab.run(["ip", "link", "set", "v1", "group", "7"])
    lab.run([f"{tool}-nft", "-t", "mangle", "-A", "PREROUTING", "-m", "mark", "--mark", "0x6"])
    lab.run(
        [
            "nft",
            "add",
            "set",
            family,
            "mangle",
            "ports",
            "{ type inet_service; elements = { 53 }; }",
        ]
    )
    for at, match in enumerate([*MATCHES, *OF[version]]):
        lab.run([f"{tool}-nft", "-t", "mangle", "-A", "PREROUTING", *shlex.split(match)])
        native = NATIVE[at % len(NATIVE)]
        lab.run(["nft", "add", "rule", family, "mangle", "PREROUTING", *native.split()])
    sent, path = tmp_path / "frames.json", tmp_path / "t.db"
    sent.write_text(json.dumps(frames.of_neighbour(lab, PACKETS[version].values())))
    before = counted(lab)
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    options = ["--iface", "v1", "--family", name, "--backend", "nft"]
    lab.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *send])
    false, hits, said = [], Counter(), {}
    for header, rule, matched, judgement in claims(path, ("mangle", "PREROUTING"), "v1"):
        hits[rule.handle] += matched
        said.setdefault(rule.spec, set()).add(judgement.fits)
        if judgement.fits not in (None, matched):
            false.append((rule.spec, judgement, header))
    assert false == []
    assert {spec for spec, every in said.items() if every == {None}} == set()
    assert said.keys() >= {*MATCHES, *OF[version]}
    rose = {handle: count - before[handle] for handle, count in counted(lab).items()}
    assert {one for one in rose if hits[one] > rose[one]} == set()
    assert version == 6 or {one: hits[one] for one in rose} == rose
