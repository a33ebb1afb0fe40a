"""A ruleset of iptables-nft-save as nft would list it: with the handles that a trace told of its rules.

xtables-monitor tells each rule's handle and its text, which iptables-nft-save prints alike. A rule that no
packet met has a number that the kernel gives to none, and so has one whose text its chain has more than once.
Chains are attached where iptables-nft attaches them (nft.c of iptables). It prints built-in chains that the
kernel does not have: those of which nothing is told, with no rule and the policy ACCEPT, are left out.
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.rulesets import iptables_save, nft_iptables
from iptrec.decode.rulesets.nft_others import TEXT
from iptrec.decode.rulesets.types import UNTOLD

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from iptrec.decode.rulesets.types import Chain, Rule

Names = tuple[str, str, str]  # family, table, chain
Told = dict[Names, dict[int, str]]  # the texts of rules by their handles

_FAMILIES: Final = {"iptables-save": "ip", "ip6tables-save": "ip6"}
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_OF_NAT: Final = {"PREROUTING": -100, "INPUT": 100, "OUTPUT": -100, "POSTROUTING": 100}


def listing(saved: Mapping[str, bytes], told: Told) -> bytes:
    """The ruleset as the JSON of ``nft -a list ruleset``; ``saved``: by `rulesets.kind_of`."""
    free = count(UNTOLD)
    objects: list[dict[str, Any]] = []
    for kind, family in _FAMILIES.items():
        if kind in saved:
            for table, chains in iptables_save.parse(saved[kind]).tables.items():
                objects.append({"table": {"family": family, "name": table, "handle": 1}})
                here = {"family": family, "table": table}
                for number, chain in enumerate(chains.values(), 1):
                    known = told.get((family, table, chain.name))
                    if known is None and not chain.rules and chain.policy == "ACCEPT":
                        continue
                    named = {"name": chain.name, "handle": number}
                    objects.append({"chain": here | named | _attached(table, chain)})
                    for handle, rule in _handles(chain, known or {}, free):
                        place = {"chain": chain.name, "handle": handle}
                        said = {"expr": _statements(rule, chains)}
                        objects.append({"rule": here | place | said})
    return json.dumps({"nftables": objects}).encode()


def _handles(
    chain: Chain, told: Mapping[int, str], free: Iterator[int]
) -> Iterator[tuple[int, Rule]]:
    specs = [rule.spec for rule in chain.rules]
    of_text: dict[str, list[int]] = {}
    for handle, text in told.items():
        of_text.setdefault(text.strip(), []).append(handle)
    for rule in chain.rules:
        known = of_text.get(rule.spec, [])
        alone = len(known) == 1 and specs.count(rule.spec) == 1
        yield known[0] if alone else next(free), rule


def _attached(table: str, chain: Chain) -> dict[str, Any]:
    """Where a built-in chain is."""
    if chain.policy is None:
        return {}
    priority = _OF_NAT.get(chain.name) if table == "nat" else _PRIORITIES.get(table)
    kind = "nat" if table == "nat" else "filter"
    if (table, chain.name) == ("mangle", "OUTPUT"):
        kind = "route"
    hook = {
        "type": kind,
        "hook": chain.name.lower(),
        "prio": priority,
        "policy": chain.policy.lower(),
    }
    return {} if priority is None else hook


def _statements(rule: Rule, chains: Collection[str]) -> list[dict[str, Any]]:
    """What a rule is made of; its text alone where that has no words of nft."""
    try:
        return nft_iptables.statements(rule, chains)
    except (LookupError, TypeError, ValueError):
        return [{TEXT: rule.spec}]
