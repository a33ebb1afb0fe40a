"""Recording where nft aborts at a rule: of its table the kernel tells the rules, without their texts."""

from __future__ import annotations

import shutil
import sys

import pytest
from command import IPTREC
from recorder import packets

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]
RULES = """\
table inet before {
	chain p {
		type filter hook prerouting priority 0
		udp dport 5000 counter
	}
}
table inet t {
	set s { type ipv4_addr; elements = { 127.0.0.1 } }
	chain o {
		type filter hook input priority 0; policy drop
		ip saddr @s counter
		udp dport 5000-5002 counter jump u
		udp dport 5001 counter accept
		meta l4proto icmp accept
	}
	chain u {
		udp dport 5000-5002 counter
		ip ttl . ip dscp { 64 . 0, 63 . 8 } counter
		udp dport 5000 counter accept
	}
}
table ip z {
	chain p {
		type filter hook input priority 10
		udp dport 5000 counter
	}
}
"""
PYTHON = """
import socket
receivers = {port: socket.socket(2, 2) for port in (5000, 5001, 5002)}
for port, one in receivers.items():
    one.bind(('127.0.0.1', port))
    one.setblocking(False)
    socket.socket(2, 2).sendto(b'x', ('127.0.0.1', port))
for port, one in receivers.items():
    try:
        print(port, one.recv(9))
    except BlockingIOError:
        print(port, None)
"""


@pytest.fixture
def host(lab, tmp_path):
    """A host with rules of which nft cannot list one."""
    path = tmp_path / "rules.nft"
    path.write_text(RULES)
    lab.run(["nft", "-f", str(path)])
    if lab.run(["nft", "list", "ruleset"], check=False).returncode == 0:
        pytest.skip("this nft lists it")
    return lab


def test_what_packets_meet_is_known_by_numbers(host, tmp_path):
    """The verdicts are right, the other tables have their texts, and it is said which one has not."""
    path = tmp_path / "t.db"
    done = host.run(
        [*IPTREC, "record", "--backend", "nft", "-o", str(path), "--family", "ipv4", "udp", "--",
         sys.executable, "-c", PYTHON]
    )  # fmt: skip
    assert "nft cannot list table inet t (" in done.stderr, done.stderr
    arrived = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    inside = [one for one in packets(path) if one.in_ == "lo"]
    assert [str(one.header["dport"]) for one in inside] == list(arrived)
    for one in inside:
        assert one.complete, one
        assert (one.verdict == "ACCEPT") == (arrived[str(one.header["dport"])] != "None"), one
        before, *_ = (step for step in one.steps if step.table == "inet before")
        assert before.spec == ("udp dport 5000 counter" if one.header["dport"] == 5000 else None)
    steps = [
        [
            (step.chain, step.type, step.rule, step.spec)
            for step in one.steps
            if step.table == "inet t"
        ]
        for one in inside
    ]
    common = [
        ("o", "rule", 1, None), ("o", "rule", 2, None), ("u", "rule", 1, None), ("u", "rule", 2, None),
    ]  # fmt: skip
    assert steps[0] == [*common, ("u", "rule", 3, None)]
    assert steps[1] == [*common, ("u", "return", None, None), ("o", "rule", 3, None)]
    assert steps[2] == [*common, ("u", "return", None, None), ("o", "policy", None, None)]
    said = host.run([*IPTREC, "why", str(path), "--packet", str(inside[2].number)]).stdout
    assert "inet t/o" in said
    assert "went through u: #3 did not match (depends on its text, which was not recorded)" in said
    counted = host.run([*IPTREC, "rules", str(path), "--table", "inet t"]).stdout
    hits = [line.split()[:2] for line in counted.splitlines() if line.startswith(" #")]
    assert hits == [
        ["#1", "3"], ["#2", "3"], ["#3", "1"], ["#4", "-"], ["#1", "3"], ["#2", "3"], ["#3", "1"],
    ]  # fmt: skip
    assert counted.count("(its text was not recorded)") == len(hits)


def test_nothing_is_left(host, tmp_path):
    """`nft list tables` aborts as well: what is ours is found without it."""
    child = host.popen([*IPTREC, "record", "-q", "--backend", "nft", "-o", str(tmp_path / "t.db"),
                        "--", "sleep", "0.1"])  # fmt: skip
    assert child.wait(timeout=30) == 0
    assert tables(host) == ["before", "t", "z"]


def tables(host):
    """What is there once nft can list it again."""
    script = (
        "from iptrec.kernel.nft import bases; print(*sorted({one.table for one in bases.every()}))"
    )
    return host.run([sys.executable, "-c", script]).stdout.split()
