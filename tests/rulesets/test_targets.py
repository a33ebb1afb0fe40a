"""What rules do by their targets and matches: which of them drop packets that they cannot read."""

from __future__ import annotations

import pytest

from iptrec.decode.rulesets.nft_others import Other
from iptrec.decode.rulesets.types import Rule
from iptrec.rulesets.targets import drops_by_match_alone, ends_chain

RULES = [  # of iptables, and of nft's text
    ("iptables", "-p tcp -m tcpmss --mss 1 -j ACCEPT", "ACCEPT", True),
    ("iptables", "-p tcp -m tcpmss --mss 1 -j DROP", "DROP", False),
    ("iptables", '-m comment --comment "-m tcpmss" -j ACCEPT', "ACCEPT", False),
    ("nft", "ct count over 3 counter", None, True),
    ("nft", "ct count over 3 jump users", "users", True),
    ("nft", "add @s { ip saddr ct count over 3 } counter", None, True),
    ("nft", "ct count over 3 reject", "REJECT", False),
    ("nft", "ct count over 3 ip saddr vmap @verdicts", None, False),
    ("nft", 'counter comment "ct count over 3"', None, False),
    ("nft", "tcp dport 80 counter", None, False),
]


@pytest.mark.parametrize(("syntax", "spec", "target", "alone"), RULES)
def test_what_drops_by_itself(syntax, spec, target, alone):
    rule = Rule(spec, target, None, goto=False, comment=None, conditional=True, syntax=syntax)
    assert drops_by_match_alone(rule, {"users"}) is alone


@pytest.mark.parametrize(
    ("words", "alone"),
    [("ct count over 3", True), ('xt match "tcpmss"', True), ('xt match "string"', False)],
)
def test_what_drops_by_itself_of_a_rule_without_text(words, alone):
    """By what was understood of nft's JSON."""
    rule = Rule(
        '[{"counter":null}]', None, None, False, None, True, syntax="nft", matches=(Other(words),)
    )
    assert drops_by_match_alone(rule, ()) is alone


@pytest.mark.parametrize(
    ("spec", "ends"),
    [
        ("jump { udp dport 7 drop; accept; }", True),
        ("counter jump { counter packets 3 bytes 4 drop; udp dport 7 return; }", True),
        ('jump { drop comment "return; or not"; } comment "a } b"', True),
        ("jump { udp dport 7 drop; tcp dport 7 accept; }", False),
        ("jump { udp dport 7 return; drop; }", False),
        ("jump { udp dport vmap { 7 : goto x }; drop; }", False),
        ("jump { goto x; drop; }", False),
        ('jump { counter comment "; drop; "; }', False),
        ("jump x", False),
        ("counter", False),
    ],
)
def test_anonymous_chains_that_end_the_way(spec, ends):
    """By nft's text: nobody returns from one in which every packet meets a verdict."""
    rule = Rule(spec, None, None, goto=False, comment=None, conditional=False, syntax="nft")
    assert ends_chain(rule) is ends
