"""Legacy iptables: its tables over time, and the place of each event of a trace in them.

A snapshot says what the tables in it are from then on; tables that are not in it are as before. The log
prefix names table, chain and the number of the rule; what kind of place that is the ruleset tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import nflog, prefix
from iptrec.decode.rulesets import iptables_save
from iptrec.decode.rulesets.types import Base
from iptrec.names import FAMILIES, HOOKS
from iptrec.recording.kinds import SAVES
from iptrec.rulesets.grammar import ROUTES, Grammar
from iptrec.rulesets.places import Locations, Pass, Place
from iptrec.rulesets.table_names import called, plain
from iptrec.rulesets.targets import STANDARD, end_effect, rule_effect
from iptrec.rulesets.timeline import EVER, Timelines

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from iptrec.decode.events import TraceEvents
    from iptrec.decode.prefix import Prefix
    from iptrec.decode.rulesets.types import Chain, Ruleset
    from iptrec.names import I64, U8, U32, Backend, Family
    from iptrec.recording.rows import Snapshot
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.grammar import Routes
    from iptrec.rulesets.places import EffectKind

_UNKNOWN: Final[dict[Family, str]] = {"ipv4": "iptables-unknown", "ipv6": "ip6tables-unknown"}
_OTHER_HOOK: Final = 7  # of which there are 0..4
_PASSES: Final = tuple(Pass(hook, "") for hook in range(_OTHER_HOOK + 1))

# The tables of each hook in the order of their priorities (linux/netfilter_ipv4.h).
_TABLES: Final = (
    ("raw", "mangle", "nat"),
    ("mangle", "filter", "security", "nat"),
    ("mangle", "filter", "security"),
    ("raw", "mangle", "nat", "filter", "security"),
    ("mangle", "nat"),
)

# enum nf_ip_hook_priorities; of NAT's by hook
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_NAT: Final = (-100, 100, 0, -100, 100)


def _routes(*, single: bool) -> Routes:
    """The passes of each route; see `table_names`."""
    return tuple(
        {
            Pass(hook, called("legacy", table, single=single)): order
            for order, (hook, table) in enumerate(
                (hook, table) for hook in route for table in _TABLES[hook]
            )
        }
        for route in ROUTES
    )


_ROUTES: Final = {single: _routes(single=single) for single in (True, False)}
# As what each table is attached to each hook beside the base chains of nf_tables.
ATTACHED: Final = tuple(
    (
        Pass(hook, called("legacy", table, single=False)),
        Base(
            family="inet",
            hook=hook,
            priority=_PRIORITIES.get(table, _NAT[hook]),
            type="nat" if table == "nat" else "filter",
        ),
    )
    for hook, tables in enumerate(_TABLES)
    for table in tables
)
# After which packets that rules have changed are routed again.
_REROUTED: Final = (("OUTPUT", "mangle"), ("OUTPUT", "nat"))
_RAW: Final = "raw"  # where TRACE works, and so the first table that is traced
# Who replaces a table waits for those that walk the old rules (net/netfilter/x_tables.c, xt_replace_table): so
# much two times may differ that were converted from one clock to another.
_UNDER_WAY_NS: Final = 100_000


class Legacy:
    """A `RulesetBackend`."""

    name: Backend = "legacy"
    stream = "nflog"
    snapshots = (*SAVES.values(), *_UNKNOWN.values())
    changes = None
    mark_after = False
    under_way_ns = _UNDER_WAY_NS

    def decode(self, data: U8, lengths: U32, received_ns: I64) -> TraceEvents:
        """See `nflog.decode`."""
        return nflog.decode(data, lengths, received_ns)

    def history(
        self,
        snapshots: Iterable[Snapshot],
        changes: Changes | None = None,  # noqa: ARG002 - legacy iptables tells none
        *,
        single: bool,
    ) -> Timelines:
        """The tables over time."""
        found = Timelines(single=single)
        before = dict.fromkeys(FAMILIES, EVER)
        known = {family: iptables_save.Known() for family in FAMILIES}
        for one in snapshots:
            if one.kind not in self.snapshots:
                continue
            family: Family = "ipv4" if one.kind in (SAVES["ipv4"], _UNKNOWN["ipv4"]) else "ipv6"
            first = before[family] == EVER
            after = before[family] if first or one.after_ns is None else one.after_ns
            time = EVER if first else one.time_ns
            before[family] = one.time_ns
            if one.kind == _UNKNOWN[family]:
                table = one.content.decode("utf-8", "backslashreplace").strip()
                found.add(family, called(self.name, table, single=single), None, after, time)
            else:
                saved = iptables_save.parse(one.content, known[family])
                for table, chains in saved.tables.items():
                    name = called(self.name, table, single=single)
                    found.add(family, name, chains, after, time)
        return found

    def locations(self, events: TraceEvents, history: Timelines) -> Locations:
        """The kernel tells the hook; table and chain are in the prefix."""
        tables = [_table(one, history) for one in events.sites]
        passed = np.minimum(events.hook, _OTHER_HOOK).astype(np.int64)
        return Locations(events, tables, passed, _PASSES)

    def place(self, site: Hashable, table: str, passed: Pass, grammar: Grammar) -> Place | None:
        """Resolve a prefix; the ruleset, not the kernel's word, tells rule from chain end."""
        said = prefix.parse(site) if isinstance(site, bytes) else None
        return None if said is None else _place(said, table, passed.hook, grammar)

    def grammar(
        self,
        family: Family,  # noqa: ARG002 - of both the same
        ruleset: Ruleset,
        late: frozenset[str],
        our_comment: str | None,
        *,
        single: bool,
    ) -> Grammar:
        """A table never loaded logs nothing; nat sees only the first packet of a connection."""
        routes = _ROUTES[single]
        every = {one for route in routes for one in route}
        silent = frozenset(one for one in every if one.table not in ruleset.tables)
        routed = frozenset(
            one
            for one in every
            if HOOKS[one.hook] == "PREROUTING" or (HOOKS[one.hook], plain(one.table)) in _REROUTED
        )
        maybe = (one for one in every if plain(one.table) == "nat" or one.table in late)
        return Grammar(ruleset, our_comment, routes, silent | frozenset(maybe), silent, routed)


LEGACY: Final = Legacy()


def _table(site: Hashable, history: Timelines) -> str | None:
    said = prefix.table(site) if isinstance(site, bytes) else None
    return None if said is None else called("legacy", said, single=history.single)


def _place(said: Prefix, table: str, hook: int, grammar: Grammar) -> Place:
    """``table``: its name for readers."""
    chain = grammar.chain(table, said.chain)
    builtin = said.chain in HOOKS if chain is None else chain.policy is not None
    if builtin and said.chain in HOOKS:
        hook = HOOKS.index(said.chain)
    begins, rank = builtin and said.table == _RAW, int(said.table != _RAW)
    if chain is None or not may_say(said, chain):
        effect: EffectKind = "return" if said.type == "return" else "unknown"
        return Place(
            hook, table, said.chain, said.rulenum, said.rulenum, False, builtin, False, None,
            effect, None, begins, rank, rule_or_end=said.type != "rule",
        )  # fmt: skip
    if said.rulenum > len(chain.rules):
        return Place(
            hook, table, said.chain, said.rulenum, None, True, builtin, False, None,
            *end_effect(chain), begins, rank,
        )  # fmt: skip
    rule = chain.rules[said.rulenum - 1]
    shape = grammar.shape(table, said.chain)
    number = None if shape is None else shape.number(said.rulenum)
    return Place(
        hook, table, said.chain, said.rulenum, number, False, builtin, number is None, rule,
        *rule_effect(rule, grammar.ruleset.tables[table]), begins, rank,
    )  # fmt: skip


def may_say(said: Prefix, chain: Chain) -> bool:
    """Whether the kernel can call this place of the chain so (ip_tables.c, get_chainname_rulenum)."""
    if said.rulenum > len(chain.rules):
        return said.rulenum == len(chain.rules) + 1 and said.type != "rule"
    rule = chain.rules[said.rulenum - 1]
    plain = not rule.conditional and rule.target in STANDARD
    return plain == (said.type != "rule")
