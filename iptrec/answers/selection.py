"""Which packets of a recording are meant: one set of conditions for every command.

All conditions hold for a packet that is selected. What is decided by a packet's path is decided once for
each distinct path; only what depends on its bytes looks at every event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode import headers, nft_packets

if TYPE_CHECKING:
    from collections.abc import Collection

    from iptrec.answers.paths import Whose
    from iptrec.context.interfaces import Interfaces
    from iptrec.decode.owners import Owner
    from iptrec.names import I64, Mask
    from iptrec.packets.ends import Death, End
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.window import Window
    from iptrec.pcap.filter import PacketFilter
    from iptrec.recording.rows import Loss
    from iptrec.rulesets.places import Place

_FEWEST: Final = 4  # characters of an id
_HEXADECIMAL: Final = frozenset("0123456789abcdef-")
ANY_TABLE: Final = ""  # no table has this name


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions; those that are not given hold for every packet.

    ``packet_filter``: any stage of the packet matches. ``interfaces``: any stage came in or went out by
    one of them. ``chains``: see `is_among`; it passed one. ``rules``: (table, chain, number among
    the user's) of which one matched. ``verdicts``: upper case. ``whole``: complete and unambiguous, or
    not. ``mark``: (value, mask) that any stage had. ``uids``, ``comms``, ``containers``: of its socket's
    owner, see `is_owner` (`Owners` looks at it). ``since_ns``, ``until_ns`` (epoch): when its first
    event was logged, the end not included. ``number``: that packet alone. ``path``: the packets of that
    path, see `paths` (`Packets` looks at it, for it needs all packets before). ``reasons``: upper case, of
    its end, see `ended_so` (`Packets` looks at it). ``recorded``: in the place of ``interfaces``, those that
    one of several hosts was to record alone, by the number of the namespace.
    """

    packet_filter: PacketFilter | None = None
    interfaces: frozenset[str] = frozenset()
    chains: frozenset[tuple[str, str]] = frozenset()
    rules: frozenset[tuple[str, str, int]] = frozenset()
    verdicts: frozenset[str] = frozenset()
    netns: frozenset[str] = frozenset()
    whole: bool | None = None
    mark: tuple[int, int] | None = None
    uids: frozenset[int] = frozenset()
    comms: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()
    since_ns: int | None = None
    until_ns: int | None = None
    number: int | None = None
    path: int | None = None
    reasons: frozenset[str] = frozenset()
    recorded: tuple[tuple[int, frozenset[str]], ...] = ()

    @property
    def everything(self) -> bool:
        """Whether no condition is given."""
        return self == Selection()

    @property
    def by_owner(self) -> bool:
        """Whether only packets of known owners are selected."""
        return bool(self.uids or self.comms or self.containers)

    def is_owner(self, owner: Owner) -> bool:
        """Whether it is asked for; a container by its name, or by how its id or its pod's UID begins."""
        names = [one for one in (owner.container, owner.pod) if one]
        return (
            (not self.uids or owner.uid in self.uids)
            and (not self.comms or owner.comm in self.comms)
            and (
                not self.containers
                or any(_means(asked, one) for asked in self.containers for one in names)
            )
        )

    def ended_so(self, end: End | Death | None) -> bool:
        """Whether an end, sure or not, is asked for."""
        return end is not None and end.reason.upper() in self.reasons

    def may_have_lost(self, loss: Loss) -> bool:
        """Whether packets that are asked for may have begun while events were lost."""
        begun = self.until_ns is None or loss.first_ns < self.until_ns
        return begun and (self.since_ns is None or loss.last_ns >= self.since_ns)

    def positions(self, window: Window, interfaces: Interfaces, whose: Whose) -> I64:
        """The positions of a window's decided traversals that are selected, in order."""
        chosen = self._without_filter(window, interfaces, whose)
        if self.packet_filter is not None and chosen.any():
            chosen &= self._matches(window)
        return np.flatnonzero(chosen)

    def unjudged(self, window: Window, interfaces: Interfaces, whose: Whose) -> I64:
        """The positions of those that `positions` has not, and the filter might match.

        Their headers were not captured whole; all other conditions hold.
        """
        if self.packet_filter is None:
            return np.zeros(0, np.int64)
        chosen = _any_event(
            window, lambda rows: self._might_match(window, rows) & ~_told_whole(window, rows)
        )
        if chosen.any():
            chosen &= self._without_filter(window, interfaces, whose) & ~self._matches(window)
        return np.flatnonzero(chosen)

    def _might_match(self, window: Window, rows: I64) -> Mask:
        """Which events' packets, being cut, could be more than the filter sees."""
        assert self.packet_filter is not None  # noqa: S101 - the caller looked
        events = window.events
        might = events.ip[rows] & headers.are_cut(
            events.buffer, events.payload[rows], events.payload_length[rows], events.ipv6[rows]
        )
        known = np.flatnonzero(might & nft_packets.knows_more(events, rows))
        if len(known):
            might[known] = np.logical_or.reduce(
                [
                    self.packet_filter.match_many(*one)
                    for one in nft_packets.possible(events, rows[known])
                ]
            )
        return might

    def _without_filter(self, window: Window, interfaces: Interfaces, whose: Whose) -> Mask:
        """Of which decided traversals all conditions hold but the filter."""
        if self.netns and not self._is_of(*whose):
            return np.zeros(window.decided, np.bool_)
        chosen = self._by_way(window) & self._by_time(window)
        if self.number is not None:
            chosen &= np.arange(window.number, window.number + window.decided) == self.number
        events, times = window.events, window.moment_ns
        named = self.interfaces or dict(self.recorded).get(window.stream.namespace)
        if named and chosen.any():
            chosen &= _any_event(
                window,
                lambda rows: (
                    interfaces.named(named, events.indev[rows], times[rows])
                    | interfaces.named(named, events.outdev[rows], times[rows])
                ),
            )
        if self.mark is not None and chosen.any():
            value, mask = map(np.uint32, self.mark)
            chosen &= _any_event(window, lambda rows: (events.mark[rows] & mask) == value)
        return chosen

    def _is_of(self, host: str | None, netns: str | None) -> bool:
        """Whether a namespace is asked for: by its name, its host's, or HOST/NAME."""
        names = {netns, host, f"{host}/{netns}"} if host is not None else {netns}
        return bool(self.netns & names)

    def _matches(self, window: Window) -> Mask:
        """Which decided traversals the filter matches."""
        assert self.packet_filter is not None  # noqa: S101 - the callers looked
        matches, events = self.packet_filter.match_many, window.events
        payload = np.where(events.ip, events.payload, -1)
        return _any_event(
            window,
            lambda rows: matches(events.buffer, payload[rows], events.payload_length[rows]),
        )

    def _by_way(self, window: Window) -> Mask:
        outcomes = window.assembly.outcomes
        fits = np.array([self._fits(window, one) for one in outcomes], np.bool_)
        return fits[window.assembly.outcome[: window.decided]]

    def _fits(self, window: Window, outcome: Outcome) -> bool:
        places = [window.resolver.places[number] for number in outcome.path]
        whole = outcome.complete and outcome.doubt is None
        return (
            (not self.verdicts or outcome.verdict in self.verdicts)
            and (self.whole is None or self.whole == whole)
            and (
                not self.chains
                or any(is_among(self.chains, one.table, one.chain) for one in places)
            )
            and (not self.rules or any(_rule(one) in self.rules for one in places))
        )

    def _by_time(self, window: Window) -> Mask:
        assembly = window.assembly
        begun = window.moment_ns[assembly.rows[assembly.first[: window.decided]]]
        chosen = np.ones(window.decided, np.bool_)
        if self.since_ns is not None:
            chosen &= begun >= self.since_ns
        if self.until_ns is not None:
            chosen &= begun < self.until_ns
        return chosen


def is_among(chains: Collection[tuple[str, str]], table: str, chain: str) -> bool:
    """Whether a chain is one of these (table, chain), some of which may be of `ANY_TABLE`."""
    return (table, chain) in chains or (ANY_TABLE, chain) in chains


def _means(asked: str, name: str) -> bool:
    return asked == name or (len(asked) >= _FEWEST and name.startswith(asked) and _is_id(name))


def _is_id(name: str) -> bool:
    return len(name) > _FEWEST and not set(name) - _HEXADECIMAL


def _rule(place: Place) -> tuple[str, str, int | None]:
    return place.table, place.chain, place.number


def _told_whole(window: Window, rows: I64) -> Mask:
    """Which events of nf_tables are of packets that legacy iptables told whole; ``rows``: all of the window."""
    traced: Mask = window.events.trace[rows] >= 0
    if traced.all():
        return np.zeros(len(rows), np.bool_)
    assembly, decided = window.assembly, window.decided
    whole = np.logical_or.reduceat(~traced, assembly.first[:decided])
    told: Mask = traced & np.repeat(whole, assembly.count[:decided])
    return told


def _any_event(window: Window, test: Any) -> Mask:  # noqa: ANN401 - a function over event numbers
    """For each decided traversal whether ``test`` holds for any of its events."""
    rows = window.rows()
    if not len(rows):
        return np.zeros(window.decided, np.bool_)
    return np.logical_or.reduceat(test(rows), window.assembly.first[: window.decided])
