"""The host's routes at a time: which addresses are its own, and by which interface one comes to others.

Lists of the beginning and of the end tell them; in between what the kernel told of changes of the host's own
addresses, and lists of what else changed. What may have been one way or another is told as both.
"""

from __future__ import annotations

import bisect
import functools
import ipaddress
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.context.datagrams import datagrams
from iptrec.context.route import (
    ANYCAST,
    BROADCAST,
    ERRORS,
    LOCAL_TABLE,
    MAIN,
    MULTICAST,
    OWN,
    THROW,
    UNICAST,
    Route,
    route,
)
from iptrec.context.routing import Tables
from iptrec.context.routing_rules import PLAIN, rules
from iptrec.decode import snapshots
from iptrec.decode.rtnetlink import route_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from iptrec.context.interfaces import Interfaces
    from iptrec.context.routing_rules import RoutingRule
    from iptrec.decode.rtnetlink import RouteChange
    from iptrec.recording.rows import Recording, Stream

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNREACHABLE: Final = ERRORS | {THROW}
# Routes by which nf_tables' fib finds an interface
_LEADING: Final = {
    4: frozenset({UNICAST, BROADCAST, ANYCAST, MULTICAST}),
    6: frozenset({UNICAST}),
}
_SLACK_NS: Final = 50_000_000  # what the kernel tells is received a moment later
_MOST: Final = 1000  # changes; of more nobody is told
_MOST_TABLES: Final = 16  # that may all have been at one moment


_Table = frozenset[Route]


class _List(NamedTuple):
    """All tables at a time.

    ``after_ns``: of a list that was taken because something had changed, when it had not. ``routes``,
    ``rules``: None where the list is not whole.
    """

    after_ns: int | None
    time_ns: int
    routes: _Table | None
    rules: tuple[RoutingRule, ...] | None = None

    def plain(self, version: int) -> bool:
        """Whether there were no routing rules but those from the beginning, of a version of IP."""
        own = [one for one in self.rules or () if one.version == version]
        return all(one.plain for one in own) and {one.priority for one in own} == {*PLAIN[version]}


class Routes:
    """The routes of one namespace of a recording.

    Those of the host's own addresses are followed from change to change. Of others it is known when they may
    have changed, where the recorder was told that and listed them again.
    """

    def __init__(self, recording: Recording, namespace: int, interfaces: Interfaces) -> None:
        self._interfaces = interfaces
        self._lists = list(_listed(recording, namespace))
        streams = [
            one
            for one in recording.streams
            if (one.kind, one.namespace) == ("rtnetlink", namespace)
        ]
        self._looked_at = _said(streams, "looked_at", "routes")
        self._closed = recording.facts.closed
        local = [
            (one.time_ns, _of_table(one.routes, local=True))
            for one in self._lists
            if one.routes is not None
        ]
        lost = {one.stream for one in recording.losses}
        self._whole = bool(local)
        self._followed = (
            self._whole
            and _said(streams, "groups", "route")
            and not any(one.id in lost for one in streams)
        )
        if not local:
            local = list(_of_addresses(recording, namespace))
        if self._followed:
            local = list(_followed(local[0], _changes(recording, namespace)))
            self._followed = len(local) < _MOST
        self._since, self._local = [time for time, _ in local], [found for _, found in local]
        self._apart: dict[tuple[int, ...], tuple[list[_Table], dict[int, bool]]] = {}
        self._made: dict[tuple[_Table, _Table, tuple[RoutingRule, ...]], Tables] = {}

    @property
    def known(self) -> bool:
        """Whether a list of them was recorded whole."""
        return self._whole

    def at(self, time_ns: tuple[int, int]) -> Fib | None:
        """The routes between two times (epoch); None where nothing was recorded of them."""
        if not self._local:
            return None
        local = self._local_tables(time_ns)
        name = functools.partial(self._interfaces.name, time_ns=time_ns[0])
        likely, sure = self._likely(time_ns)
        others, plain = self._others(likely)
        told = {version: sure and found for version, found in plain.items()}
        return Fib(local, others, told if self._whole else None, name)

    def _others(self, likely: list[_List]) -> tuple[list[_Table], dict[int, bool]]:
        """Their routes that are not the host's own, and whether their rules are plain."""
        key = tuple(map(id, likely))
        if key not in self._apart:
            others = dict.fromkeys(_of_table(one.routes or (), local=False) for one in likely)
            plain = {version: all(one.plain(version) for one in likely) for version in PLAIN}
            self._apart[key] = list(others), plain
        return self._apart[key]

    def tables(self, time_ns: tuple[int, int]) -> tuple[list[Tables], bool]:
        """All routes and rules that may have been between two times, and whether there were no others.

        None of them where they were not recorded, or too many may have been.
        """
        likely, sure = self._likely(time_ns)
        whole = [(one.routes, one.rules) for one in likely if one.routes and one.rules]
        local = self._local_tables(time_ns)
        if not self._whole or len(local) * len(whole) > _MOST_TABLES:
            return [], False
        made = (
            self._tables(one, _of_table(routes, local=False), rules)
            for one in local
            for routes, rules in whole
        )
        known = sure and self._followed and len(whole) == len(likely) and not self._changed(time_ns)
        return list(dict.fromkeys(made)), known

    def _tables(self, local: _Table, others: _Table, rules: tuple[RoutingRule, ...]) -> Tables:
        key = local, others, rules
        if key not in self._made:
            self._made[key] = Tables(local | others, rules)
        return self._made[key]

    def _local_tables(self, time_ns: tuple[int, int]) -> list[_Table]:
        """The routes of the host's own addresses that may have been then."""
        first, last = 0, len(self._local)
        if self._followed:
            first = max(bisect.bisect_right(self._since, time_ns[0] - _SLACK_NS) - 1, 0)
            last = max(bisect.bisect_right(self._since, time_ns[1] + _SLACK_NS), 1)
        return list(dict.fromkeys(self._local[first:last]))

    def _likely(self, time_ns: tuple[int, int]) -> tuple[list[_List], bool]:
        """The lists that may be of then, and whether there were no others."""
        lists = self._lists
        likely = [
            one
            for number, one in enumerate(lists)
            if (number == 0 or (one.after_ns or lists[number - 1].time_ns) < time_ns[1])
            and (number == len(lists) - 1 or time_ns[0] <= lists[number + 1].time_ns)
        ]
        ended = self._closed or (bool(lists) and time_ns[1] <= lists[-1].time_ns)
        sure = self._looked_at and ended and all(one.routes is not None for one in likely)
        return (likely if sure else lists), sure

    def _changed(self, time_ns: tuple[int, int]) -> bool:
        """Whether it is between a change and the list that was taken for it: there may have been several."""
        return any(
            one.after_ns is not None and one.after_ns < time_ns[1] and time_ns[0] < one.time_ns
            for one in self._lists[1:]
        )


class Fib:
    """Routes that may have been there. A `matching.facts.Fib`.

    ``local``: of the host's own addresses, ``others``: all else. ``plain``: whether there are no routing rules
    but those from the beginning, by the version of IP; None where nothing but addresses is known. ``name``: of
    an interface by its index.
    """

    def __init__(
        self,
        local: list[_Table],
        others: list[_Table],
        plain: Mapping[int, bool] | None,
        name: Callable[[int], str],
    ) -> None:
        self._local = local
        self._others = others
        self._plain = plain
        self._name = name

    def types(self, address: IP, interface: str | None) -> frozenset[int] | None:
        """See `matching.facts.Fib`."""
        if any(one.kind == OWN for others in self._others for one in others):
            return None  # addresses of a VRF
        found = {kind for one in self._local for kind in self._types(one, address, interface)}
        if self._plain is None and OWN not in found:
            found |= {UNICAST, BROADCAST, ANYCAST}
        return frozenset(found)

    def ways(self, address: IP, interface: str | None) -> frozenset[str] | None:
        """See `matching.facts.Fib`."""
        plain = self._plain is not None and self._plain[address.version]
        if not plain or interface == "lo" or address.is_unspecified:
            return None
        if address.version == 6 and address.is_multicast:  # noqa: PLR2004
            return None
        found: set[str] = set()
        for local, others in itertools.product(self._local, self._others):
            ways = self._ways(local | others, address, interface)
            if ways is None:
                return None
            found |= ways
        return frozenset(found)

    def _types(self, state: _Table, address: IP, interface: str | None) -> set[int]:
        if address.version == 4:  # noqa: PLR2004
            return self._types4(state, address, interface)
        own = [one for one in _longest(state, address, (LOCAL_TABLE,)) if one.kind != MULTICAST]
        mine = [one for one in own if interface in (None, *self._names(one))]
        if mine and not (address.is_link_local and interface is None):
            return {one.kind for one in mine}
        routed = self._plain is not None and self._plain[6] and not address.is_link_local
        if own or not routed or not self._others:
            return {UNICAST, MULTICAST, *_UNREACHABLE} | {one.kind for one in own}
        if address.is_multicast:
            return {MULTICAST, *_UNREACHABLE}
        found = {one.kind for others in self._others for one in _longest(others, address, (MAIN,))}
        return found if found == {UNICAST} else {UNICAST, *_UNREACHABLE}

    def _types4(self, state: _Table, address: IP, interface: str | None) -> set[int]:
        """As inet_dev_addr_type (net/ipv4/fib_frontend.c): by the table "local" alone."""
        if address.is_multicast:
            return {MULTICAST}
        if int(address) >> 24 == 0 or int(address) == 2**32 - 1:
            return {BROADCAST}
        own = _longest(state, address, (LOCAL_TABLE,))
        return {one.kind if interface in (None, *self._names(one)) else UNICAST for one in own} or {
            UNICAST
        }

    def _ways(self, state: _Table, address: IP, interface: str | None) -> set[str] | None:
        tables = PLAIN[address.version].values()
        best = next((found for one in tables if (found := _longest(state, address, (one,)))), [])
        kinds = _LEADING[address.version]
        if any(one.kind in kinds and not one.links for one in best):
            return None
        links = {name for one in best if one.kind in kinds for name in self._names(one)}
        if interface is None:
            return links or {""}
        if interface in links:
            return {interface}
        six = address.version == 6  # noqa: PLR2004
        return None if six and self._leads(state, address, interface) else {""}

    def _leads(self, state: _Table, address: IP, interface: str) -> bool:
        """Whether any route leads there by an interface: of IPv6 a worse one is taken."""
        return any(
            one.network.version == address.version
            and address in one.network
            and (not one.links or interface in self._names(one))
            for one in state
        )

    def _names(self, route: Route) -> list[str]:
        return [self._name(one) for one in route.links]


def _longest(state: _Table, address: IP, tables: Iterable[int]) -> list[Route]:
    """The routes of some tables that lead there, of the longest prefix and the best metric."""
    found = [
        one
        for one in state
        if one.table in tables and one.network.version == address.version and address in one.network
    ]
    best = max(((one.network.prefixlen, -one.metric) for one in found), default=None)
    return [one for one in found if (one.network.prefixlen, -one.metric) == best]


def broadcasts(recording: Recording, namespace: int) -> frozenset[Network]:
    """What was a broadcast address at any time, as far as routes were recorded, whole or not."""
    listed = (
        row
        for one in recording.snapshots("routes")
        if one.namespace == namespace and one.media == snapshots.NETLINK
        for row in snapshots.routing(one.kind, one.content)
    )
    told = (one.row for _, one in _changes(recording, namespace) if one.row is not None)
    rows = (row for row in itertools.chain(listed, told) if row.get("type") == BROADCAST)
    return frozenset(one.network for one in map(route, rows) if one is not None)


def _of_table(routes: Iterable[Route], *, local: bool) -> _Table:
    return frozenset(one for one in routes if (one.table == LOCAL_TABLE) == local)


def _said(streams: Sequence[Stream], what: str, word: str) -> bool:
    """Whether all streams of a namespace say of themselves that they have something."""
    return bool(streams) and all(word in one.detail.get(what, ()) for one in streams)


def _listed(recording: Recording, namespace: int) -> Iterator[_List]:
    """Each list of routes with the rules of the same time, from a first one on that is whole."""
    held: _List | None = None
    before: tuple[list[dict[str, Any]], tuple[RoutingRule, ...]] = [], ()
    for one in recording.snapshots("routes", "ip-rules"):
        if one.namespace != namespace or one.media != snapshots.NETLINK:
            continue
        whole = snapshots.state(one.content, one.media) == snapshots.WHOLE
        if held is None and not whole:
            return
        rows = snapshots.routing(one.kind, one.content) if whole else []
        if one.kind == "routes":
            if held is not None:
                yield held
            routes = frozenset(filter(None, map(route, rows))) if whole else None
            held = _List(one.after_ns, one.time_ns, routes)
        elif held is not None:
            if rows != before[0]:  # the same objects for what has not changed
                before = rows, tuple(rules(rows))
            held = held._replace(rules=before[1] if whole else None)
    if held is not None:
        yield held


def _changes(recording: Recording, namespace: int) -> Iterator[tuple[int, RouteChange]]:
    """When each change was received."""
    for time, datagram in datagrams(recording, "rtnetlink", namespace):
        for change in route_changes(datagram):
            yield time, change


def _followed(
    first: tuple[int, _Table], changes: Iterable[tuple[int, RouteChange]]
) -> Iterator[tuple[int, _Table]]:
    """The local routes from each change on, at most as many as one can follow."""
    time, state = first
    yield time, state
    for time, change in itertools.islice(changes, _MOST):
        state = _changed(state, change)
        yield time, state


def _of_addresses(recording: Recording, namespace: int) -> Iterator[tuple[int, _Table]]:
    """What is known where only addresses were recorded, as by format 1 of the file."""
    for one in recording.snapshots("addresses"):
        if one.namespace == namespace:
            own = snapshots.addresses(one.content, one.media)
            found = {
                Route(LOCAL_TABLE, ipaddress.ip_network(address), OWN, 0, (index,))
                for index, address in own
            }
            loopback = Route(LOCAL_TABLE, ipaddress.ip_network("127.0.0.0/8"), OWN, 0, (1,))
            yield one.time_ns, frozenset({*found, loopback})


def _changed(state: _Table, change: RouteChange) -> _Table:
    if change.row is None:
        return frozenset(
            one
            for one in state
            if change.link not in one.links or (change.down and one.kind == OWN)
        )
    one = route(change.row)
    if one is None or one.table != LOCAL_TABLE:
        return state
    return state - {one} if change.gone else state | {one}
