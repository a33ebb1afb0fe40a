"""Does a rule fit a packet, and what does it make of it? A module of its own judges each syntax of rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.matching import iptables, iptables_targets, nft

if TYPE_CHECKING:
    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts, Judgement

_SYNTAXES: Final = {"iptables": iptables.judge, "nft": nft.judge}


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Evaluate all matches of a rule: one that fails decides, one that is unknown leaves it open."""
    return _SYNTAXES[rule.syntax](rule, facts)


def after(rule: Rule, facts: Facts, *, matched: bool) -> Facts:
    """What is known of a packet after a rule.

    One of nft's changes it statement by statement, up to a condition that does not hold.
    """
    if rule.syntax == "nft":
        return (nft.matched if matched else nft.passed)(rule, facts)
    return iptables_targets.matched(rule, facts) if matched else facts


def changes(rule: Rule, *, matched: bool) -> frozenset[str]:
    """The keys of all that a rule may change, see `nft_matches.Writes`."""
    if rule.syntax == "nft":
        return nft.changes(rule, matched=matched)
    return iptables_targets.changes(rule) if matched else frozenset()
