"""Where backends of tracing meet when a recording is read: one protocol, one registry.

A further source of events is a module that makes a `RulesetBackend`, and its line in `BACKENDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from iptrec.decode.rulesets.types import Ruleset
from iptrec.names import FAMILIES
from iptrec.rulesets.changes import Changes
from iptrec.rulesets.legacy import LEGACY
from iptrec.rulesets.nft import NFT

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U8, U32, Backend, Family
    from iptrec.recording.rows import Recording, Snapshot
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.places import Locations, Pass, Place
    from iptrec.rulesets.timeline import Timelines


class RulesetBackend(Protocol):
    """How a stream's events are read, and what resolves them. It has no state."""

    @property
    def name(self) -> Backend:
        """What readers call it, where a recording holds more than one: "legacy", "nft"."""

    @property
    def stream(self) -> str:
        """The kind of its streams of events (`kinds.STREAMS`)."""

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The kinds of snapshots that tell its rules (`kinds.SNAPSHOTS`)."""

    @property
    def changes(self) -> str | None:
        """The kind of the stream that tells changes of its rules (`kinds.STREAMS`), None if none does."""

    @property
    def mark_after(self) -> bool:
        """Whether the mark in an event is the one after its rule, not before."""

    @property
    def under_way_ns(self) -> int:
        """How long before the kernel tells of an event a packet may have chosen the rules that it is about."""

    def decode(self, data: U8, lengths: U32, received_ns: I64) -> TraceEvents:
        """Decode datagrams that lie back to back in ``data``, with zeros behind them: see `netlink.padded`.

        ``lengths`` (bytes) and ``received_ns`` (epoch) have shape (n_datagrams,).
        """

    def history(
        self, snapshots: Iterable[Snapshot], changes: Changes | None = None, *, single: bool
    ) -> Timelines:
        """The tables of one namespace over time, by snapshots of its kinds in order of time.

        ``changes``: what the kernel told between them. ``single``: no other backend's rules were recorded.
        Raises `RecordingError` for what cannot be read.
        """

    def locations(self, events: TraceEvents, history: Timelines) -> Locations:
        """In which pass each event was, as far as that is known before the rules are looked at."""

    def place(self, site: Hashable, table: str, passed: Pass, grammar: Grammar) -> Place | None:
        """The place that a site names in a ruleset, None if it names none."""

    def grammar(
        self,
        family: Family,
        ruleset: Ruleset,
        late: frozenset[str],
        our_comment: str | None,
        *,
        single: bool,
    ) -> Grammar:
        """What can follow what in a ruleset.

        ``late``: tables that need not have logged all the time. ``our_comment``: of the recorder's rules.
        ``single``: as of `history`, on which the names of the tables depend (`table_names`).
        """


BACKENDS: Final[dict[str, RulesetBackend]] = {one.stream: one for one in (LEGACY, NFT)}


def is_single(recording: Recording) -> bool:
    """Whether the recording holds the events of one backend at most."""
    return len({one.kind for one in recording.streams} & BACKENDS.keys()) <= 1


def timelines(recording: Recording, namespace: int) -> list[Timelines]:
    """The tables of a namespace over time, of each backend; of a recording without events legacy iptables'."""
    kinds = {one.kind for one in recording.streams}
    return [
        history(recording, one, namespace)
        for one in [one for one in BACKENDS.values() if one.stream in kinds] or [LEGACY]
    ]


def history(recording: Recording, backend: RulesetBackend, namespace: int) -> Timelines:
    """A backend's tables of one namespace over time."""
    snapshots = recording.snapshots(*backend.snapshots)
    of_namespace = (one for one in snapshots if one.namespace == namespace)
    changes = None
    if backend.changes is not None:
        changes = Changes(recording, backend.changes, backend.stream, namespace)
    return backend.history(of_namespace, changes, single=is_single(recording))


def rulesets(recording: Recording, time_ns: int | None, namespace: int) -> dict[Family, Ruleset]:
    """What was in force at a time (epoch), as far as it had been seen; None: in the end.

    A table whose rules nobody saw then is as it was last seen; one that nobody had seen before as it was first.
    """
    found: dict[Family, Ruleset] = {}
    known = timelines(recording, namespace)
    for family in FAMILIES:
        tables = {}
        for name, one in (
            (name, one) for each in known for name, one in each.loaded(family).items()
        ):
            came = zip(one.states, one.time_ns, strict=True)
            until = [state for state, since in came if time_ns is None or since <= time_ns]
            seen = [state.chains for state in until if state.chains is not None]
            if until and not seen:
                seen = [state.chains for state in one.states if state.chains is not None][:1]
            if seen:
                tables[name] = seen[-1]
        if tables:
            found[family] = Ruleset(tables)
    return found
