"""Filters as matches of nft: what it can say, and what is refused."""

from __future__ import annotations

import pytest

from iptrec.decode.nft_filter import nft_matches
from iptrec.errors import UsageError

PORTS = "meta l4proto { tcp, udp, sctp }"
CASES = {
    "": [""],
    "tcp": ["meta l4proto tcp"],
    "icmp or icmp6": [
        "meta nfproto ipv4 meta l4proto icmp", "meta nfproto ipv6 meta l4proto icmpv6",
    ],
    "udp dst port 53": ["meta l4proto udp th dport 53"],
    "port 53": [f"{PORTS} th sport 53", f"{PORTS} th dport 53"],
    "tcp portrange 80-90 and dst host 10.0.0.1": [
        "meta l4proto tcp th sport 80-90 ip daddr 10.0.0.1/32",
        "meta l4proto tcp th dport 80-90 ip daddr 10.0.0.1/32",
    ],
    "src 10.0.0.0/8 && dst net fd00::/8": ["ip saddr 10.0.0.0/8 ip6 daddr fd00::/8"],
    # equal precedence, from the left: (a or b) and c
    "tcp or udp and src port 1": [
        f"meta l4proto tcp {PORTS} th sport 1", f"meta l4proto udp {PORTS} th sport 1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("expression", CASES)
def test_matches(expression):
    """Each alternative is a rule."""
    assert nft_matches(expression, ("ipv4", "ipv6")) == CASES[expression]


def test_one_family():
    """The table has both, the user asked for one."""
    assert nft_matches("tcp", ["ipv6"]) == ["meta nfproto ipv6 meta l4proto tcp"]


@pytest.mark.parametrize(
    "expression",
    ["tcp[13] = 2", "not tcp", "(tcp)", "host www", "port http", "port", "src", "icmp port 5",
     "port 70000", "less 100", "port 1 or 2", 'host "; flush ruleset'],
)  # fmt: skip
def test_refused(expression):
    """What nft cannot say, in one line that names the word."""
    with pytest.raises(UsageError, match="without iptables-nft") as raised:
        nft_matches(expression, ("ipv4", "ipv6"))
    assert "\n" not in str(raised.value)


def test_too_many():
    """Alternatives multiply."""
    with pytest.raises(UsageError, match="at most"):
        nft_matches(" and ".join(["port 1"] * 7), ("ipv4",))
