"""Chains of nf_tables that packets may pass untraced: which ones, by where they and our rules are attached.

A rule there that nothing hit is not unused for that: nobody saw what came by. Where our rules are nowhere, as
in a recording of legacy iptables, nothing is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from iptrec.names import FAMILIES, HOOKS
from iptrec.rulesets.nft_places import our_table
from iptrec.rulesets.table_names import family_of
from iptrec.rulesets.targets import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.decode.rulesets.types import Base, Chain
    from iptrec.names import Family
    from iptrec.rulesets.timeline import Timelines

# "before": packets pass it before they are traced. "beside": frames pass it that may never be.
Why = Literal["before", "beside"]
Untraced = dict[tuple[str, str, str], Why]  # by family, as `family_of`, table and chain

_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_BRIDGED: Final = (_INPUT, _FORWARD, _POSTROUTING)  # what the host sends was traced in IP's OUTPUT
_CALLS: Final = re.compile(r"\b(?:jump|goto) ([^\s,}]+)")
_Chains = dict[str, "Chain"]
_Place = tuple[str, int]  # of what, at which hook
_Starts = dict[
    _Place, tuple[int, bool]
]  # our first priority, and whether that chain is older than we are


def untraced(timelines: Timelines, our_comment: str | None) -> Untraced:
    """The chains of all states."""
    found: Untraced = {}
    if our_comment is None:
        return found
    for family in FAMILIES:
        tables = [
            (table, state.chains)
            for table, timeline in timelines.loaded(family).items()
            for state in timeline.states
            if state.chains is not None and table != our_table(our_comment)
        ]
        starts = _starts(timelines, family, our_comment)
        for table, chains in tables if starts else ():
            for name, why in _of_table(chains, starts, our_comment):
                found[family_of(table, family), table, name] = why
    return found


def _starts(timelines: Timelines, family: Family, our_comment: str) -> _Starts:
    """Where tracing begins."""
    found: _Starts = {}
    for table, timeline in timelines.loaded(family).items():
        chains = [one for state in timeline.states for one in (state.chains or {}).values()]
        for chain in chains:
            ours = [is_ours(rule, our_comment) for rule in chain.rules]
            if chain.base is None or not (any(ours) or table == our_table(our_comment)):
                continue
            here = chain.base.priority, not all(ours)
            found[_place(chain.base)] = min(here, found.get(_place(chain.base), here))
    return found


def _place(base: Base) -> _Place:
    return base.family if base.family in ("netdev", "bridge") else "ip", base.hook


def _of_table(chains: _Chains, starts: _Starts, our_comment: str) -> Iterator[tuple[str, Why]]:
    """The base chains that packets may pass untraced, and what these call."""
    for chain in chains.values():
        ours = any(is_ours(rule, our_comment) for rule in chain.rules)
        why = None if chain.base is None or ours else _why(chain.base, starts)
        if why is not None:
            for name in _called(chains, chain.name):
                yield name, why


def _why(base: Base, starts: _Starts) -> Why | None:
    match base.family:
        case "arp":
            return "beside"
        case "netdev":
            return "before" if base.hook == _PREROUTING else "beside"
        case "bridge":
            if base.hook == _PREROUTING:
                return "before"
            return "beside" if base.hook in _BRIDGED else None
    if base.hook not in (_PREROUTING, _OUTPUT) or (start := starts.get(_place(base))) is None:
        return None
    # Of equal priorities the newest chain is passed first.
    priority, older = start
    return "before" if base.priority < priority + older else None


def _called(chains: Mapping[str, Chain], name: str) -> Iterable[str]:
    """A chain and all that it calls; where a map says what it calls, those may be all of its table."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        if (here := waiting.pop()) in found or here not in chains:
            continue
        found[here] = None
        for rule in chains[here].rules:
            if "vmap @" in rule.spec:
                waiting += (one.name for one in chains.values() if one.base is None)
            waiting += _CALLS.findall(rule.native or rule.spec)
            waiting += [rule.target] if rule.target is not None else []
    return found
