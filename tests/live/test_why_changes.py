"""`iptrec why` while what rules look at comes and goes: no claim is against the kernel."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import pytest
from judged import claims
from recorder import start, until

from iptrec.kernel import process
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live
LOOKED_AT_S = 1.5  # sets are listed each second
APART_S = 0.2  # changes that are nearer to a packet may have been before or after it

SEND = """
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    out.sendto(b"x", ("10.0.1.1", 9))
    time.sleep(0.001)
"""


@pytest.fixture
def host(lab):
    """A host behind v1, and a way to it for an address that is not the host's own, but may become that."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.ip("h", "route add 10.9.0.0/16 via 10.0.1.1")
    lab.settle()
    return lab


def ping(lab, address):
    """One packet, well apart from whatever happens before and after it."""
    time.sleep(APART_S)
    lab.run(["ping", "-c1", "-W1", address], "h", check=False)
    time.sleep(APART_S)


def listed(path, kind="nft"):
    """How often something is in a recording that still grows."""
    with Reader(path) as reader:
        return sum(1 for _ in reader.snapshots(kind))


def told(path, chain, spec):
    """For each packet that met a rule: its destination, whether it matched, and what is said of that."""
    return [
        (header["dst"], matched, judgement.fits)
        for header, rule, matched, judgement in claims(path, chain, "v1")
        if spec in rule.spec
    ]


CHANGES = {
    "address": ("address add 10.9.9.9/32 dev lo", "address delete 10.9.9.9/32 dev lo"),
    "any address": ("route add local 10.9.0.0/16 dev lo", "route delete local 10.9.0.0/16 dev lo"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_addresses_of_the_moment(host, tmp_path, backend, change):
    """An address that is the host's for a while, at neither end of the recording."""
    add, delete = CHANGES[change]
    rules = (
        "-A PREROUTING -m addrtype --dst-type LOCAL\n-A PREROUTING -m addrtype ! --dst-type LOCAL\n"
    )
    host.restore(None, "ipv4", f"*mangle\n{rules}COMMIT\n", backend)
    path = tmp_path / "t.db"
    recorder = start(
        host, "icmp", "--iface", "v1", "--family", "ipv4", "--backend", backend, "-o", path
    )
    ping(host, "10.9.9.9")
    host.ip(None, add)
    ping(host, "10.9.9.9")
    host.ip(None, delete)
    ping(host, "10.9.9.9")
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=60)
    for spec, matched in (
        ("! --dst-type", [True, False, True]),
        ("addrtype --dst", [False, True, False]),
    ):
        found = told(path, ("mangle", "PREROUTING"), spec)
        assert [hit for _, hit, _ in found] == matched
        assert all(fits in (None, hit) for _, hit, fits in found)
        assert [fits for _, _, fits in found] == matched


NATIVE = """\
table inet fw {
	set banned { type ipv4_addr; }
	set timed { type ipv4_addr; flags timeout; }
	set grown { type ipv4_addr; flags dynamic; }
	chain judged {
		type filter hook prerouting priority mangle;
		ip saddr @banned counter
		ip saddr @timed counter
		ip saddr @grown counter
		ip saddr != @banned counter
		add @grown { ip saddr }
	}
}
"""


def test_members_of_the_moment(host, tmp_path):
    """Sets whose members come and go by commands, by themselves and by rules."""
    rules = tmp_path / "rules.nft"
    rules.write_text(NATIVE)
    host.run(["nft", "-f", str(rules)])
    path = tmp_path / "t.db"
    recorder = start(
        host, "icmp", "--iface", "v1", "--family", "ipv4", "--backend", "nft", "-o", path
    )
    ping(host, "10.0.1.1")
    before = listed(path)
    host.run(["nft", "add element inet fw timed { 10.0.1.2 timeout 2s }"])
    host.run(["nft", "add element inet fw banned { 10.0.1.2 }"])
    ping(host, "10.0.1.1")
    until(lambda: listed(path) > before)
    ping(host, "10.0.1.1")
    before = listed(path)
    host.run(["nft", "delete element inet fw banned { 10.0.1.2 }"])
    until(lambda: listed(path) > before)
    for _ in range(5):  # until the element of the other set is gone
        ping(host, "10.0.1.1")
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=60)
    chain = ("inet fw", "judged")
    banned = told(path, chain, "saddr @banned")
    assert [hit for _, hit, _ in banned] == [False, True, True, *[False] * 5]
    assert all(fits in (None, hit) for _, hit, fits in banned)
    assert {hit for _, hit, fits in banned if fits is not None} == {True, False}
    assert [fits for _, _, fits in banned[-2:]] == [False, False]
    others = [told(path, chain, f"{one} counter") for one in ("@timed", "@grown", "!= @banned")]
    assert all(fits in (None, hit) for one in others for _, hit, fits in one)
    assert {hit for one in others for _, hit, _ in one} == {True, False}
    assert {fits for _, _, fits in others[1]} == {None}


def test_members_between_two_lists(host, tmp_path):
    """Members that come and go before anybody lists them: of these packets nothing is claimed."""
    rules = tmp_path / "rules.nft"
    rules.write_text(NATIVE)
    host.run(["nft", "-f", str(rules)])
    path = tmp_path / "t.db"
    recorder = start(
        host, "udp", "--iface", "v1", "--family", "ipv4", "--backend", "nft", "-o", path
    )
    sender = host.popen([sys.executable, "-c", SEND], "h")
    toggles = host.popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for number in range(100):
        what = ("add", "delete")[number % 2]
        print(f"{what} element inet fw banned {{ 10.0.1.2 }}", file=toggles.stdin, flush=True)
        time.sleep(0.02)
    toggles.communicate(timeout=60)
    sender.kill()
    sender.communicate(timeout=60)
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=60)
    found = told(path, ("inet fw", "judged"), "saddr @banned")
    assert {hit for _, hit, _ in found} == {True, False}
    assert [one for one in found if one[2] not in (None, one[1])] == []


def hints(path, chain, spec):
    """For each packet that met a rule: whether it matched, and what is said of it."""
    return [
        (matched, judgement.fits, judgement.because)
        for _, rule, matched, judgement in claims(path, chain, "v1")
        if spec in rule.spec
    ]


@pytest.mark.parametrize("options", ["", " timeout 3600 counters"])
def test_ipsets_of_the_moment(host, tmp_path, backend, options):
    """A member that is there for a while, at neither end of the recording: it is said when it was seen."""
    ipset = shutil.which("ipset", path=process.search_path())
    if ipset is None:
        pytest.skip("no ipset; on Debian: apt-get install ipset")
    host.run([ipset, "restore"], stdin=f"create banned hash:ip{options}\nadd banned 10.0.1.9\n")
    rules = "-A PREROUTING -m set --match-set banned src\n"
    host.restore(None, "ipv4", f"*mangle\n{rules}COMMIT\n", backend)
    path = tmp_path / "t.db"
    recorder = start(
        host, "icmp", "--iface", "v1", "--family", "ipv4", "--backend", backend, "-o", path
    )
    ping(host, "10.0.1.1")
    for command in ("add", "del"):
        time.sleep(LOOKED_AT_S)
        before = listed(path, "ipsets")
        host.run([ipset, command, "banned", "10.0.1.2"])
        ping(host, "10.0.1.1")  # nobody may have looked yet
        until(lambda before=before: listed(path, "ipsets") > before)
        ping(host, "10.0.1.1")
    time.sleep(LOOKED_AT_S)  # a member that stays and counts down is no change
    assert listed(path, "ipsets") == 3
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=60)
    found = hints(path, ("mangle", "PREROUTING"), "--match-set")
    hits = [False, True, True, False, False]
    assert [(matched, fits) for matched, fits, _ in found] == [(one, None) for one in hits]
    said = [because.partition(" (")[2].rstrip(")") for _, _, because in found]
    there, absent = (
        "the packet was in it when it was read",
        "the packet was not in it when it was read",
    )
    assert (said[0], said[2], said[4]) == (absent, there, absent)
    assert said[1] in (there, "the set changed: the packet was not in it before, and was later")
    assert said[3] in (absent, "the set changed: the packet was in it before, and not later")


FIB = """\
table ip fw {
	chain judged {
		type filter hook prerouting priority 0;
		fib daddr oifname "v1" counter
		fib daddr oif missing counter
		fib saddr . iif oif exists counter
	}
}
"""
AWAY = {
    "route": ("route delete 10.9.0.0/16 dev v1", "route add 10.9.0.0/16 dev v1"),
    "rule": ("rule add to 10.9.0.0/16 unreachable", "rule delete to 10.9.0.0/16 unreachable"),
    "link": ("link set dev d0 down", "link set dev d0 up\nroute add 10.9.0.0/16 dev d0"),
}


@pytest.mark.parametrize("way", AWAY)
def test_routes_of_the_moment(host, tmp_path, way):
    """A way that is gone for a while: it is there at both ends of the recording."""
    host.link("h", "eth1", "10.0.2.2/24", peer="d0")
    host.settle()
    host.ip(None, f"route add 10.9.0.0/16 dev {'d0' if way == 'link' else 'v1'}")
    rules = tmp_path / "rules.nft"
    rules.write_text(FIB.replace("v1", "d0") if way == "link" else FIB)
    host.run(["nft", "-f", str(rules)])
    path = tmp_path / "t.db"
    recorder = start(
        host, "icmp", "--iface", "v1", "--family", "ipv4", "--backend", "nft", "-o", path
    )
    ping(host, "10.9.9.9")
    for commands in AWAY[way]:
        time.sleep(LOOKED_AT_S)
        before = listed(path, "routes")
        host.ip(None, commands)
        until(lambda before=before: listed(path, "routes") > before)
        time.sleep(LOOKED_AT_S)
        ping(host, "10.9.9.9")
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=60)
    chain = ("ip fw", "judged")
    for spec, matched in (("oifname", [True, False, True]), ("missing", [False, True, False])):
        found = told(path, chain, spec)
        assert [hit for _, hit, _ in found] == matched
        assert all(fits in (None, hit) for _, hit, fits in found), found
        if way != "rule":  # of others than the plain rules nobody knows which routes they lead to
            assert [fits for _, _, fits in found] == matched
