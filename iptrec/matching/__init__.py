"""Does a rule fit a packet? Each syntax of rules is judged by a module of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.matching import iptables, nft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts, Judgement

_SYNTAXES: Final = {"iptables": iptables.judge, "nft": nft.judge}


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Evaluate all matches of a rule: one that fails decides, one that is unknown leaves it open."""
    return _SYNTAXES[rule.syntax](rule, facts)


def writes(rule: Rule) -> Iterator[tuple[str, bool]]:
    """What a rule changes of a packet (see `nft_matches.Writes`), and whether also where it does not match."""
    return nft.writes(rule) if rule.syntax == "nft" else iptables.writes(rule)
