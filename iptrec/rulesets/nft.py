"""nf_tables: its ruleset over time, and the place of each event of a trace in it.

Tables of iptables are called as iptables calls them (see `table_names`), whoever made them, others by family
and name. What was between two listings is told by the kernel (see `nft_states`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode import nftrace
from iptrec.decode.nftrace import NftSite
from iptrec.decode.rulesets import iptables_save, nft_json, nft_unprinted
from iptrec.decode.rulesets.types import Ruleset
from iptrec.decode.traces import Traces
from iptrec.errors import RecordingError
from iptrec.names import FAMILIES, OF_NFT
from iptrec.rulesets import nft_missed, nft_pasted, nft_places, nft_told
from iptrec.rulesets.nft_spans import Look
from iptrec.rulesets.nft_states import States
from iptrec.rulesets.places import NO_HOOK, Locations, Pass
from iptrec.rulesets.table_names import table_name
from iptrec.rulesets.timeline import Timelines

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

    from iptrec.decode.events import TraceEvents
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.names import I64, U8, U32, Backend, Family
    from iptrec.recording.rows import Recording, Snapshot
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.nft_states import Followed, State
    from iptrec.rulesets.places import Place


# Those of one moment come one after the other, the listing last.
LISTING: Final = "nft"
GENERATION, GENERATIONS = "nft-generation", "nft-generations"
UNKNOWN: Final = "nft-unknown"
TEXT: Final = "nft-text"
TOLD: Final = "nft-rules"  # by the kernel, with conditions that nft does not print
SAVED: Final = nft_missed.SAVED
_DIGITS: Final = 10  # of a u32
_NO_PASS: Final = Pass(NO_HOOK, "")
# Nobody waits for who reads the old rules: it is microseconds, unless something interrupts it.
_UNDER_WAY_NS: Final = 5_000_000


class Nft:
    """A `RulesetBackend`."""

    name: Backend = "nft"
    stream = "nftrace"
    snapshots = (
        *SAVED, TOLD, TEXT, GENERATION, GENERATIONS, LISTING, UNKNOWN, nft_missed.KIND, nft_pasted.KIND,
    )  # fmt: skip
    changes = "nftables"
    mark_after = True
    under_way_ns = _UNDER_WAY_NS

    def decode(self, data: U8, lengths: U32, received_ns: I64) -> TraceEvents:
        """See `nftrace.decode`."""
        return nftrace.decode(data, lengths, received_ns)

    def history(
        self, snapshots: Iterable[Snapshot], changes: Changes | None = None, *, single: bool
    ) -> Timelines:
        """The tables over time; those of the family inet are in both families."""
        found = Timelines(single=single)
        pasted: list[bytes] = []
        states = _states(_without(nft_pasted.KIND, snapshots, pasted), changes)
        found.unlisted = nft_pasted.texts(pasted)
        for table in states.tables:
            name = table_name(table, single=single)
            late = nft_places.is_late_table(name)
            for state in _as_one([*states.of(table)]) if late else states.of(table):
                for family in _passed_by(table[0]):
                    found.add(family, name, *state)
        return found

    def locations(self, events: TraceEvents, history: Timelines) -> Locations:
        """An event is of the base chain that was last named under its id: the hook is the chain's."""
        tables = [_table(one, history) for one in events.sites]
        bases = _bases(events.sites, tables, history)
        passes = [_NO_PASS, *bases.values()]
        numbers = {key: number for number, key in enumerate(bases, 1)}
        of_site = [numbers.get(_key(one), 0) for one in events.sites]
        base = np.array([*of_site, 0], np.int64)[events.site]
        # What is a base chain at times is one for the packets that came to it first.
        jumped = history.jumped_at_times()
        doubtful = [_is_of(*one, jumped) for one in zip(events.sites, tables, strict=True)]
        led = np.array([*doubtful, False])[events.site] & (events.head != events.datagram)
        passed = _latest_of_id(np.where(led, 0, base), events.trace)
        hooks = np.array([one.hook for one in passes], np.uint8)
        return Locations(replace(events, hook=hooks[passed]), tables, passed, passes)

    def place(self, site: Hashable, table: str, passed: Pass, grammar: Grammar) -> Place | None:
        """Resolve a site."""
        if not isinstance(site, NftSite):
            return None
        # Of another table: what led here was not recorded.
        passed = _in_force(passed, grammar) if passed.table == table else _NO_PASS
        return nft_places.place(site, table, passed, grammar)

    def grammar(
        self,
        family: Family,
        ruleset: Ruleset,
        late: frozenset[str],
        our_comment: str | None,
        *,
        single: bool,  # noqa: ARG002 - the ruleset has the names
    ) -> Grammar:
        """All base chains that packets of a family pass."""
        return nft_places.grammar(family, ruleset, late, our_comment)


NFT: Final = Nft()


def of_listing(listing: Listing) -> dict[Family, Ruleset]:
    """A ruleset by itself, as `Nft.history` calls its tables: those of inet are in both families."""
    found: dict[Family, Ruleset] = {family: Ruleset() for family in FAMILIES}
    for table, chains in listing.chains.items():
        for family in _passed_by(table[0]):
            found[family].tables[table_name(table, single=True)] = chains
    return {family: one for family, one in found.items() if one.tables}


def followed(snapshots: Iterable[Snapshot], changes: Changes) -> Iterator[Followed]:
    """See `States.followed`."""
    return _states(snapshots, changes).followed()


def _states(snapshots: Iterable[Snapshot], changes: Changes | None) -> States:
    missed: list[bytes] = []
    looks = _looks(_without(nft_missed.KIND, snapshots, missed))
    contents = nft_missed.contents(missed)
    looks = [_with_texts(one, contents) if one.told else one for one in looks]
    return States(looks, changes, contents)


def _with_texts(look: Look, contents: nft_missed.Contents) -> Look:
    if look.listing is None:
        return look
    return look._replace(listing=nft_told.with_texts(look.listing, look.told, contents))


def _without(kind: str, snapshots: Iterable[Snapshot], found: list[bytes]) -> Iterator[Snapshot]:
    """All snapshots but those of a kind, of which the contents are ``found``."""
    for one in snapshots:
        if one.kind == kind:
            found.append(one.content)
        else:
            yield one


def printed(recording: Recording, kind: str, time_ns: int | None, namespace: int) -> bytes | None:
    """What `LISTING` or `TEXT` told at a time (epoch; None: in the end); None where nobody knows."""
    found: bytes | None = None
    first = True
    for one in recording.snapshots(kind, UNKNOWN):
        if one.namespace != namespace:
            continue
        if first or time_ns is None or one.time_ns <= time_ns:
            found = one.content if one.kind == kind and not by_kernel(one) else None
        first = False
    return found


def by_kernel(snapshot: Snapshot) -> bool:
    """Whether a listing is what the kernel told, without texts and sets, as nft could not list it in time."""
    return snapshot.source.startswith("NFT_MSG_")


def _as_one(states: list[State]) -> list[State]:
    """One state for all, of a table that tells nothing by its rules; it was there at times."""
    known = [one.chains for one in states if one.chains]
    if len(states) == 1 or not known:
        return states
    return [states[1]._replace(chains={name: one for some in known for name, one in some.items()})]


def _key(site: Hashable) -> tuple[str, str, str] | None:
    """The chain of a site, whatever its rules."""
    return (site.family, site.table, site.chain) if isinstance(site, NftSite) else None


def _passed_by(family: str) -> tuple[Family, ...]:
    """Whose packets pass a table of nf_tables."""
    return (OF_NFT[family],) if family in OF_NFT else FAMILIES


def _table(site: Hashable, history: Timelines) -> str | None:
    if not isinstance(site, NftSite):
        return None
    return table_name((site.family, site.table), single=history.single)


def _bases(
    sites: Iterable[Hashable], tables: Iterable[str | None], history: Timelines
) -> dict[tuple[str, str, str] | None, Pass]:
    """The base chains among the chains of sites: those of the ruleset, and others that have a policy."""
    found: dict[tuple[str, str, str] | None, Pass] = {}
    for site, table in zip(sites, tables, strict=True):
        if isinstance(site, NftSite) and table is not None:
            family = _passed_by(site.family)[0]
            hook = history.hooks.get((family, table, site.chain))
            if hook is not None or site.policy:
                found[_key(site)] = Pass(NO_HOOK if hook is None else hook, table, site.chain)
    return found


def _is_of(site: Hashable, table: str | None, chains: Collection[tuple[Family, str, str]]) -> bool:
    """Whether an event, but for that of a policy, is of one of some chains, named as in `Timelines.hooks`."""
    if not isinstance(site, NftSite) or table is None or site.policy:
        return False
    return (_passed_by(site.family)[0], table, site.chain) in chains


def _in_force(passed: Pass, grammar: Grammar) -> Pass:
    """A pass at the hook that its base chain has in these rules: a chain may be made anew at another one."""
    chain = None if passed.base is None else grammar.chain(passed.table, passed.base)
    return passed if chain is None or chain.base is None else passed._replace(hook=chain.base.hook)


def _latest_of_id(base: I64, trace: I64) -> I64:
    """For each event the last base chain that was named under its id up to it; 0: none."""
    last = Traces(trace).latest(base > 0)
    return np.where(last >= 0, base[last], 0)


def _looks(snapshots: Iterable[Snapshot]) -> list[Look]:
    """What each moment's snapshots tell; without numbers where none of them has one, as old recordings."""
    found = list(_all_looks(snapshots))
    if all(one.generation is None for one in found):
        return found
    # One without a number is not of one moment: the ruleset changed from one command to the next.
    return [one if one.generation is not None else one._replace(listing=None) for one in found]


def _all_looks(snapshots: Iterable[Snapshot]) -> Iterator[Look]:
    known: dict[Any, Any] = {}
    expressions: nft_unprinted.Known = {}
    saves = {family: iptables_save.Known() for family in SAVED.values()}
    parts: dict[str, bytes] = {}
    time: int | None = None
    for one in snapshots:
        if one.time_ns != time:  # of another moment: it tells other rules
            parts, time = {}, one.time_ns
        parts[one.kind] = one.content
        if one.kind in (LISTING, UNKNOWN):
            listing = _listing(parts, saves, known, expressions) if one.kind == LISTING else None
            after = one.time_ns if one.after_ns is None else one.after_ns
            since, _, number = parts.get(GENERATIONS, b"").partition(b" ")
            numbers = _number(parts.get(GENERATION, number)), _number(since)
            untold = listing is not None and nft_told.is_told(listing)
            told = nft_told.read(parts.get(TOLD, b"")) if untold else {}
            yield Look(listing, after, one.time_ns, *numbers, told=told)


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= _DIGITS else None


def _listing(
    parts: Mapping[str, bytes],
    saves: Mapping[str, iptables_save.Known],
    known: dict[Any, Any],
    expressions: nft_unprinted.Known,
) -> Listing:
    """The ruleset of one moment. What iptables says of it is an addition: one can do without."""
    saved = {}
    for kind, family in SAVED.items():
        with contextlib.suppress(RecordingError):
            saved[family] = iptables_save.parse(parts.get(kind, b""), saves[family])
    unprinted = nft_unprinted.read(parts.get(TOLD, b""), expressions)
    return nft_json.parse(parts[LISTING], parts.get(TEXT, b""), saved, known, unprinted)
