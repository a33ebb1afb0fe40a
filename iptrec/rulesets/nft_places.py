"""The walk of a packet through a ruleset of nf_tables: what differs from legacy iptables.

A pass goes through one base chain, whose hook and priority say when it comes. The kernel's word is to be
believed here: it names the rule by its handle, and tells the verdict. Before a policy it logs once more
that a base chain has no further rule: that is no step of its own, and stands one place before the policy.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode import nftrace
from iptrec.decode.rulesets.types import SEVERAL
from iptrec.names import HOOKS
from iptrec.rulesets.grammar import AROUND, ROUTES, Grammar
from iptrec.rulesets.places import Pass, Place
from iptrec.rulesets.targets import PASSING, drops_by_match_alone

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from iptrec.decode.nftrace import NftSite
    from iptrec.decode.rulesets.types import Base, Chain, Rule, Ruleset
    from iptrec.names import Family
    from iptrec.rulesets.places import Effect

# Tables that packets of a family pass, and others that frames which carry them may pass as well.
_OWN: Final[dict[Family, frozenset[str]]] = {
    "ipv4": frozenset({"ip", "inet"}),
    "ipv6": frozenset({"ip6", "inet"}),
}
_OURS: Final = ("inet", "bridge")
_REJECTS: Final = re.compile(r"(?<!\S)reject(?!\S)|(?<!\S)-j REJECT(?!\S)")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LATE: Final = re.compile(r"ip6? iptrec-[0-9a-f-]{36}")
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_ALWAYS: Final = (
    "filter",
    "route",
)  # types of chains that every packet passes; nat sees the first of a flow
_BRIDGED: Final = (_PREROUTING, _FORWARD, _POSTROUTING)
_WITHIN: Final = (
    ("bridge", _INPUT),
    ("bridge", _OUTPUT),
)  # where frames may have been traced before
# The priority at which br_netfilter calls IP's chains in the bridge's PREROUTING and FORWARD; in POSTROUTING it
# calls them last (NF_BR_PRI_BRNF, include/uapi/linux/netfilter_bridge.h; measured on 6.18).
_BRNF: Final = 0
_ENDS: Final = {nftrace.DROP: "DROP", nftrace.STOLEN: "STOLEN"}
_SAID: Final = {
    nftrace.ACCEPT: "ACCEPT", nftrace.DROP: "DROP", nftrace.RETURN: "RETURN", nftrace.QUEUE: "QUEUE",
    nftrace.STOLEN: "STOLEN",
}  # fmt: skip
_CERTAIN: Final = frozenset({"ACCEPT", "DROP", "RETURN"})


class _Part(NamedTuple):
    """Base chains at a hook, of tables of some families, with priorities above one and up to another."""

    hook: int
    families: frozenset[str]
    above: int = -(2**31) - 1
    upto: int = 2**31

    def has(self, base: Base) -> bool:
        """Whether a base chain is among them."""
        return (
            base.hook == self.hook
            and base.family in self.families
            and self.above < base.priority <= self.upto
        )


def grammar(
    family: Family,
    ruleset: Ruleset,
    late: frozenset[str],
    our_comment: str | None,
    beside: Sequence[tuple[Pass, Base]] = (),
) -> Grammar:
    """The grammar of all base chains that packets of a family pass.

    ``beside``: what else is attached to the same hooks; where its table was never loaded it logs nothing.
    """
    own = list(_bases(ruleset))
    on_way = [one for one in own if one[1].family in {*_OWN[family], "bridge"}]
    ours = {
        base.family: one
        for one, base in own
        if is_our_table(one.table, our_comment) and (base.family, base.hook) not in _WITHIN
    }
    bases = [*own, *beside]
    silent = frozenset(one for one, _ in beside if one.table not in ruleset.tables)
    return Grammar(
        ruleset,
        our_comment,
        routes=tuple(
            _route(parts, bases) for parts in _parts(_OWN[family], bases, ip_alone="netdev" in ours)
        ),
        optional=silent
        | frozenset(
            one
            for one, base in bases
            if base.type not in _ALWAYS or base.family not in _OWN[family] or one.table in late
        ).difference([ours["bridge"]] if "bridge" in ours else ()),
        silent=silent,
        routed=frozenset(one for one, base in [*on_way, *beside] if _is_routed(base)),
        ranks=_ranks(own, ruleset),
    )


def _is_routed(base: Base) -> bool:
    """Whether the kernel may look for a packet's way after a base chain of IP or of a bridge.

    What comes to a bridge's OUTPUT has its port already.
    """
    sent = base.hook == _OUTPUT and base.family != "bridge"
    return base.hook == _PREROUTING or (sent and base.type in ("nat", "route"))


def place(site: NftSite, table: str, passed: Pass, known: Grammar) -> Place:
    """Resolve where an event was, while a base chain was being passed; ``table``: its name for readers."""
    chain, shape = known.chain(table, site.chain), known.shape(table, site.chain)
    builtin = site.policy or (site.chain == passed.base and passed.base is not None)
    index = rule = number = None
    told = None
    by_match = False
    ours, end = False, site.handle is None
    if chain is not None and shape is not None:
        if site.handle is not None:
            index = shape.handles.get(site.handle)
        else:
            index = shape.size + 1 if site.policy or not builtin else shape.size
    if site.handle is not None and chain is not None and shape is not None and index is not None:
        rule, number = chain.rules[index - 1], shape.number(index)
        by_match = _is_by_match(site, rule, known.ruleset.tables[table])
        rule = (rule if by_match else _completed(rule, site)) if rule.listed else None
        ours = number is None
    elif site.handle is not None:
        told = known.ruleset.unlisted.get((site.family, site.table, site.handle))
    elif end and builtin and not site.policy:
        ours, end = True, False  # a base chain has no further rule: its policy is told next
    effect, argument = _effect(site, rule, told, end=end)
    apart = is_our_table(table, known.our_comment)
    ours = ours or apart
    rank = known.ranks.get(Pass(passed.hook, table, passed.base), 1)
    bridged = site.family == "bridge"
    traces = rule is not None and rule.target == "TRACE"
    return Place(
        hook=passed.hook,
        table=table,
        chain=site.chain,
        index=index,
        number=number,
        end=end,
        builtin=builtin,
        ours=ours,
        rule=rule,
        effect=effect,
        argument=argument,
        # Of a frame that goes out of several ports there are copies from the bridge's OUTPUT on.
        starts=builtin
        and (
            (passed.hook in (_PREROUTING, _OUTPUT) and (traces or rank == 0))
            or (bridged and (passed.hook == _OUTPUT or (passed.hook == _INPUT and traces)))
        ),
        rank=rank,
        base=passed.base,
        bridged=bridged,
        contradicted=chain is None or (not by_match and _contradicts(site, chain, rule)),
        late=is_late_table(table),
        apart=apart,
        by_match=by_match,
        told=told,
        several=site.handle is not None and site.handle >= SEVERAL,
    )


def _is_by_match(site: NftSite, rule: Rule, chains: Container[str]) -> bool:
    """Whether a match of x_tables dropped the packet (nft_match_eval of net/netfilter/nft_compat.c)."""
    return site.verdict == nftrace.DROP and rule.listed and drops_by_match_alone(rule, chains)


def _contradicts(site: NftSite, chain: Chain, rule: Rule | None) -> bool:
    """Whether the kernel told another verdict than a rule, or its chain's policy, has."""
    if site.policy:
        return chain.policy not in (None, _SAID.get(site.verdict))
    if rule is None or rule.target is None:
        return False
    if site.target is not None:
        return rule.target != site.target
    return rule.target in _CERTAIN and rule.target != _SAID.get(site.verdict)


def is_late_table(table: str) -> bool:
    """Whether it is a recorder's with chains that packets pass last (`kernel.nft.late`)."""
    return _LATE.fullmatch(table) is not None


def is_our_table(table: str, comment: str | None) -> bool:
    """Whether it is one that the recorder made, by the comment of its rules (`kernel.nft.table`).

    One that tells nothing but that a packet came there is so whichever recorder made it.
    """
    if is_late_table(table):
        return True
    family, _, name = table.partition(" ")
    return family in _OURS and comment is not None and name == comment.replace(":", "-")


def _completed(rule: Rule, site: NftSite) -> Rule:
    """A rule with what it said of this packet, where its text leaves that to a map or an anonymous chain."""
    if rule.target is not None and rule.target not in PASSING:
        return rule
    goto = site.verdict == nftrace.GOTO
    said = site.target if site.target is not None else _SAID.get(site.verdict)
    return rule if said is None else replace(rule, target=said, target_args=None, goto=goto)


def _effect(site: NftSite, rule: Rule | None, told: str | None, *, end: bool) -> Effect:
    """What comes after an event, by the verdict that it tells; ``told``: see `Place`."""
    match site.verdict:
        case nftrace.JUMP:
            return "jump", site.target
        case nftrace.GOTO:
            return "goto", site.target
        case nftrace.RETURN:
            return "return", None
        case nftrace.ACCEPT:
            return "accept", "ACCEPT" if end else None
        case nftrace.QUEUE:
            return "queue", None
        case nftrace.DROP | nftrace.STOLEN:
            # The kernel's word is the same for both.
            rejects = rule is not None and rule.target == "REJECT"
            rejects |= told is not None and _REJECTS.search(_QUOTED.sub("", told)) is not None
            return "end", "REJECT" if rejects else _ENDS[site.verdict]
        case nftrace.CONTINUE | nftrace.BREAK | nftrace.REPEAT:
            return ("return" if end else "continue"), None
        case _:
            return "unknown", None


def _bases(ruleset: Ruleset) -> Iterator[tuple[Pass, Base]]:
    """All base chains."""
    for table, chains in ruleset.tables.items():
        for chain in chains.values():
            if chain.base is not None:
                yield Pass(chain.base.hook, table, chain.name), chain.base


def _parts(
    ours: frozenset[str], bases: list[tuple[Pass, Base]], *, ip_alone: bool
) -> Iterator[tuple[_Part, ...]]:
    """What packets pass on each route, in this order.

    ``ip_alone``: what is traced from ingress on is IP, so that it comes to a bridge, or to IP.
    """
    netdev, bridge = (frozenset({one}) for one in AROUND)
    bridged = any(base.family == "bridge" for _, base in bases)
    before = (_Part(_PREROUTING, netdev), _Part(_PREROUTING, bridge), _Part(_INPUT, bridge))
    after = (_Part(_OUTPUT, bridge), _Part(_POSTROUTING, bridge), _Part(_POSTROUTING, netdev))
    for hooks in ROUTES:
        for first in (before, before[:1]) if hooks[0] == _PREROUTING else ((),):
            yield (
                *first,
                *(_Part(hook, ours) for hook in hooks),
                *(after if hooks[-1] == _POSTROUTING else ()),
            )
    if bridged or not ip_alone:
        yield (before[0], *(_Part(hook, bridge) for hook in _BRIDGED), after[-1])
    if bridged:
        for upto in (_BRNF, _BRNF - 1):  # of equal priorities the one that came last is the first
            pre, forward = (
                (_Part(hook, bridge, upto=upto), _Part(hook, ours), _Part(hook, bridge, above=upto))
                for hook in (_PREROUTING, _FORWARD)
            )
            yield before[0], *pre, *forward, after[1], _Part(_POSTROUTING, ours), after[2]
            yield before[0], *pre, before[2], _Part(_INPUT, ours)
            yield (
                before[0],
                *pre,
                before[2],
                _Part(_FORWARD, ours),
                _Part(_POSTROUTING, ours),
                *after,
            )


def _route(parts: Iterable[_Part], bases: list[tuple[Pass, Base]]) -> dict[Pass, int]:
    """The passes of a route, numbered; chains of equal priority have equal numbers."""
    found: dict[Pass, int] = {}
    for part in parts:
        here = [one for one in bases if part.has(one[1])]
        priorities = sorted({base.priority for _, base in here})
        first = max(found.values(), default=-1) + 1
        found |= {one: first + priorities.index(base.priority) for one, base in here}
    return found


def _ranks(bases: list[tuple[Pass, Base]], ruleset: Ruleset) -> dict[Pass, int]:
    """Which pass of its hook each one is.

    Of equal priorities the one that traces is the first to be seen, unless packets were traced before.
    """
    order = {"netdev": 0, "bridge": 1}
    traced: dict[int, int] = {}
    for one, base in bases:
        if base.family not in order and _traces(one, ruleset):
            traced[one.hook] = min(base.priority, traced.get(one.hook, base.priority))
    keys = {
        one: (
            one.hook,
            # What a host sends goes through IP before it comes to a bridge.
            order.get(base.family, 0 if one.hook == _OUTPUT else 2),
            base.priority,
            base.priority == traced.get(one.hook) and not _traces(one, ruleset),
        )
        for one, base in bases
    }
    distinct = sorted(set(keys.values()))
    return {
        one: distinct.index(key)
        - next(i for i, (hook, *_) in enumerate(distinct) if hook == key[0])
        for one, key in keys.items()
    }


def _traces(one: Pass, ruleset: Ruleset) -> bool:
    """Whether a base chain switches tracing on."""
    rules = ruleset.tables[one.table][one.base or ""].rules
    return any(rule.target == "TRACE" for rule in rules)
