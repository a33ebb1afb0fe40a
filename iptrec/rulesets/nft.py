"""nf_tables: its ruleset over time, and the place of each event of a trace in it.

A change of the ruleset replaces all of it at once, and has a snapshot that tells all tables. Tables of iptables
are called as iptables calls them (filter; where legacy iptables was recorded, too: nft filter), whoever made
them, others by family and name (inet fw).

A rule is the same one as long as its handle and nft's text are the same. Its words are those of iptables where
these were true at any time: iptables-nft-save prints nothing of a table while it has a rule that it cannot say.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode import nftrace
from iptrec.decode.rulesets import iptables_save, nft_json
from iptrec.decode.rulesets.types import OF_IPTABLES
from iptrec.errors import RecordingError
from iptrec.rulesets.nft_places import NftGrammar
from iptrec.rulesets.resolver import Rulebook
from iptrec.rulesets.timeline import Timelines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.decode.nflog import NflogEvents
    from iptrec.decode.rulesets.nft_json import Listing, TableName
    from iptrec.decode.rulesets.types import Chain, Rule, Ruleset
    from iptrec.names import I64, Family
    from iptrec.recording.rows import Snapshot
    from iptrec.rulesets.grammar import Grammar, Place
    from iptrec.rulesets.timeline import TableState

    # By table, handle and nft's text; the higher the number, the more is known of the rule.
    _Words = dict[tuple[TableName, int | None, str], tuple[int, Rule]]


# Those of one moment come one after the other, the listing last.
LISTING: Final = "nft"
UNKNOWN: Final = "nft-unknown"
TEXT: Final = "nft-text"
SAVED: Final = {"iptables-nft-save": "ip", "ip6tables-nft-save": "ip6"}
RULESETS: Final = (*SAVED, TEXT, LISTING, UNKNOWN)
_FAMILIES: Final[dict[str, tuple[Family, ...]]] = {"ip": ("ipv4",), "ip6": ("ipv6",)}
_BOTH: Final[tuple[Family, ...]] = ("ipv4", "ipv6")
_NO_HOOK: Final = 255


class NftTimelines(Timelines):
    """All tables of nf_tables of one namespace; those of the family inet are in both families."""

    def __init__(self, snapshots: Iterable[Snapshot], *, alone: bool = True) -> None:
        super().__init__(())
        self._known_rules: dict[Any, Any] = {}
        self._prefix = "" if alone else "nft "
        self.names: dict[TableName, str] = {}
        self._chains: dict[tuple[TableName, str], Chain] = {}
        self._knowns = {family: iptables_save.Known() for family in SAVED.values()}
        self._add_states(list(self._states(snapshots)))

    def name(self, table: TableName) -> str:
        """What a table is called; it depends on no rule of it."""
        of_iptables = table[0] in _FAMILIES and table[1] in OF_IPTABLES
        return self._prefix + table[1] if of_iptables else " ".join(table)

    def _states(self, snapshots: Iterable[Snapshot]) -> Iterable[tuple[Listing | None, int, int]]:
        """What each snapshot tells, after which time and not after which."""
        parts: dict[str, bytes] = {}
        time: int | None = None
        first = True
        for one in snapshots:
            if one.time_ns != time:  # of another moment: it tells other rules
                parts, time = {}, one.time_ns
            parts[one.kind] = one.content
            if one.kind in (LISTING, UNKNOWN):
                listing = self._listing(parts) if one.kind == LISTING else None
                ever = np.iinfo(np.int64).min
                after = one.time_ns if one.after_ns is None else one.after_ns
                yield listing, ever if first else after, ever if first else one.time_ns
                first = False

    def _listing(self, parts: dict[str, bytes]) -> Listing:
        """The ruleset of one moment. What iptables says of it is an addition: one can do without."""
        saved = {}
        for kind, family in SAVED.items():
            with contextlib.suppress(RecordingError):
                saved[family] = iptables_save.parse(parts.get(kind, b""), self._knowns[family])
        return nft_json.parse(parts[LISTING], parts.get(TEXT, b""), saved, self._known_rules)

    def _add_states(self, states: list[tuple[Listing | None, int, int]]) -> None:
        listings = [listing for listing, *_ in states if listing is not None]
        words = _words(listings)
        for table in dict.fromkeys(name for listing in listings for name in listing.chains):
            self.names[table] = self.name(table)
            self._add_table(table, states, words)

    def _add_table(
        self, table: TableName, states: list[tuple[Listing | None, int, int]], words: _Words
    ) -> None:
        """All states of a table from its first one on; one that is gone has no chains."""
        shown = self.names[table]
        there = False
        for listing, after, time in states:
            chains: dict[str, Chain] | None = None
            if listing is not None:
                there = there or table in listing.chains
                if not there:
                    continue
                chains = self._worded(listing, table, words)
            for family in _FAMILIES.get(table[0], _BOTH):
                self._add(family, shown, chains, after, time)

    def _worded(self, listing: Listing, table: TableName, words: _Words) -> dict[str, Chain]:
        """A table's chains, each rule in the best words that there are; equal chains are the same objects."""
        found = {}
        for name, pairs in _pairs(listing, table):
            rules = (
                rule if rule != printed else words[table, printed.handle, printed.spec][1]
                for printed, rule in pairs
            )
            chain = replace(listing.chains[table][name], rules=tuple(rules))
            before = self._chains.get((table, name))
            found[name] = self._chains[table, name] = before if before == chain else chain
        return found


def _words(listings: Iterable[Listing]) -> _Words:
    """How each rule is best told: in iptables' words, by nft's JSON, or by its text alone."""
    found: _Words = {}
    for listing in listings:
        for table in listing.chains:
            for _, pairs in _pairs(listing, table):
                for printed, rule in pairs:
                    key = table, printed.handle, printed.spec
                    rank = int(listing.whole) + (rule != printed)
                    if key not in found or rank > found[key][0]:
                        found[key] = rank, rule
    return found


def _pairs(listing: Listing, table: TableName) -> Iterator[tuple[str, list[tuple[Rule, Rule]]]]:
    """The rules of each chain as nft prints them, and in iptables' words where these are true."""
    native = listing.chains.get(table, {})
    told = listing.iptables.get(table, native)
    for name, chain in native.items():
        yield name, list(zip(chain.rules, told[name].rules, strict=True))


class NftRulebook(Rulebook):
    """Resolves events of nf_tables' traces; see `Rulebook`."""

    timelines: NftTimelines

    def __init__(
        self, snapshots: Iterable[Snapshot], own_comment: str | None, *, alone: bool = True
    ) -> None:
        super().__init__(snapshots, own_comment, alone=alone)
        self._sites: dict[bytes, nftrace.Site | None] = {}
        # Base chains: table, name, hook
        self._stages: list[tuple[tuple[str, str], str | None, int]] = [(("", ""), None, _NO_HOOK)]
        self._stage_of: dict[tuple[str, str, str], int] = {}
        for (family, name), shown in self.timelines.names.items():
            for packets in _FAMILIES.get(family, _BOTH)[:1]:
                timeline = self.timelines.table(packets, shown)
                for state in timeline.states if timeline else ():
                    for chain in (state.chains or {}).values():
                        if chain.base is not None:
                            self._add_stage((family, name, chain.name), chain.base.hook)

    def hooked(self, events: NflogEvents) -> NflogEvents:
        """The events with their hooks, each that of the base chain that was being passed."""
        stage, _ = self._where(events)
        hooks = np.array([hook for *_, hook in self._stages], np.uint8)
        return replace(events, hook=hooks[stage])

    def _read(self, snapshots: Iterable[Snapshot]) -> NftTimelines:
        return NftTimelines(snapshots, alone=self.alone)

    def _where(self, events: NflogEvents) -> tuple[I64, int]:
        """The base chain that was being passed, by its number; 0: not known."""
        of_prefix = np.array([*map(self._stage, events.prefixes), 0], np.int64)
        here = of_prefix[events.prefix]
        order = np.argsort(events.trace, kind="stable")
        begins = np.ones(len(order), np.bool_)
        begins[1:] = np.diff(events.trace[order]) != 0
        position = np.arange(len(order))
        last = np.maximum.accumulate(np.where(here[order] > 0, position, -1))
        first = np.maximum.accumulate(np.where(begins, position, 0))
        stage = np.zeros(len(order), np.int64)
        stage[order] = np.where(last >= first, here[order][last], 0)
        return stage, len(self._stages)

    def _stage(self, raw: bytes) -> int:
        """The number of a base chain, 0 for another chain."""
        site = self._site(raw)
        if site is None:
            return 0
        key = site.family, site.table, site.chain
        if key not in self._stage_of and site.policy:
            self._add_stage(key, _NO_HOOK)
        return self._stage_of.get(key, 0)

    def _add_stage(self, key: tuple[str, str, str], hook: int) -> None:
        if key not in self._stage_of:
            self._stage_of[key] = len(self._stages)
            self._stages.append((key[:2], key[2], hook))

    def _site(self, raw: bytes) -> nftrace.Site | None:
        if raw not in self._sites:
            self._sites[raw] = nftrace.parse(raw)
        return self._sites[raw]

    def _table(self, raw: bytes) -> str | None:
        site = self._site(raw)
        if site is None:
            return None
        return self.timelines.name((site.family, site.table))

    def _place(
        self, raw: bytes, family: Family, where: int, state: TableState | None
    ) -> tuple[Place, Grammar] | None:
        site, table = self._site(raw), self._table(raw)
        if site is None or table is None:
            return None
        grammar = self._judge(family, table, state)
        assert isinstance(grammar, NftGrammar)  # noqa: S101 - `_grammar` made it
        passed, base, hook = self._stages[where]
        if passed != (site.family, site.table):  # what led there was not recorded
            base, hook = None, _NO_HOOK
        return grammar.site(site, table, base, hook), grammar

    def _grammar(self, family: Family, ruleset: Ruleset, late: frozenset[str]) -> Grammar:
        return NftGrammar.of(family, ruleset, self.own_comment, late)
