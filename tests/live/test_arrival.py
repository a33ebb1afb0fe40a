"""What routing drops is not told as accepted, whichever hooks have rules: by what the kernel delivers.

Each datagram has a number of its own as source port, which who receives it tells.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import recorder
from command import IPTREC, iptrec
from recorder import packets, stop
from test_nft import router

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"
KILLS = int(os.environ.get("IPTREC_KILLS", "12"))
# From host a, and from the router itself: where to, with which time to live, from whom.
FATES = {
    "host": ("a", "10.0.1.1", 64, None), "onward": ("a", "10.0.2.2", 64, None),
    "no route": ("a", "10.9.9.9", 64, None), "too far": ("a", "10.0.2.2", 1, None),
    "spoofed": ("a", "10.0.1.1", 64, "10.0.2.99"), "sent": (None, "10.0.2.2", 64, None),
    "lost": (None, "10.0.2.2", 64, None),
    "host 6": ("a", "fd00:1::1", 64, None), "onward 6": ("a", "fd00:2::2", 64, None),
    "no route 6": ("a", "fd99::1", 64, None), "too far 6": ("a", "fd00:2::2", 1, None),
    "sent 6": (None, "fd00:2::2", 64, None), "lost 6": (None, "fd00:2::2", 64, None),
}  # fmt: skip
NOWHERE = "rule add fwmark 99 lookup 99\nroute add blackhole default table 99\n"
NO_ROUTE = {"ipv4": "10.9.9.9", "ipv6": "fd99::1"}
FIRST, FIRST_LOST, LAST = 20000, 25000, 29999
SEND = """\
import contextlib, socket, struct, sys
for line in sys.stdin:
    number, to, hops, spoofed = line.split()
    family, own = (socket.AF_INET6, "::") if ":" in to else (socket.AF_INET, "0.0.0.0")
    with contextlib.suppress(OSError):  # the kernel may tell who sends that it drops
        if spoofed != "None":
            udp = struct.pack("!HHHH", int(number), 5000, 9, 0) + b"x"
            head = struct.pack("!BBHHHBBH", 0x45, 0, 0, int(number), 0, int(hops), 17, 0)
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            raw.sendto(head + socket.inet_aton(spoofed) + socket.inet_aton(to) + udp, (to, 0))
            continue
        out = socket.socket(family, socket.SOCK_DGRAM)
        option = (41, 16) if family == socket.AF_INET6 else (0, socket.IP_TTL)
        out.setsockopt(*option, int(hops))
        out.bind((own, int(number)))
        out.sendto(b"x", (to, 5000))
"""
RECEIVE = f"""\
import socket
ear = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
ear.bind(("::", 5000))
print("ready", flush=True)
left = 2
while left:
    number = ear.recvfrom(100)[1][1]
    left -= number == {LAST}
    print(number, flush=True)
"""


@pytest.fixture
def network(lab):
    """A router between a and b; what the router marks in OUTPUT it has no route for."""
    router(lab)
    lab.sysctl(None, "net/ipv4/conf/all/rp_filter", 1)
    for family in ("-4", "-6"):
        lab.run(["ip", family, "-batch", "-"], stdin=NOWHERE)
    return lab


def send(lab, host, lines):
    lab.run([sys.executable, "-c", SEND], host, stdin=lines)


def sent(lab, fates):
    """Send a datagram of each fate, by its number; those that arrived."""
    ears = [
        lab.popen([sys.executable, "-c", RECEIVE], host, stdout=subprocess.PIPE, text=True)
        for host in (None, "b")
    ]
    assert [ear.stdout.readline() for ear in ears] == ["ready\n"] * 2
    for number, fate in fates.items():
        host, *where = FATES[fate]
        send(lab, host, f"{number} {' '.join(map(str, where))}\n")
    ends = ("10.0.1.1", "10.0.2.2", "fd00:1::1", "fd00:2::2")
    send(lab, "a", "".join(f"{LAST} {to} 64 None\n" for to in ends))
    return {int(line) for ear in ears for line in ear.communicate(timeout=30)[0].splitlines()}


def rules(*chains, family="inet"):
    """A table of nf_tables: of each base chain its type, hook and priority, and its rules."""
    made = (
        f"chain c{number} {{ type {'; '.join(words)}; }};" for number, words in enumerate(chains)
    )
    return "nft", f"table {family} fw {{ {' '.join(made)} }}"


def iptables(backend, **tables):
    """Rules of iptables for both families."""
    return backend, "".join(f"*{name}\n{words}\nCOMMIT\n" for name, words in tables.items())


def load(lab, kind, text):
    if text.startswith("*"):
        for family in ("ipv4", "ipv6"):
            lab.restore(None, family, text.replace("NOWHERE", NO_ROUTE[family]), kind)
    else:
        lab.run(["nft", "-f", "-"], stdin=text)


def numbered(first=0):
    """A datagram of each fate, by its number."""
    return {
        (FIRST_LOST if "lost" in fate else FIRST) + number: fate
        for number, fate in enumerate(FATES, first)
    }


def told(path, fates, arrived):
    """What was told of each datagram by its fate, and whether it arrived."""
    found = [one for one in packets(path) if one.header["sport"] in fates]
    assert sorted(one.header["sport"] for one in found) == sorted(fates)
    return {fates[one.header["sport"]]: (one, one.header["sport"] in arrived) for one in found}


def recorded(lab, path, backend):
    """A datagram of each fate, as it was told, and whether it arrived."""
    child = recorder.start(lab, "udp", "--backend", backend, "-o", path, notes=True)
    arrived = sent(lab, fates := numbered())
    stop(child)
    return told(path, fates, arrived)


ENDS = {
    "no route": "IP_INNOROUTES", "too far": "IP_INHDR", "spoofed": "IP_RPFILTER", "no route 6": "IP_INNOROUTES",
    "too far 6": "IP_INHDR",
}  # fmt: skip


def right(packet, fate, arrived):
    """Whether the end that is told, if any, is the one that it had."""
    return packet.end is None or (not arrived and packet.end.reason == ENDS.get(fate))


WHOLE, UNKNOWN = ("ACCEPT", True, False), ("UNKNOWN", False, False)


def seen(packet):
    return packet.verdict, packet.complete, packet.ambiguous


PRE, FORWARD, INPUT = (
    f"filter hook {one} priority 0" for one in ("prerouting", "forward", "input")
)
MARK = "udp sport 25000-25999 meta mark set 99"
NFT = {
    "nothing": rules(),
    "prerouting": rules((PRE,)),
    "no input": rules((PRE,), (FORWARD,)),
    "no forward": rules((INPUT,)),
    "forward alone": rules((FORWARD,)),
    "of one family": rules((PRE,), (INPUT,), family="ip6"),
    "nat": rules(
        ("nat hook prerouting priority -100", "udp dport 4000 redirect"),
        ("nat hook input priority 100",),
        ("nat hook output priority -100",),
        ("nat hook postrouting priority 100", 'oifname "to-b" masquerade'),
    ),
    "routed again": rules(("route hook output priority -150", MARK)),
    "routed again, filtered before": rules(
        ("filter hook output priority -200",), ("route hook output priority -150", MARK), (FORWARD,)
    ),
    "routed again, filtered then": rules(
        ("route hook output priority -150", MARK), ("filter hook output priority 0",), (FORWARD,)
    ),
    "iptables, nat": iptables("nft", nat="-A PREROUTING -p udp --dport 4000 -j REDIRECT"),
    "iptables, mangle": iptables("nft", mangle="-A PREROUTING -p udp -j MARK --set-mark 1"),
    "iptables, forward": iptables("nft", filter="-A FORWARD -p udp --dport 4000 -j DROP"),
}  # fmt: skip


@pytest.mark.parametrize("case", NFT)
def test_nf_tables_tells_what_arrived(network, tmp_path, case):
    """All that arrived is accepted, for sure; of the rest nothing is told but where it was last seen."""
    load(network, *NFT[case])
    for fate, (packet, arrived) in recorded(network, tmp_path / "t.db", "nft").items():
        assert seen(packet) == (WHOLE if arrived else UNKNOWN), fate
        assert right(packet, fate, arrived), (fate, packet.end)
        assert arrived or packet.end or fate not in ENDS, fate
        assert not any("iptrec-" in step.table for step in packet.steps)
    assert "iptrec" not in network.run(["nft", "list", "tables"]).stdout


LEGACY = {
    "nothing": ("legacy", "*raw\nCOMMIT\n"),
    "nat": iptables("legacy", nat="-A PREROUTING -p udp --dport 4000 -j REDIRECT"),
    "nat in output": iptables(
        "legacy", nat="-A OUTPUT -p udp --sport 25000:25999 -j DNAT --to-destination NOWHERE"
    ),
    "filter": iptables("legacy", filter="-A FORWARD -p udp --dport 4000 -j DROP"),
    "mangle": iptables("legacy", mangle="-A OUTPUT -p udp --sport 25000:25999 -j MARK --set-mark 99"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEGACY)
def test_legacy_iptables_claims_nothing_else(network, tmp_path, case):
    """Where no table has a chain that would tell, it is said that nobody knows."""
    load(network, *LEGACY[case])
    for fate, (packet, arrived) in recorded(network, tmp_path / "t.db", "legacy").items():
        assert seen(packet) in (WHOLE, UNKNOWN), fate
        assert arrived or packet.verdict == "UNKNOWN", fate
        assert right(packet, fate, arrived), (fate, packet.end)
        if case in ("filter", "mangle"):
            assert arrived == (packet.verdict == "ACCEPT"), fate


@pytest.mark.parametrize("case", ["nothing", "nat", "nat in output"])
def test_what_the_readme_names_loads_a_table_that_tells(network, tmp_path, case):
    """Of both families; it changes nothing else."""
    load(network, *LEGACY[case])
    before = [network.run([f"{one}-legacy-save"]).stdout for one in ("iptables", "ip6tables")]
    named = re.findall(r"`(ip6?tables-legacy -t mangle -nL)`", PAGE.read_text())
    assert len(named) == 2
    for command in named:
        network.run(command.split())
    after = [network.run([f"{one}-legacy-save"]).stdout for one in ("iptables", "ip6tables")]
    assert [re.findall("^-A.*", one, re.MULTILINE) for one in after] == [
        re.findall("^-A.*", one, re.MULTILINE) for one in before
    ]
    for fate, (packet, arrived) in recorded(network, tmp_path / "t.db", "legacy").items():
        assert seen(packet) == (WHOLE if arrived else UNKNOWN), fate


def ours(lab):
    """Which tables there are whose chains packets pass last, and how many rules that trace."""
    listed = lab.run(["nft", "list", "ruleset"]).stdout
    return re.findall(r"^table (ip6?) iptrec-", listed, re.MULTILINE), listed.count("nftrace set 1")


def test_chains_that_go_while_we_record(network, tmp_path):
    """Ours come when they are needed, and again where somebody flushed them; meanwhile nobody knows."""
    load(network, *rules((PRE,), (INPUT,), (FORWARD,)))
    path = tmp_path / "t.db"
    child = recorder.start(network, "udp", "--backend", "nft", "-o", path)
    assert ours(network) == ([], 4)
    turns = []
    for number, change in enumerate((None, "delete chain inet fw c1", "flush ruleset")):
        if change is not None:
            network.run(["nft", change])
            turns.append((numbered(200 * number), sent(network, numbered(200 * number))))
            recorder.until(lambda: ours(network) == (["ip", "ip6"], 4))
        turns.append((numbered(200 * number + 100), sent(network, numbered(200 * number + 100))))
    stop(child)
    for fates, arrived in turns:
        found = [one for one in packets(path) if one.header["sport"] in fates]
        accepted = {one.header["sport"] for one in found if seen(one) == WHOLE}
        assert accepted <= arrived
        if (fates, arrived) in turns[::2]:
            assert accepted == arrived.intersection(fates)
    assert ours(network) == ([], 0)


@pytest.mark.parametrize("where", ["ipv4/ip_forward", "ipv6/conf/all/forwarding"])
def test_forwarding_that_is_switched_on_while_we_record(network, tmp_path, where):
    """Nobody changes a rule then: the kernel tells of it by rtnetlink."""
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        network.sysctl(None, f"net/{key}", 0)
    for name in ("iptables", "ip6tables"):
        key = f"net/bridge/bridge-nf-call-{name}"
        if network.run(["test", "-e", f"/proc/sys/{key}"], check=False).returncode == 0:
            network.sysctl(None, key, 0)
    load(network, *rules((PRE,), (INPUT,)))
    path = tmp_path / "t.db"
    child = recorder.start(network, "udp", "--backend", "nft", "-o", path)
    assert ours(network) == ([], 4)
    network.sysctl(None, f"net/{where}", 1)
    recorder.until(lambda: ours(network) == (["ip", "ip6"], 4))
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        network.sysctl(None, f"net/{key}", 1)
    arrived = sent(network, fates := numbered())
    stop(child)
    for fate, (packet, there) in told(path, fates, arrived).items():
        assert seen(packet) == (WHOLE if there else UNKNOWN), fate
        assert there or "onward" not in fate
    assert ours(network) == ([], 0)


def state(lab):
    """The ruleset but for its counters, and what recorders keep in /run."""
    command = ["sh", "-c", "nft list ruleset; ls -A /run/iptrec 2>/dev/null"]
    return re.sub(r"packets \d+ bytes \d+", "", lab.run(command, check=False).stdout)


def test_killed_at_any_moment(network, tmp_path):
    """SIGKILL in set-up, recording and clean-up: our chains are gone, nobody is left."""
    load(network, *rules((PRE,), (FORWARD,)))
    command = (*IPTREC, "record", "--duration", "50ms", "--backend", "nft", "udp", "-o")
    recorder.kill_at_any_moment(network, tmp_path, KILLS, lambda: state(network), *command)


def test_chains_that_came_later_go_with_a_killed_recorder(network, tmp_path):
    """The guardian knows of them before the kernel does."""
    load(network, *rules((PRE,), (INPUT,), (FORWARD,)))
    child = recorder.start(network, "udp", "--backend", "nft", "-o", tmp_path / "t.db")
    network.run(["nft", "delete chain inet fw c1"])
    recorder.until(lambda: ours(network)[0] == ["ip", "ip6"])
    child.kill()
    child.communicate()
    left = rules((PRE,), (FORWARD,))[1].replace("c1", "c2")
    recorder.until(lambda: "iptrec" not in state(network))
    assert state(network).split() == listed(network, left).split()


def listed(lab, text):
    """What nft lists of a ruleset where there is nothing else."""
    return lab.run(["unshare", "-n", "sh", "-c", "nft -f - && nft list ruleset"], stdin=text).stdout


def test_two_recorders(network, tmp_path):
    """Each tells the same, and nothing of the other's chains."""
    load(network, *rules((PRE,), (FORWARD,)))
    paths = [tmp_path / f"{number}.db" for number in range(2)]
    both = [recorder.start(network, "udp", "--backend", "nft", "-o", path) for path in paths]
    arrived = sent(network, fates := numbered())
    stop(both[0])
    stop(both[1])
    for path in paths:
        for fate, (packet, there) in told(path, fates, arrived).items():
            assert seen(packet) == (WHOLE if there else UNKNOWN), fate
            assert not any("iptrec-" in step.table for step in packet.steps)
    assert iptrec("diff", *paths).returncode == 0
    assert "iptrec-" not in iptrec("rules", paths[1]).stdout
