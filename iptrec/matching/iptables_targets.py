"""What targets of iptables change of a packet: net/netfilter/xt_DSCP.c, xt_HL.c, xt_mark.c and their like.

Told as iptables-save prints their options. What a target sets nobody can tell of most of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_matches import TEMPLATE
from iptrec.matching.rewrites import ANYTHING, MARK, known, rewritten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts

    Value = Callable[[str, int], "int | None"]

_MASKED: Final = re.compile(r"--set-(?:xmark|tos) (0x[0-9a-f]{1,8})/(0x[0-9a-f]{1,8})")
_CLASS: Final = re.compile(r"--set-dscp (0x[0-9a-f]{1,2})")
_HOPS: Final = re.compile(r"--(?:ttl|hl)-(set|inc|dec) (\d{1,3})")
_TOS: Final = {4: ("@nh,8,8",), 6: ("@nh,4,8",)}
_HOP_LIMIT: Final = {4: ("ip ttl",), 6: ("ip6 hoplimit",)}
_LENGTHS: Final = {4: ("ip length", "tcp doff"), 6: ("ip6 length", "tcp doff")}


def _masked(arguments: str, own: int) -> int | None:
    """The mask's bits are cleared, then the value is XORed in."""
    found = _MASKED.fullmatch(arguments)
    return None if found is None else own & ~int(found[2], 16) ^ int(found[1], 16)


def _class(arguments: str, own: int) -> int | None:
    """The upper six bits."""
    found = _CLASS.fullmatch(arguments)
    return None if found is None else own & 3 | int(found[1], 16) << 2 & 0xFF


def _hops(arguments: str, own: int) -> int | None:
    found = _HOPS.fullmatch(arguments)
    if found is None:
        return None
    value = int(found[2])
    return min(max({"set": value, "inc": own + value, "dec": own - value}[found[1]], 0), 255)


def _unknown(_arguments: str, _own: int) -> None:
    """Nobody knows."""


def _same(*keys: str) -> Mapping[int, Sequence[str]]:
    return {4: keys, 6: keys}


# Of either version of IP the keys of what is changed, in the words of nft, and what becomes of the first.
_TARGETS: Final[dict[str, tuple[Mapping[int, Sequence[str]], Value]]] = {
    "MARK": (_same(MARK), _masked),
    "CONNMARK": (_same(MARK, "ct mark"), _unknown),
    "TPROXY": (_same(MARK), _unknown),
    "HMARK": (_same(MARK), _unknown),
    "CONNSECMARK": (_same("ct secmark"), _unknown),
    "TOS": (_TOS, _masked),
    "DSCP": (_TOS, _class),
    "ECN": (
        {4: ("@nh,8,8", "tcp reserved", "tcp flags"), 6: ("tcp reserved", "tcp flags")},
        _unknown,
    ),
    "TTL": (_HOP_LIMIT, _hops),
    "HL": (_HOP_LIMIT, _hops),
    "TCPMSS": (_LENGTHS, _unknown),
    "TCPOPTSTRIP": (_LENGTHS, _unknown),
    "SNPT": (_same("ip6 saddr"), _unknown),
    "DNPT": (_same("ip6 daddr"), _unknown),
    "CT": (_same("ct", TEMPLATE), _unknown),
    "NOTRACK": (_same("ct"), _unknown),
}


def changes(rule: Rule) -> frozenset[str]:
    """The keys of all that a rule may change."""
    keys, _ = _TARGETS.get(rule.target or "", ({}, _unknown))
    return frozenset(key for of in keys.values() for key in of)


def matched(rule: Rule, facts: Facts) -> Facts:
    """A packet that a rule matched, with what its target changed."""
    if rule.target not in _TARGETS:
        return facts
    keys, value = _TARGETS[rule.target]
    version = facts.bits.version
    if version not in keys and len(set(keys.values())) > 1:
        return rewritten(facts, ANYTHING, None)
    arguments = rule.target_args or ""
    for key in keys[version or 4]:
        own = facts.mark if key == MARK else known(facts, key)
        possible = (0, 0xFFFFFFFF if key == MARK else 0xFF) if own is None else (own,)
        became = {value(arguments, one) for one in possible}
        facts = rewritten(facts, key, became.pop() if len(became) == 1 else None)
    return facts
