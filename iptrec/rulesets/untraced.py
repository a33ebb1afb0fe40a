"""Chains of nf_tables that packets may pass untraced: which ones, by where they and our rules are attached.

A rule there that nothing hit is not unused for that: nobody saw what came by. Where our rules are nowhere, as
in a recording of legacy iptables, nothing is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from iptrec.names import FAMILIES, HOOKS
from iptrec.rulesets.nft_places import is_our_table
from iptrec.rulesets.table_names import family_of, plain
from iptrec.rulesets.targets import PASSING, is_ours
from iptrec.rulesets.timeline import EVER

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from iptrec.decode.rulesets.types import Base, Chain, Rule
    from iptrec.names import Family
    from iptrec.rulesets.timeline import Timeline, Timelines

# "before": packets pass it before they are traced. "beside": frames pass it that may never be. "above":
# somebody put rules before ours there, which take packets.
Why = Literal["before", "beside", "above"]
Untraced = dict[tuple[str, str, str], Why]  # by family, as `family_of`, table and chain

_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_FRAMES: Final = (
    "meta protocol != ip meta protocol != ip6 "  # our rule has it where all frames are traced
)
_CALLS: Final = re.compile(r"\b(?:jump|goto) ([^\s,}]+)")
_ANY: Final = ""  # the name of no chain
_RAW: Final = "raw"  # where our rules are, but for a table of our own
_Chains = dict[str, "Chain"]
_Place = tuple[str, int]  # of what, at which hook
_Handles = tuple["int | None", "int | None"]  # of a table, and of a chain


class _Starts(NamedTuple):
    """Where tracing begins.

    ``first``: our first priority at each place, and whether that chain is older than we are. ``devices``: those
    that we trace at ingress. ``frames``: whether those that are not IP are traced in bridges. ``chains``: those
    with our rules, by table; somebody may have taken these out.
    """

    first: dict[_Place, tuple[int, bool]]
    devices: frozenset[str]
    frames: bool
    chains: frozenset[tuple[str, str]]


def untraced(timelines: Timelines, our_comment: str | None) -> Untraced:
    """The chains of all states."""
    found: Untraced = {}
    for family in FAMILIES if our_comment is not None else ():
        for table, name in _above(timelines, family, our_comment):
            found[family_of(table, family), table, name] = "above"
        starts = _starts(timelines, family, our_comment)
        if not starts.first:
            continue
        calls: dict[int, list[str]] = {}
        for table, timeline in timelines.loaded(family).items():
            old = _attached_before(timeline)
            for state in timeline.states if not is_our_table(table, our_comment) else ():
                chains = {
                    name: one
                    for name, one in (state.chains or {}).items()
                    if (table, name) not in starts.chains
                }
                for name, why in _of_table(chains, starts, calls, state.handle, old):
                    found[family_of(table, family), table, name] = why
    return found


def _above(
    timelines: Timelines, family: Family, our_comment: str | None
) -> Iterator[tuple[str, str]]:
    """Chains in which, at any time, rules before ours may have ended a packet's walk."""
    for table, timeline in timelines.loaded(family).items():
        for state in timeline.states if plain(table) == _RAW else ():
            for chain in (state.chains or {}).values():
                ours = [is_ours(rule, our_comment) for rule in chain.rules]
                if any(ours) and any(map(_takes, chain.rules[: ours.index(True)])):
                    yield table, chain.name


def _takes(rule: Rule) -> bool:
    """Whether a packet may not come to the next rule."""
    return (rule.target is not None and rule.target not in PASSING) or "vmap" in rule.spec


def _starts(timelines: Timelines, family: Family, our_comment: str | None) -> _Starts:
    """Where tracing begins."""
    found: dict[_Place, tuple[int, bool]] = {}
    devices: set[str] = set()
    frames = False
    with_ours: set[tuple[str, str]] = set()
    for table, timeline in timelines.loaded(family).items():
        states = [state.chains or {} for state in timeline.states]
        # Most are the same objects from one state to the next.
        bases = {id(one): one for chains in states for one in chains.values() if one.base}
        for chain in bases.values():
            ours = [is_ours(rule, our_comment) for rule in chain.rules]
            if chain.base is None or not (any(ours) or is_our_table(table, our_comment)):
                continue
            here = chain.base.priority, not all(ours)
            found[_place(chain.base)] = min(here, found.get(_place(chain.base), here))
            devices |= chain.base.devices
            frames |= any(rule.spec.startswith(_FRAMES) for rule in chain.rules)
            with_ours.add((table, chain.name))
    return _Starts(found, frozenset(devices), frames, frozenset(with_ours))


def _place(base: Base) -> _Place:
    return base.family if base.family in ("netdev", "bridge") else "ip", base.hook


def _attached_before(timeline: Timeline) -> set[_Handles]:
    """The chains that are older than ours, by the handles of their tables and their own."""
    first = timeline.states[0]
    known = first.chains if timeline.time_ns[0] == EVER else None
    return {(first.handle, one.handle) for one in (known or {}).values() if one.base}


def _of_table(
    chains: _Chains,
    starts: _Starts,
    calls: dict[int, list[str]],
    handle: int | None,
    old: Container[_Handles],
) -> Iterator[tuple[str, Why]]:
    """The base chains that packets may pass untraced, and all that these call.

    ``calls``: what is known of chains already, by their objects. ``handle``: of the table; ``old``: see
    `_attached_before`.
    """
    waiting = [
        (chain.name, why)
        for chain in chains.values()
        if chain.base
        and (why := _why(chain.base, starts, later=(handle, chain.handle) not in old)) is not None
    ]
    found: dict[tuple[str, Why], None] = {}
    while waiting:
        if (here := waiting.pop()) in found or (chain := chains.get(here[0])) is None:
            continue
        found[here] = None
        if id(chain) not in calls:
            calls[id(chain)] = list(_called(chain))
        for name in calls[id(chain)]:
            named = (
                [name] if name != _ANY else [one.name for one in chains.values() if not one.base]
            )
            waiting += ((one, here[1]) for one in named if (one, here[1]) not in found)
    return iter(found)


def _why(base: Base, starts: _Starts, *, later: bool) -> Why | None:
    match base.family:
        case "arp":
            return "beside"
        case "netdev":
            if base.hook != _PREROUTING:
                return "beside"
            return None if base.devices and base.devices <= starts.devices else "before"
        case "bridge" if base.hook != _PREROUTING or ("bridge", _PREROUTING) in starts.first:
            return None if starts.frames else "beside"
        case "bridge":
            return "before"
    if base.hook not in (_PREROUTING, _OUTPUT) or (start := starts.first.get(_place(base))) is None:
        return None
    # Of equal priorities the newest chain is passed first.
    priority, older = start
    return "before" if base.priority < priority + (older or later) else None


def _called(chain: Chain) -> Iterator[str]:
    """The chains that a chain calls; `_ANY` where a map says which."""
    found: dict[str, None] = {}
    for rule in chain.rules:
        if "vmap @" in rule.spec:
            found[_ANY] = None
        found |= dict.fromkeys(_CALLS.findall(rule.native or rule.spec))
        if rule.target is not None:
            found[rule.target] = None
    return iter(found)
