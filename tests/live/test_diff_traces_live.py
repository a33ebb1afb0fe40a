"""`iptrec diff --traces` before and after a change of the rules: who receives the traffic tells the truth."""

from __future__ import annotations

import json
import re

import pytest
from command import iptrec
from test_traffic import Net

pytestmark = pytest.mark.live

RULES = """\
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -p udp --dport 1001:1003 -j ACCEPT
-A FORWARD -p udp --dport 1002 -j DROP
-A FORWARD -p udp --dport 1004 -j ACCEPT
-A FORWARD -p tcp --dport 1101 -j ACCEPT
-A FORWARD -p tcp --sport 1101:1102 -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""
SEEN = [("udp", port) for port in range(1001, 1006)] + [
    ("tcp", 1101),
    ("tcp", 1102),
    ("icmp", None),
]
COUNTERS = "*filter\n" + "".join(
    f"-A INPUT -p {name}{f' --dport {port}' if port else ''}\n" for name, port in SEEN
)
TRAFFIC = """
import subprocess
for port in range(1001, 1006):
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(b"x", ("10.0.2.2", port))
for port in (1101, 1102):
    with socket.socket() as out:
        out.settimeout(0.3)
        try:
            out.connect(("10.0.2.2", port))
        except OSError:
            pass
subprocess.run(["ping", "-q", "-c2", "-i0.2", "-W1", "10.0.2.2"], stdout=subprocess.DEVNULL)
"""
ACCEPT_1004 = "-p udp --dport 1004 -j ACCEPT"
CHANGES = {  # what is done; what becomes of which flows; whether the paths differ
    "a rule inserted": (["-I DOCKER-USER 1 -s 203.0.113.9 -j DROP"], {}, False),
    "a rule with a comment": (
        [f"-R FORWARD 4 -m comment --comment new {ACCEPT_1004}"], {}, False,
    ),
    "a chain renamed": (["-E DOCKER-USER MY-USER"], {}, False),
    "a rule deleted": ([f"-D FORWARD {ACCEPT_1004}"], {("udp", 1004): "DROP"}, True),
    "a policy": (
        ["-P FORWARD ACCEPT"], {("udp", 1005): "ACCEPT", ("tcp", 1102): "ACCEPT"}, True,
    ),
    "rules in another order": (
        ["-D FORWARD 3", "-I FORWARD 2 -p udp --dport 1002 -j DROP"], {("udp", 1002): "DROP"}, True,
    ),
    "a rejection": (
        ["-I FORWARD 1 -p icmp -j REJECT"], {("icmp", None): "REJECT"}, True,
    ),
}  # fmt: skip


@pytest.fixture
def net(lab, tmp_path):
    """A router between two hosts; the second counts what it gets."""
    one = Net(lab, tmp_path)
    one.hosts(1, 2)
    lab.restore("h2", "ipv4", f"{COUNTERS}COMMIT\n")
    lab.run(["ping", "-c1", "10.0.2.2"], "h1")  # neighbours are known from now on
    return one


def recorded(net, backend, path):
    """Record the traffic; what has arrived of it, by protocol and port."""
    net.lab.run(["iptables-legacy", "-Z"], "h2")
    net._path = path
    net.record("ip host 10.0.2.2", TRAFFIC, host="h1", options=("--backend", backend))
    assert net.certain()
    text = net.lab.run(["iptables-legacy-save", "-c", "-t", "filter"], "h2").stdout
    counts = [int(one) for one in re.findall(r"\[(\d+):\d+\] -A INPUT", text)]
    return dict(zip(SEEN, counts, strict=True))


def flows(lines):
    """The flows to the second host that changed, and what became of their packets before and now."""
    found = {}
    for one in lines:
        if one["differs"] == "flow" and one["flow"]["dst"] == "10.0.2.2":
            assert one["change"] == "changed"
            assert (one["before"]["unsure"], one["now"]["unsure"]) == (0, 0)
            key = one["flow"]["proto"], one["flow"]["dport"]
            found[key] = [one[side]["verdicts"] for side in ("before", "now")]
    return found


@pytest.mark.parametrize("case", CHANGES)
def test_fates(net, tmp_path, backend, case):
    """A flow has changed where what arrives has, and only there; paths where other rules matched."""
    change, expected, paths = CHANGES[case]
    net.lab.restore(None, "ipv4", RULES, backend)
    sides = [str(tmp_path / f"{one}.db") for one in ("before", "now")]
    before = recorded(net, backend, sides[0])
    for one in change:
        net.lab.run([f"iptables-{backend}", *one.split()])
    now = recorded(net, backend, sides[1])
    done = iptrec("diff", "--traces", "--json", *sides)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = flows(lines)
    assert {key: [*verdicts] for key, (_, verdicts) in found.items()} == {
        key: [verdict] for key, verdict in expected.items()
    }
    assert {*found} == {key for key in SEEN if bool(before[key]) != bool(now[key])}
    for key, verdicts in found.items():
        for arrived, counts in zip((before, now), verdicts, strict=True):
            assert counts.get("ACCEPT", 0) == arrived[key]
    assert any(one["differs"] == "path" for one in lines) == paths
    assert done.returncode == bool(expected or paths)


def test_the_same_rules_of_the_other_backend(net, tmp_path):
    """Nothing differs: neither a packet's fate nor what its rules say."""
    sides = []
    for name, other in (("legacy", "nft"), ("nft", "legacy")):
        net.lab.restore(None, "ipv4", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", other)
        net.lab.restore(None, "ipv4", RULES, name)
        sides.append(str(tmp_path / f"{name}.db"))
        recorded(net, name, sides[-1])
    done = iptrec("diff", "--traces", *sides)
    assert (done.returncode, done.stdout.splitlines()[0][:15]) == (0, "nothing differs"), (
        done.stdout
    )


def test_rules_of_the_other_backend_come(net, tmp_path):
    """A recording of both is compared with one of legacy iptables: what differs is what nft's rule drops."""
    net.lab.restore(None, "ipv4", RULES, "legacy")
    sides = [str(tmp_path / f"{one}.db") for one in ("before", "now")]
    before = recorded(net, "legacy", sides[0])
    chain = "chain forward { type filter hook forward priority 10; udp dport 1003 drop; }"
    net.lab.run(["nft", "-f", "-"], stdin=f"table inet fw {{ {chain}; }}")
    now = recorded(net, "both", sides[1])
    assert {key for key in SEEN if bool(before[key]) != bool(now[key])} == {("udp", 1003)}
    done = iptrec("diff", "--traces", *sides)
    lines = done.stdout.splitlines()
    decided = "by inet fw/forward rule 1: udp dport 1003 drop"
    assert lines[:2] == [
        "1 flow whose fate changed:",
        f"--> udp 10.0.1.2 > 10.0.2.2:1003: ACCEPT before, DROP now, {decided}",
    ]
    assert lines[-1].startswith("1 flow changed, 1 new path; ")
