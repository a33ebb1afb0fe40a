"""Rulesets by chance, as text and as JSON: redacted rules judge redacted packets as they did before.

A recording answers by comparing rules with packets. Both go through different code on their way to the redacted
file: whatever rules and packets, what fits, what does not, and what that depends on have to be the same.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import struct

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from iptrec.decode import packet
from iptrec.decode.rulesets import iptables_save, nft_json
from iptrec.errors import UsageError
from iptrec.matching import judge
from iptrec.matching.facts import Facts
from iptrec.redact.compare import Comparison
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.nft_json import NftJson
from iptrec.redact.packets import Packets
from iptrec.redact.save_text import SaveText

AF = {4: 2, 6: 10}
BITS = {4: 32, 6: 128}
# Public, private, special, and near to the ends of these.
SEEDS = {
    4: ["8.8.4.4", "10.0.1.2", "10.255.255.255", "172.16.0.1", "192.168.7.9", "100.64.0.1", "127.0.0.1",
        "224.0.0.251", "169.254.1.1", "9.255.255.255", "11.0.0.0", "203.0.113.9", "255.255.255.255"],
    6: ["2a01:4f8::7", "2a01:4f8:0:1::", "fd00:9::1", "fdff::1", "fe80::1234:56ff:fe78:9abc", "::1",
        "2001:db8::9", "2606:4700::1111"],
}  # fmt: skip
LEAST = {4: 8, 6: 64}  # bits of a prefix: see docs/redact.md for what is refused below
REFUSED = re.compile("inside of one whose addresses have another|a range that would not be one")
NAMES = ["eth0", "acme-lan", "br-0123456789ab", "docker0", "customer7", "wg-paris"]
MACS = ["52:54:00:12:34:56", "02:42:ac:11:00:02", "00:1b:21:aa:bb:cc"]
TIMES = settings(max_examples=60, deadline=None)


@st.composite
def addresses(draw, version):
    """Some near to each other."""
    base = int(ipaddress.ip_address(draw(st.sampled_from(SEEDS[version]))))
    changed = base ^ draw(st.integers(0, (1 << draw(st.sampled_from([1, 4, 8, 12]))) - 1))
    return ipaddress.ip_address(changed.to_bytes(BITS[version] // 8, "big"))


@st.composite
def networks(draw, version):
    one = draw(addresses(version))
    length = draw(st.integers(LEAST[version], BITS[version]))
    return ipaddress.ip_network(f"{one}/{length}", strict=False)


@st.composite
def ranges(draw, version):
    return sorted([draw(addresses(version)), draw(addresses(version))])


@st.composite
def packets(draw, version):
    """A UDP packet, the interface and the address that it came from."""
    src, dst = draw(addresses(version)).packed, draw(addresses(version)).packed
    ports = struct.pack("!HH", draw(st.integers(0, 65535)), draw(st.sampled_from([53, 80, 4789])))
    body = ports + struct.pack("!HH", 8 + 4, 0) + b"word"
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(body), 17, 64)
    return head + src + dst + body, draw(st.sampled_from(NAMES)), draw(st.sampled_from(MACS))


def negated(draw):
    return draw(st.booleans())


@st.composite
def specs(draw, version):
    """A rule of iptables."""
    no = {True: "! ", False: ""}
    words = [
        f"{no[negated(draw)]}{option} {draw(networks(version))}"
        for option in draw(st.sets(st.sampled_from(["-s", "-d"])))
    ]
    if draw(st.booleans()):
        words.append(f"{no[negated(draw)]}-i {draw(st.sampled_from([*NAMES, 'acme+', 'br-+']))}")
    words.append("-p udp")
    for side in draw(st.sets(st.sampled_from(["src", "dst"]))):
        first, last = draw(ranges(version))
        words.append(f"-m iprange {no[negated(draw)]}--{side}-range {first}-{last}")
    if draw(st.booleans()):
        words.append(f"-m udp {no[negated(draw)]}--dport {draw(st.sampled_from(['53', '1:1024']))}")
    if draw(st.booleans()):
        words.append(
            f"-m mac {no[negated(draw)]}--mac-source {draw(st.sampled_from(MACS)).upper()}"
        )
    if draw(st.booleans()):
        words.append('-m comment --comment "of Acme"')
    return f"-A INPUT {' '.join(words)} -j DROP"


def payload(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


@st.composite
def members(draw, version):
    """What nft prints of an address, a network, a range, or a set of them."""
    kind = draw(st.sampled_from(["address", "network", "range", "set"]))
    if kind == "address":
        return str(draw(addresses(version)))
    if kind == "network":
        one = draw(networks(version))
        return {"prefix": {"addr": str(one.network_address), "len": one.prefixlen}}
    if kind == "range":
        return {"range": list(map(str, draw(ranges(version))))}
    some = draw(
        st.lists(members(version).filter(lambda one: "set" not in one), min_size=1, max_size=3)
    )
    return {"set": some}


@st.composite
def rules(draw, version):
    """A rule of nft, as JSON."""
    found = []

    def match(left, right):
        op = "!=" if negated(draw) else "=="
        found.append({"match": {"op": op, "left": left, "right": right}})

    ip = "ip" if version == 4 else "ip6"
    for field in draw(st.sets(st.sampled_from(["saddr", "daddr"]))):
        match(payload(ip, field), draw(members(version)))
    if draw(st.booleans()):
        match({"meta": {"key": "iifname"}}, draw(st.sampled_from([*NAMES, "acme*"])))
    if draw(st.booleans()):
        match(payload("ether", "saddr"), draw(st.sampled_from(MACS)))
    if draw(st.booleans()):
        match(payload("udp", "dport"), draw(st.sampled_from([53, {"range": [1, 1024]}])))
    return {
        "family": "inet",
        "table": "fw",
        "chain": "c",
        "handle": 1,
        "expr": [*found, {"drop": None}],
    }


def as_nft(rule):
    """What the listing has of it, and as nft_json reads it."""
    return json.dumps({"nftables": [{"rule": rule}]}).encode()


def facts(version, content, name, mac):
    header = packet.header(content, AF[version])
    return Facts(header, 0, name, None, None, None, mac, in_type=1)


@contextlib.contextmanager
def refusing():
    """What docs/redact.md says that is refused is not a case."""
    try:
        yield
    except UsageError as error:
        if REFUSED.search(str(error)) is None:
            raise
        reject()


def judged_alike(make, parse, version, rule, told, secret):
    """Redact a rule and a packet, and judge both: what fits, and why not, up to what stands for what."""
    content, name, mac = told
    key = Key(secret)
    trees, survey = surveyed(key, ())
    with refusing():
        make(survey)(rule)
    maps = Redaction(key, trees, (), ())
    changed = make(maps)(rule)
    moved = Packets(maps)(content)
    sent = maps.mac(bytes.fromhex(mac.replace(":", ""))).hex(":")
    before = judge(parse(rule), facts(version, content, name, mac))
    after = judge(parse(changed), facts(version, moved, maps.name(name), sent))
    assert before.fits == after.fits, (rule, changed)
    reasons = before.because or "", after.because or ""
    assert Comparison(maps).texts(*reasons), reasons


def parsed_save(line):
    text = f"*filter\n:INPUT ACCEPT [0:0]\n{line}\nCOMMIT\n"
    return iptables_save.parse(text.encode()).tables["filter"]["INPUT"].rules[0]


def parsed_nft(listing):
    ((chain,),) = (one.values() for one in nft_json.parse(listing).chains.values())
    (found,) = chain.rules
    return found


@given(specs(4), packets(4), st.binary(min_size=16, max_size=16))
@TIMES
def test_iptables(rule, told, secret):
    """IPv4: networks, ranges, interfaces, MAC addresses, each negated or not."""
    judged_alike(SaveText, parsed_save, 4, rule, told, secret)


@given(specs(6), packets(6), st.binary(min_size=16, max_size=16))
@TIMES
def test_ip6tables(rule, told, secret):
    """IPv6, likewise."""
    judged_alike(
        lambda maps: lambda text: SaveText(maps)(text, ipv6=True).rstrip("\n"),
        parsed_save, 6, rule, told, secret,
    )  # fmt: skip


@given(rules(4), packets(4), st.binary(min_size=16, max_size=16))
@TIMES
def test_nft(rule, told, secret):
    """IPv4: what nft compares with addresses, networks, ranges, sets of these."""
    judged_alike(lambda maps: NftJson(maps, {}), parsed_nft, 4, as_nft(rule), told, secret)


@given(rules(6), packets(6), st.binary(min_size=16, max_size=16))
@TIMES
def test_nft_of_ipv6(rule, told, secret):
    """IPv6, likewise."""
    judged_alike(lambda maps: NftJson(maps, {}), parsed_nft, 6, as_nft(rule), told, secret)
