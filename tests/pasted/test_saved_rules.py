"""Rules of iptables-nft-save as nft's JSON would have them: iptables' words stay those of the rule."""

from __future__ import annotations

import json

import pytest

from iptrec.decode.rulesets import iptables_save, nft_json
from iptrec.pasted import nft_saved
from iptrec.pasted.nft_rules import UNTOLD

HEAD = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:own - [0:0]\n"


def listed(*specs, told=None):
    """The rules of INPUT as they are read of the listing that is made."""
    text = HEAD + "".join(f"-A INPUT {spec}\n" for spec in specs) + "COMMIT\n"
    saved = text.encode()
    listing = nft_saved.listing({"iptables-save": saved}, {("ip", "filter", "INPUT"): told or {}})
    found = nft_json.parse(listing, b"", {"ip": iptables_save.parse(saved)})
    return found.iptables["ip", "filter"], json.loads(listing)


@pytest.mark.parametrize(
    "spec",
    [
        "-j ACCEPT", "-p udp -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable",
        "-s 10.0.0.0/8 ! -d 10.0.0.1/32 -i eth0 ! -o br+ -j DROP", "-j own", "-g own",
        "-p tcp -m multiport --dports 22,23 -j ACCEPT",
        "-m mark ! --mark 0x1/0x1 -j MARK --set-xmark 0x2/0xff", '-m comment --comment "a -p b" -j RETURN',
        "-m state --state NEW -j NOTRACK", '! -p icmp -j LOG --log-prefix "x "', "-p udp", "-j TRACE",
        "-m set --match-set x src -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
    ],
)  # fmt: skip
def test_in_the_words_of_iptables(spec):
    """They say all that the listing says."""
    chains, _ = listed(spec, told={7: spec})
    (rule,) = chains["INPUT"].rules
    assert (rule.spec, rule.syntax, rule.handle) == (spec, "iptables", 7)


def test_handles():
    """Those that are told, of one rule alone; others have numbers that the kernel gives to none."""
    chains, _ = listed("-j ACCEPT", "-p udp", "-p udp", told={5: "-j ACCEPT", 6: "-p udp"})
    handles = [one.handle for one in chains["INPUT"].rules]
    assert handles[0] == 5
    assert all(one >= UNTOLD for one in handles[1:])
    assert len({*handles}) == 3


def test_chains():
    """A built-in chain that does nothing, and of which nothing is told, may not be there."""
    chains, _ = listed("-j ACCEPT")
    assert {*chains} == {"INPUT", "own"}
    assert chains["INPUT"].base.hook == 1
    assert chains["INPUT"].policy == "DROP"
    assert chains["own"].base is None
