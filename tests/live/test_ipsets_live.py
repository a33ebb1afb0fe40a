"""`iptrec why`: whether a packet is in an ipset is what the kernel's counters say."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections import Counter

import pytest
from judged import last_facts
from test_why import IPTREC, PACKETS, counters

from iptrec.decode.rulesets import iptables_save
from iptrec.kernel import process
from iptrec.matching.iptables import judge

pytestmark = pytest.mark.live

SETS = """\
create ips hash:ip
add ips 10.0.1.2
create masked hash:ip netmask 24
add masked 10.0.1.77
create nets hash:net
add nets 10.0.0.0/8
add nets 10.0.1.0/24 nomatch
create nested hash:net
add nested 10.0.0.0/8
add nested 10.0.1.0/24 nomatch
add nested 10.0.1.2/31
create empty hash:net
create six hash:net family inet6
add six fd00::/8
create services hash:ip,port
add services 10.0.1.1,udp:5000
add services 10.0.1.1,tcp:80
add services 10.0.1.1,icmp:8/0
add services 10.0.1.2,udp:5000
create pairs hash:ip,port,ip
add pairs 10.0.1.1,udp:5000,10.0.1.2
add pairs 10.0.1.1,icmp:8/0,10.0.1.1
create behind hash:ip,port,net
add behind 10.0.1.1,udp:5000,10.0.0.0/16
add behind 10.0.1.1,udp:5000,10.0.1.2/31 nomatch
add behind 10.0.1.1,tcp:80,10.0.0.0/16
create open hash:net,port
add open 10.0.0.0/8,udp:5000
add open 10.0.1.0/24,tcp:80
add open 10.0.1.2/32,udp:5000 nomatch
create gates hash:net,iface
add gates 10.0.0.0/8,v1
add gates 10.0.1.0/24,v2
add gates 10.0.1.2/32,v1 nomatch
create ports-of-bridge hash:net,iface
add ports-of-bridge 10.0.1.2/32,physdev:v1
add ports-of-bridge 10.0.0.0/8,v1
create any-gate hash:net,iface
add any-gate 0.0.0.0/0,v1
create wild-gate hash:net,iface
add wild-gate 10.0.0.0/8,v wildcard
create bits bitmap:ip range 10.0.1.0/24
add bits 10.0.1.2
create blocks bitmap:ip range 10.0.1.0/24 netmask 30
add blocks 10.0.1.0
create ports bitmap:port range 1-6000
add ports 5000
add ports 80
create some list:set
add some six
add some nets
add some services
create none list:set
create macs bitmap:ip,mac range 10.0.1.0/24
"""
CREATED = [line.split()[1] for line in SETS.splitlines() if line.startswith("create")]
NAMES = [name for name in CREATED if name != "six"]  # which iptables refuses, but not in a list
EXCEPTIONS = ["ips", "nets", "nested", "behind", "open", "gates", "some"]
DIRECTIONS = [
    ",".join(one) for size in (1, 2, 3) for one in itertools.product(("src", "dst"), repeat=size)
]


SEEN = {"(the packet was in it": True, "(the packet was not in it": False}


@pytest.fixture
def host(lab):
    """A host behind the lab's interface v1, and a rule for each set and direction."""
    command = shutil.which("ipset", path=process.search_path())
    if command is None:
        pytest.skip("no ipset; on Debian: apt-get install ipset")
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.settle()
    lab.run([command, "restore"], stdin=SETS)
    rules = "".join(
        f"-A INPUT -m set {negated}--match-set {name} {directions}\n"
        for name, directions, negated in itertools.product(NAMES, DIRECTIONS, ("", "! "))
    )
    more = "".join(
        f"-A INPUT -m set {negated}--match-set {name} {directions} --return-nomatch\n"
        for name, directions, negated in itertools.product(EXCEPTIONS, DIRECTIONS, ("", "! "))
    )
    lab.restore(None, "ipv4", f"*filter\n{rules}{more}COMMIT\n")
    return lab


@pytest.mark.parametrize("packet", PACKETS)
def test_members_are_the_kernels(host, tmp_path, packet):
    """Each set in each direction: in it or not, as the kernel counted; or it is said that it is not known."""
    path = tmp_path / "t.db"
    enter = [
        "nsenter",
        "--net=/run/netns/h",
        sys.executable,
        "-c",
        f"import socket\n{PACKETS[packet]}",
    ]
    before = counters(host.run(["iptables-legacy-save", "-c", "-t", "filter"]).stdout)
    host.run(
        [
            *IPTREC,
            "record",
            "-q",
            "-o",
            str(path),
            "--iface",
            "v1",
            "--family",
            "ipv4",
            "--",
            *enter,
        ]
    )
    saved = host.run(["iptables-legacy-save", "-c", "-t", "filter"]).stdout
    matched = [after - once for once, after in zip(before, counters(saved), strict=True)]
    rules = iptables_save.parse(saved.encode()).tables["filter"]["INPUT"].rules
    ((facts, explained),) = last_facts(path, ("filter", "INPUT"), "v1")
    said = Counter()
    for rule, count in zip(rules, matched, strict=True):
        judgement = judge(rule, facts)
        assert judgement.fits is None  # nobody tells when members come and go
        fits = next((fits for words, fits in SEEN.items() if words in judgement.because), None)
        said[fits] += 1
        if fits is None:
            assert "macs" in rule.spec
        else:
            assert (fits != ("! --match-set" in rule.spec)) == bool(count), rule.spec
    assert said[None] == 2 * len(DIRECTIONS)
    assert min(said[True], said[False]) >= 100
    # Of rules that the kernel passed over the set is what failed, where what it had is known.
    passed = [one for step in explained.steps for one in step.passed]
    assert {one.number for one in passed} >= {at for at, n in enumerate(matched, 1) if not n}
    open_ = {one.rule.spec for one in passed if one.fits is None}
    assert all("macs" in spec for spec in open_)
    assert all(one.fits is False for one in passed if one.rule.spec not in open_)


@pytest.mark.parametrize("more", ["", "-m limit --limit 1/hour --limit-burst 9 "])
def test_what_changed_between_lists_is_not_judged(host, tmp_path, more):
    """An address that is in a set whenever it is listed, and was not when the packet came: it stays open."""
    path = tmp_path / "t.db"
    rules = (
        f"-A INPUT {more}-m set --match-set ips src\n-A INPUT {more}-m set ! --match-set ips dst\n"
    )
    host.restore(
        None, "ipv4", f"*filter\n{rules}-A INPUT {more}-m set --match-set ips dst\nCOMMIT\n"
    )
    send = f"import socket\n{PACKETS['udp']}"
    command = shutil.which("ipset", path=process.search_path())
    script = (
        f"{command} del ips 10.0.1.2 && nsenter --net=/run/netns/h {sys.executable} -c '{send}'"
        f" && {command} add ips 10.0.1.2"
    ).replace("'10.0.1.1'", '"10.0.1.1"')
    script = script.replace("b'x'", 'b"x"')
    options = ["--iface", "v1", "--family", "ipv4"]
    host.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", "sh", "-c", script])
    ((_, explained),) = last_facts(path, ("filter", "INPUT"), "v1")
    passed = {one.number: one for step in explained.steps for one in step.passed}
    assert {number: one.fits for number, one in passed.items()} == {
        1: None,
        3: None if more else False,
    }
