"""The walk of a packet through a ruleset of nf_tables: what differs from legacy iptables.

A stage is a base chain, and its hook and priority say when its turn is. The kernel's word is to be
believed here: it names the rule by its handle, and tells the verdict. Before a policy it logs once more
that a base chain has no further rule: that is no step of its own, and stands one place before the policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from iptrec.decode import nftrace
from iptrec.names import HOOKS
from iptrec.rulesets.grammar import PASSING, ROUTES, Grammar, Place, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.decode.nftrace import Site
    from iptrec.decode.rulesets.types import Base, Chain, Rule, Ruleset
    from iptrec.names import Family
    from iptrec.rulesets.grammar import EffectKind

# Tables that packets of a family pass, and others that frames which carry them may pass as well.
_OWN: Final[dict[Family, frozenset[str]]] = {
    "ipv4": frozenset({"ip", "inet"}),
    "ipv6": frozenset({"ip6", "inet"}),
}
_AROUND: Final = ("netdev", "bridge")
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_ALWAYS: Final = (
    "filter",
    "route",
)  # types of chains that every packet passes; nat sees the first of a flow
_BRIDGED: Final = (_PREROUTING, _FORWARD, _POSTROUTING)
_UNKNOWN: Final = -1  # the place of a rule that the ruleset does not have
_ENDS: Final = {nftrace.DROP: "DROP", nftrace.STOLEN: "STOLEN"}
_SAID: Final = {
    nftrace.ACCEPT: "ACCEPT", nftrace.DROP: "DROP", nftrace.RETURN: "RETURN", nftrace.QUEUE: "QUEUE",
    nftrace.STOLEN: "STOLEN",
}  # fmt: skip


@dataclass(slots=True)
class NftGrammar(Grammar):
    """As `Grammar`, for one family of packets. ``optional``: stages that need not log anything."""

    optional: frozenset[Stage] = frozenset()
    _ranks: dict[Stage, int] = field(default_factory=dict)
    _positions: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, family: Family, ruleset: Ruleset, own_comment: str | None, late: frozenset[str]
    ) -> NftGrammar:
        """The grammar of all base chains that packets of a family pass."""
        bases = list(_bases(ruleset))
        return cls(
            ruleset,
            own_comment,
            late,
            routes=tuple(_route(list(parts), bases) for parts in _parts(_OWN[family])),
            optional=frozenset(
                stage
                for stage, base in bases
                if base.type not in _ALWAYS or base.family not in _OWN[family]
            ),
            _ranks=_ranks(bases, ruleset),
        )

    def site(self, site: Site, table: str, base: str | None, hook: int) -> Place:
        """Resolve where an event was, while a base chain was being passed; ``table``: its name for readers."""
        chain = self._chain(table, site.chain)
        builtin = site.policy or (site.chain == base and base is not None)
        shape = self._shape(table, site.chain)
        size = shape.size if shape else 0
        rule, number, own = None, None, False
        end = site.handle is None
        if site.handle is not None:
            index = self._position(table, site.chain, site.handle)
            if chain is not None and shape is not None and index != _UNKNOWN:
                rule = _told(chain.rules[index - 1], site)
                own = index in shape.own
                number = None if own else index - sum(one < index for one in shape.own)
        elif site.policy or not builtin:
            index = size + 1 if chain is not None else _UNKNOWN
        else:  # a base chain has no further rule: its policy is told next
            index, own, end = size if chain is not None else _UNKNOWN, True, False
        effect, argument = _effect(site, rule, end=end)
        own = own or (self.own_comment is not None and table == own_table(self.own_comment))
        place = Place(
            hook,
            table,
            site.chain,
            index,
            number,
            end,
            builtin,
            own,
            rule,
            effect,
            argument,
            base=base,
        )
        rank = self._ranks.get(place.stage, 1)
        traces = rule is not None and rule.target == "TRACE"
        starts = builtin and hook in (_PREROUTING, _OUTPUT) and (traces or rank == 0)
        return replace(place, rank=rank, starts=starts)

    def _size(self, chain: Chain) -> int:
        return len(chain.rules) + (chain.base is not None)

    def _position(self, table: str, chain: str, handle: int) -> int:
        """Which rule of a chain has a handle, from 1."""
        key = table, chain
        if key not in self._positions:
            known = self._chain(table, chain)
            self._positions[key] = {
                rule.handle: index
                for index, rule in enumerate(known.rules if known else (), 1)
                if rule.handle is not None
            }
        return self._positions[key].get(handle, _UNKNOWN)

    def _reachable_from(self, place: Place, index: int) -> bool:
        if _UNKNOWN in (place.index, index):
            return True
        return super(NftGrammar, self)._reachable_from(place, index)

    def _optional(self, stage: Stage) -> bool:
        return stage in self.optional or stage.table in self.late

    def _exists(self, _: Stage) -> bool:
        return True


def own_table(comment: str) -> str:
    """The table that a recorder makes where iptables-nft is missing, by the comment of its rules."""
    return f"inet {comment.replace(':', '-')}"


def _told(rule: Rule, site: Site) -> Rule:
    """A rule with what it said of this packet, where its text leaves that to a map or an anonymous chain."""
    if rule.target is not None and rule.target not in PASSING:
        return rule
    goto = site.verdict == nftrace.GOTO
    said = site.target if site.target is not None else _SAID.get(site.verdict)
    return rule if said is None else replace(rule, target=said, target_args=None, goto=goto)


def _effect(site: Site, rule: Rule | None, *, end: bool) -> tuple[EffectKind, str | None]:
    """What comes after an event, by the verdict that it tells."""
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
            rejects = rule is not None and rule.target == "REJECT"
            return "end", "REJECT" if rejects else _ENDS[site.verdict]
        case nftrace.CONTINUE | nftrace.BREAK | nftrace.REPEAT:
            return ("return" if end else "continue"), None
        case _:
            return "unknown", None


def _bases(ruleset: Ruleset) -> Iterator[tuple[Stage, Base]]:
    """All base chains."""
    for table, chains in ruleset.tables.items():
        for chain in chains.values():
            if chain.base is not None:
                yield Stage(chain.base.hook, table, chain.name), chain.base


def _parts(own: frozenset[str]) -> Iterator[Iterator[tuple[int, frozenset[str]]]]:
    """The hooks of each route in their order, each with the families of the tables that are passed there."""
    netdev, bridge = (frozenset({one}) for one in _AROUND)
    before = [(_PREROUTING, netdev), (_PREROUTING, bridge), (_INPUT, bridge)]
    after = [(_OUTPUT, bridge), (_POSTROUTING, bridge), (_POSTROUTING, netdev)]
    for hooks in ROUTES:
        around = (
            (before if hooks[0] == _PREROUTING else []),
            (after if hooks[-1] == _POSTROUTING else []),
        )
        yield iter([*around[0], *((hook, own) for hook in hooks), *around[1]])
    yield iter(
        [(_PREROUTING, netdev), *((hook, bridge) for hook in _BRIDGED), (_POSTROUTING, netdev)]
    )


def _route(
    parts: Iterable[tuple[int, frozenset[str]]], bases: list[tuple[Stage, Base]]
) -> dict[Stage, int]:
    """The stages of a route, numbered; chains of equal priority have equal numbers."""
    found: dict[Stage, int] = {}
    for hook, families in parts:
        here = [one for one in bases if one[1].hook == hook and one[1].family in families]
        priorities = sorted({base.priority for _, base in here})
        first = max(found.values(), default=-1) + 1
        found |= {stage: first + priorities.index(base.priority) for stage, base in here}
    return found


def _ranks(bases: list[tuple[Stage, Base]], ruleset: Ruleset) -> dict[Stage, int]:
    """Which stage of its hook each one is; of equal priorities the one that traces is the first to be seen."""
    order = {"netdev": 0, "bridge": 1}
    keys = {
        stage: (
            stage.hook,
            order.get(base.family, 2),
            base.priority,
            all(rule.target != "TRACE" for rule in _rules(stage, ruleset)),
        )
        for stage, base in bases
    }
    distinct = sorted(set(keys.values()))
    return {
        stage: distinct.index(key) - next(i for i, one in enumerate(distinct) if one[0] == key[0])
        for stage, key in keys.items()
    }


def _rules(stage: Stage, ruleset: Ruleset) -> tuple[Rule, ...]:
    """The rules of a base chain."""
    return ruleset.tables[stage.table][stage.base or ""].rules
