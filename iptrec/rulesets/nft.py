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
from iptrec.decode.nftrace import NftSite
from iptrec.decode.rulesets import iptables_save, nft_json
from iptrec.decode.rulesets.types import OF_IPTABLES
from iptrec.errors import RecordingError
from iptrec.names import FAMILIES
from iptrec.rulesets import nft_places
from iptrec.rulesets.places import Locations, Pass
from iptrec.rulesets.timeline import EVER, Timelines

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    from iptrec.decode.events import TraceEvents
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Chain, Rule, Ruleset, TableName
    from iptrec.names import I64, U32, Backend, Family
    from iptrec.recording.rows import Snapshot
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.places import Place

    _State = tuple[Listing | None, int, int]


# Those of one moment come one after the other, the listing last.
LISTING: Final = "nft"
UNKNOWN: Final = "nft-unknown"
TEXT: Final = "nft-text"
SAVED: Final = {"iptables-nft-save": "ip", "ip6tables-nft-save": "ip6"}
_FAMILIES: Final[dict[str, tuple[Family, ...]]] = {"ip": ("ipv4",), "ip6": ("ipv6",)}
_NO_HOOK: Final = 255
_NO_PASS: Final = Pass(_NO_HOOK, "")


class Nft:
    """A `RulesetBackend`."""

    name: Backend = "nft"
    stream = "nftrace"
    snapshots = (*SAVED, TEXT, LISTING, UNKNOWN)
    mark_after = True

    def decode(self, data: bytes, lengths: U32, received_ns: I64) -> TraceEvents:
        """See `nftrace.decode`."""
        return nftrace.decode(data, lengths, received_ns)

    def history(self, snapshots: Iterable[Snapshot], *, single: bool) -> Timelines:
        """The tables over time; those of the family inet are in both families."""
        found = Timelines(single=single)
        states = list(_states(snapshots))
        listings = [listing for listing, *_ in states if listing is not None]
        words = _Words(listings)
        for table in dict.fromkeys(name for listing in listings for name in listing.chains):
            for chains, after, time in _states_of(table, states, words):
                for family in _FAMILIES.get(table[0], FAMILIES):
                    found.add(family, shown(table, single=single), chains, after, time)
        return found

    def locations(self, events: TraceEvents, history: Timelines) -> Locations:
        """An event is of the base chain that was last named under its id: the hook is the chain's."""
        tables = [_table(one, history) for one in events.sites]
        bases = _bases(events.sites, tables, history)
        passes = [_NO_PASS, *bases.values()]
        numbers = {key: number for number, key in enumerate(bases, 1)}
        of_site = [numbers.get(_key(one), 0) for one in events.sites]
        passed = _latest_of_id(np.array([*of_site, 0], np.int64)[events.site], events.trace)
        hooks = np.array([one.hook for one in passes], np.uint8)
        return Locations(replace(events, hook=hooks[passed]), tables, passed, passes)

    def place(self, site: Hashable, table: str, passed: Pass, grammar: Grammar) -> Place | None:
        """Resolve a site."""
        if not isinstance(site, NftSite):
            return None
        # Of another table: what led here was not recorded.
        return nft_places.place(site, table, passed if passed.table == table else _NO_PASS, grammar)

    def grammar(
        self, family: Family, ruleset: Ruleset, late: frozenset[str], our_comment: str | None
    ) -> Grammar:
        """All base chains that packets of a family pass."""
        return nft_places.grammar(family, ruleset, late, our_comment)


NFT: Final = Nft()


def _key(site: Hashable) -> tuple[str, str, str] | None:
    """The chain of a site, whatever its rules."""
    return (site.family, site.table, site.chain) if isinstance(site, NftSite) else None


def shown(table: TableName, *, single: bool) -> str:
    """What a table is called; it depends on no rule of it."""
    if table[0] in _FAMILIES and table[1] in OF_IPTABLES:
        return table[1] if single else f"nft {table[1]}"
    return " ".join(table)


def _table(site: Hashable, history: Timelines) -> str | None:
    if not isinstance(site, NftSite):
        return None
    return shown((site.family, site.table), single=history.single)


def _bases(
    sites: Iterable[Hashable], tables: Iterable[str | None], history: Timelines
) -> dict[tuple[str, str, str] | None, Pass]:
    """The base chains among the chains of sites: those of the ruleset, and others that have a policy."""
    found: dict[tuple[str, str, str] | None, Pass] = {}
    for site, table in zip(sites, tables, strict=True):
        if isinstance(site, NftSite) and table is not None:
            family = _FAMILIES.get(site.family, FAMILIES)[0]
            hook = history.hooks.get((family, table, site.chain))
            if hook is not None or site.policy:
                found[_key(site)] = Pass(_NO_HOOK if hook is None else hook, table, site.chain)
    return found


def _latest_of_id(base: I64, trace: I64) -> I64:
    """For each event the last base chain that was named under its id up to it; 0: none."""
    order = np.argsort(trace, kind="stable")
    begins = np.ones(len(order), np.bool_)
    begins[1:] = np.diff(trace[order]) != 0
    position = np.arange(len(order))
    last = np.maximum.accumulate(np.where(base[order] > 0, position, -1))
    first = np.maximum.accumulate(np.where(begins, position, 0))
    found = np.zeros(len(order), np.int64)
    found[order] = np.where(last >= first, base[order][last], 0)
    return found


def _states(snapshots: Iterable[Snapshot]) -> Iterator[_State]:
    """What each snapshot tells, after which time and not after which; None: nobody knows."""
    known: dict[Any, Any] = {}
    saves = {family: iptables_save.Known() for family in SAVED.values()}
    parts: dict[str, bytes] = {}
    time: int | None = None
    first = True
    for one in snapshots:
        if one.time_ns != time:  # of another moment: it tells other rules
            parts, time = {}, one.time_ns
        parts[one.kind] = one.content
        if one.kind in (LISTING, UNKNOWN):
            listing = _listing(parts, saves, known) if one.kind == LISTING else None
            after = one.time_ns if one.after_ns is None else one.after_ns
            yield listing, EVER if first else after, EVER if first else one.time_ns
            first = False


def _listing(
    parts: Mapping[str, bytes], saves: Mapping[str, iptables_save.Known], known: dict[Any, Any]
) -> Listing:
    """The ruleset of one moment. What iptables says of it is an addition: one can do without."""
    saved = {}
    for kind, family in SAVED.items():
        with contextlib.suppress(RecordingError):
            saved[family] = iptables_save.parse(parts.get(kind, b""), saves[family])
    return nft_json.parse(parts[LISTING], parts.get(TEXT, b""), saved, known)


def _states_of(
    table: TableName, states: Iterable[_State], words: _Words
) -> Iterator[tuple[dict[str, Chain] | None, int, int]]:
    """All states of a table from its first one on; one that is gone has no chains."""
    there = False
    for listing, after, time in states:
        if listing is None:
            yield None, after, time
        elif there or table in listing.chains:
            there = True
            yield words.chains(listing, table), after, time


class _Words:
    """How each rule is best told: in iptables' words, by nft's JSON, or by its text alone."""

    def __init__(self, listings: Iterable[Listing]) -> None:
        # By table, handle and nft's text; the higher the number, the more is known of the rule.
        self._best: dict[tuple[TableName, int | None, str], tuple[int, Rule]] = {}
        self._chains: dict[tuple[TableName, str], Chain] = {}
        for listing in listings:
            for table in listing.chains:
                for _, pairs in _pairs(listing, table):
                    for printed, rule in pairs:
                        key = table, printed.handle, printed.spec
                        rank = int(listing.whole) + (rule != printed)
                        if key not in self._best or rank > self._best[key][0]:
                            self._best[key] = rank, rule

    def chains(self, listing: Listing, table: TableName) -> dict[str, Chain]:
        """A table's chains, each rule in the best words that there are; equal chains are the same objects."""
        found = {}
        for name, pairs in _pairs(listing, table):
            rules = (
                rule if rule != printed else self._best[table, printed.handle, printed.spec][1]
                for printed, rule in pairs
            )
            chain = replace(listing.chains[table][name], rules=tuple(rules))
            before = self._chains.get((table, name))
            found[name] = self._chains[table, name] = before if before == chain else chain
        return found


def _pairs(listing: Listing, table: TableName) -> Iterator[tuple[str, list[tuple[Rule, Rule]]]]:
    """The rules of each chain as nft prints them, and in iptables' words where these are true."""
    native = listing.chains.get(table, {})
    told = listing.iptables.get(table, native)
    for name, chain in native.items():
        yield name, list(zip(chain.rules, told[name].rules, strict=True))
