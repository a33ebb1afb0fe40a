"""Filters as matches of nft: what it can say, and what is refused."""

from __future__ import annotations

import pytest

from iptrec.errors import UsageError
from iptrec.pcap.nft import matches

PORTS = "meta l4proto { tcp, udp, sctp }"
# expression -> for IPv4, for IPv6
CASES = {
    "": ([""], [""]),
    "tcp": (["meta l4proto tcp"], ["meta l4proto tcp"]),
    "icmp or icmp6": (["meta l4proto icmp"], ["meta l4proto icmpv6"]),
    "udp dst port 53": (["meta l4proto udp th dport 53"],) * 2,
    "port 53": ([f"{PORTS} th sport 53", f"{PORTS} th dport 53"],) * 2,
    "tcp portrange 80-90 && dst host 10.0.0.1": (
        ["meta l4proto tcp th sport 80-90 ip daddr 10.0.0.1/32",
         "meta l4proto tcp th dport 80-90 ip daddr 10.0.0.1/32"],
        [],
    ),
    "src net fd00::/8 or ip": ([""], ["ip6 saddr fd00::/8"]),
    # equal precedence, from the left: (tcp or udp) and ...
    "tcp or udp and src port 1": (
        [f"meta l4proto tcp {PORTS} th sport 1", f"meta l4proto udp {PORTS} th sport 1"],
    ) * 2,
}  # fmt: skip


@pytest.mark.parametrize("expression", CASES)
def test_matches(expression):
    """Each alternative is a rule; those of the other family alone are none."""
    assert (matches(expression, "ipv4"), matches(expression, "ipv6")) == CASES[expression]


@pytest.mark.parametrize(
    "expression",
    ["tcp[13] = 2", "not tcp", "(tcp)", "host www", "port http", "port", "tcp and", "src",
     "port 70000", "less 100", "port 1 or 2", 'host "; flush ruleset'],
)  # fmt: skip
def test_refused(expression):
    """What nft cannot say, in one line."""
    with pytest.raises(UsageError, match="iptables-nft is missing") as raised:
        matches(expression, "ipv4")
    assert "\n" not in str(raised.value)


def test_too_many():
    """Alternatives multiply."""
    with pytest.raises(UsageError, match="more than 64 rules"):
        matches(" and ".join(["port 1"] * 7), "ipv4")
