"""What rules do with a packet by their targets, whoever traced them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_json import TAG
from iptrec.decode.rulesets.nft_others import Other

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from iptrec.decode.rulesets.types import Chain, Rule
    from iptrec.rulesets.places import Effect

PASSING: Final = frozenset([
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DNPT", "DSCP", "ECN", "HL", "HMARK",
    "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "SNPT", "TCPMSS",
    "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG",
])  # fmt: skip
STANDARD: Final = frozenset({"ACCEPT", "DROP", "QUEUE", "RETURN"})  # verdicts, not modules
_ACCEPT: Final = frozenset(
    ["ACCEPT", "DNAT", "MASQUERADE", "NETMAP", "REDIRECT", "SAME", "SNAT", "TPROXY"]
)
_QUEUE: Final = frozenset({"QUEUE", "NFQUEUE"})
_ENDS: Final = {"DROP": "DROP", "REJECT": "REJECT", "TARPIT": "DROP", "DELUDE": "REJECT"}
# SYNPROXY takes SYNs and ACKs; all else goes on (net/ipv4/netfilter/ipt_SYNPROXY.c).
_TAKES: Final = {"SYNPROXY": "STOLEN"}
_COMMENTS_ONLY: Final = re.compile(
    r'(?:-m comment --comment (?:"(?:\\.|[^"\\])*"|[^"\s]\S*)(?: |$))*(?:-[jg] |$)'
)
_QUOTED: Final = re.compile(r'"[^"]*"')
_SETTLES: Final = re.compile(
    r'(?:counter(?: packets \d+ bytes \d+)? )?(?:accept|drop)(?: comment "")?'
)
_LAST: Final = "; }"
# The anonymous chain, for the one that led there
_LEAVES: Final = re.compile(r"\b(?:return|goto|vmap)\b")
_UNTRACE: Final = re.compile(r"\bmeta nftrace set 0\b")
_UNTRACE_EVERY: Final = re.compile(r"(?:counter (?:packets \d+ bytes \d+ )?)?meta nftrace set 0\b")

# Matches that drop what they cannot read, or have no memory for (hotdrop; net/netfilter/xt_*.c, ip_tables.c,
# ip6_tables.c, and ip*t_*.c of both families). Those without a name in the text are of the protocol.
_DROPPING_MATCH: Final = (
    r"(?:ah|connlimit|dccp|dst|esp|eui64|frag|hashlimit|hbh|icmp6?|ipcomp|mh|multiport|recent|rt|sctp|tcp"
    r"|tcpmss|udp|udplite)\b"
)
_DROPPING: Final = re.compile(f"-m {_DROPPING_MATCH}")
# Likewise of nf_tables: what has no address and port that could be counted (nft_connlimit.c), and such matches.
_DROPPING_OF_NFT: Final = re.compile(rf'\bct count\b|\bxt match "{_DROPPING_MATCH}')
_NEVER_DROPPING: Final = PASSING | {"ACCEPT", "RETURN"}


def may_drop_by_match(rule: Rule) -> bool:
    """Whether a match of a rule may drop a packet: then the rule neither matches nor counts it."""
    text = _QUOTED.sub("", rule.spec)
    if rule.syntax != "nft":
        return _DROPPING.search(text) is not None
    return any(map(_DROPPING_OF_NFT.search, (text, *(one.words for one in _others(rule)))))


def _others(rule: Rule) -> Iterator[Other]:
    return (one for one in rule.matches if isinstance(one, Other))


def drops_by_match_alone(rule: Rule, chains: Container[str]) -> bool:
    """Whether nothing but a match of this rule can drop a packet; ``chains``: those of its table."""
    harmless = rule.target is None or rule.target in _NEVER_DROPPING or rule.target in chains
    by_map = rule.syntax == "nft" and "vmap" in rule.spec
    return harmless and not by_map and may_drop_by_match(rule)


def rule_effect(rule: Rule, chains: Container[str]) -> Effect:
    """What comes after a rule that matched; ``chains``: those of its table."""
    target = rule.target
    if target is None or target in PASSING:
        return "continue", None
    if target in chains:
        return ("goto" if rule.goto else "jump"), target
    if target == "RETURN":
        return "return", None
    if target in _ACCEPT:
        return "accept", None
    if target in _QUEUE:
        return "queue", None
    if target in _ENDS:
        return "end", _ENDS[target]
    return "unknown", _TAKES.get(target)


def end_effect(chain: Chain) -> Effect:
    """What comes after the last rule of a chain: a return, or the policy."""
    match chain.policy:
        case None:
            return "return", None
        case "ACCEPT":
            return "accept", "ACCEPT"
        case policy:
            return "end", policy


def is_ours(rule: Rule, comment: str | None) -> bool:
    """Whether a rule is the recorder's, which has this comment, or one that cannot be read."""
    return comment is not None and rule.comment in (comment, TAG) and rule.target == "TRACE"


def always_matches(rule: Rule) -> bool:
    """Whether a rule matches every packet: no match at all, or nothing but comments."""
    only_comments = rule.listed and _COMMENTS_ONLY.match(rule.spec) is not None
    return not rule.conditional or only_comments


def switches_off(rule: Rule) -> bool:
    """Whether a rule of nf_tables switches tracing off: neither it nor what comes after it is told."""
    return rule.syntax == "nft" and _UNTRACE.search(_QUOTED.sub("", rule.spec)) is not None


def switches_off_every(rule: Rule) -> bool:
    """Whether such a rule does so for every packet that meets it: it begins with that."""
    return _UNTRACE_EVERY.match(rule.spec) is not None


def ends_chain(rule: Rule) -> bool:
    """Whether a packet that a rule matches meets no later rule of its chain."""
    if rule.goto or rule.target in _ACCEPT | _QUEUE | set(_ENDS) | {"RETURN"}:
        return True
    return rule.syntax == "nft" and rule.target is None and _never_returns(rule.spec)


def _never_returns(spec: str) -> bool:
    """Whether a rule jumps to an anonymous chain that ends the way of every packet, as nft's text tells."""
    plain = _QUOTED.sub('""', spec).removesuffix(' comment ""')
    _, jump, rules = f" {plain}".partition(" jump { ")
    for one in rules[: -len(_LAST)].split("; ") if jump and rules.endswith(_LAST) else ():
        if _SETTLES.fullmatch(one):
            return True
        if _LEAVES.search(one):
            return False
    return False
