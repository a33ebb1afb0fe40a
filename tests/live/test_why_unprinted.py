"""`iptrec why` of conditions that the kernel's rule has and nft does not print."""

from __future__ import annotations

import json
import sys

import pytest
import test_why_nft
from test_why_nft import IPTREC

pytestmark = test_why_nft.pytestmark

# Of each rule, by its table: what is said of a datagram that it does not match; None where it does.
WRITTEN = [
    (
        "inet fw",
        "meta l4proto ipv6-icmp th sport & 0x3 == 0x0",
        "meta l4proto ipv6-icmp (it is udp",
    ),
    (
        "inet fw",
        "meta mark set 5 meta l4proto ipv6-icmp th sport & 0x3 == 0x0",
        "meta l4proto ipv6-icmp",
    ),
    ("inet fw", "meta mark 5", None),
    ("inet fw", "meta iiftype 772 th dport 5000", "meta iiftype loopback (it is ether)"),
    ("inet fw", "meta l4proto udp @th,16,16 5000", None),
    ("inet fw", "ct l3proto ipv4 udp dport 5000", "ct l3proto ipv4 (it is ipv6"),
    ("ip6 fw", "meta protocol ip ip6 saddr fd00:1::/64", "meta protocol ip (it is ip6"),
    ("ip6 fw", "meta protocol ip6 ip6 saddr fd00:1::/64", None),
    ("ip6 fw", "meta l4proto tcp @th,16,16 5000", "tcp dport 5000 (it is udp)"),
]
RULES = """\
table inet fw {{
	chain judged {{
		type filter hook input priority filter; policy accept
		{}
	}}
}}
table ip6 fw {{
	chain judged {{
		type filter hook input priority filter; policy accept
		{}
	}}
}}
"""
SEND = """\
import socket
sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sender.bind(("", 4000))
sender.sendto(b"x", ("fd00:1::1", 5000))
"""


def of(table):
    """The rules of a table, and what is said of them."""
    return [(written, said) for name, written, said in WRITTEN if name == table]


@pytest.fixture
def recorded(lab, tmp_path):
    """A datagram of IPv6, under rules some of whose conditions nft does not print."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.ip("h", "address add fd00:1::2/64 dev eth0 nodad")
    lab.settle()
    rules = tmp_path / "rules.nft"
    chains = (
        "\n\t\t".join(f"{one} counter" for one, _ in of(table)) for table in ("inet fw", "ip6 fw")
    )
    rules.write_text(RULES.format(*chains))
    lab.run(["nft", "-f", str(rules)])
    path = tmp_path / "t.db"
    enter = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", SEND]
    options = ["-q", "-o", str(path), "--iface", "v1", "--backend", "nft"]
    lab.run([*IPTREC, "record", *options, "--", *enter])
    return lab, path


def test_a_condition_that_nft_does_not_print_is_told(recorded):
    """By the rule that the kernel has: nothing is left that did not match for no reason."""
    lab, path = recorded
    printed = lab.run(["nft", "list", "ruleset"]).stdout
    assert "meta protocol" not in printed  # that it hides something is nft's own doing
    said = lab.run([*IPTREC, "why", str(path), "--json", "--", "udp", "port", "5000"]).stdout
    (packet,) = (json.loads(one) for one in said.splitlines())
    for table in ("inet fw", "ip6 fw"):
        steps = [one for one in packet["packet"]["steps"] if one["table"] == table]
        passed = {rule["rule"]: rule for step in steps for rule in step["passed"]}
        for number, (written, because) in enumerate(of(table), 1):
            if because is None:
                assert number not in passed, written
            else:
                assert passed[number]["fits"] is False, passed[number]
                assert passed[number]["because"].startswith(because), passed[number]
    words = lab.run([*IPTREC, "why", str(path), "--all", "--", "udp", "port", "5000"]).stdout
    assert "no: meta protocol ip (it is ip6; nft does not print that)" in words
