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

import numpy as np

from iptrec.decode import snapshots
from iptrec.decode.rtnetlink import route_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from iptrec.context.interfaces import Interfaces
    from iptrec.decode.rtnetlink import RouteChange
    from iptrec.recording.rows import Recording, Stream

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address
    Row = Mapping[str, Any]

_LOCAL, _MAIN, _DEFAULT = 255, 254, 253  # RT_TABLE_...
_UNICAST, _OWN, _BROADCAST, _ANYCAST, _MULTICAST = 1, 2, 3, 4, 5  # RTN_...
_UNREACHABLE: Final = frozenset({6, 7, 8, 9})  # and their like
# Routes by which nf_tables' fib finds an interface
_LEADING: Final = {
    4: frozenset({_UNICAST, _BROADCAST, _ANYCAST, _MULTICAST}),
    6: frozenset({_UNICAST}),
}
_AF: Final = {4: 2, 6: 10}
_ANY: Final = {4: 0, 6: "::"}
# The rules that are there from the beginning: priority -> table (net/ipv4/fib_rules.c, net/ipv6/fib6_rules.c)
_PLAIN: Final = {4: {0: _LOCAL, 32766: _MAIN, 32767: _DEFAULT}, 6: {0: _LOCAL, 32766: _MAIN}}
_SELECTORS: Final = frozenset(
    ["dst", "src", "iif", "oif", "fwmark", "tun_id", "ip_proto", "sport_range", "dport_range", "uid_range",
     "suppress_ifgroup", "suppress_prefixlen", "l3mdev", "dscp"]
)  # fmt: skip
_SLACK_NS: Final = 50_000_000  # what the kernel tells is received a moment later
_MOST: Final = 1000  # changes; of more nobody is told


class _Route(NamedTuple):
    table: int
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    kind: int
    metric: int
    links: tuple[int, ...]  # indexes of interfaces; () where they are not told


_Table = frozenset[_Route]


class _List(NamedTuple):
    """All tables at a time.

    ``after_ns``: of a list that was taken because something had changed, when it had not. ``routes``: None
    where the list is not whole. ``plain``: whether there were no routing rules but those from the beginning, by
    the version of IP.
    """

    after_ns: int | None
    time_ns: int
    routes: _Table | None
    plain: Mapping[int, bool]


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

    def at(self, time_ns: tuple[int, int]) -> Fib | None:
        """The routes between two times (epoch); None where nothing was recorded of them."""
        if not self._local:
            return None
        first, last = 0, len(self._local)
        if self._followed:
            first = max(bisect.bisect_right(self._since, time_ns[0] - _SLACK_NS) - 1, 0)
            last = max(bisect.bisect_right(self._since, time_ns[1] + _SLACK_NS), 1)
        local = list(dict.fromkeys(self._local[first:last]))
        name = functools.partial(self._interfaces.name, time_ns=time_ns[0])
        others, plain = self._others(time_ns)
        return Fib(local, others, plain if self._whole else None, name)

    def _others(self, time_ns: tuple[int, int]) -> tuple[list[_Table], Mapping[int, bool]]:
        """The other tables that may have been then; the rules are not plain where there may be more."""
        lists = self._lists
        likely = [
            one
            for number, one in enumerate(lists)
            if (number == 0 or (one.after_ns or lists[number - 1].time_ns) < time_ns[1])
            and (number == len(lists) - 1 or time_ns[0] <= lists[number + 1].time_ns)
        ]
        ended = self._closed or (bool(lists) and time_ns[1] <= lists[-1].time_ns)
        sure = self._looked_at and ended and all(one.routes is not None for one in likely)
        tables = (_of_table(one.routes or (), local=False) for one in (likely if sure else lists))
        plain = {version: sure and all(one.plain[version] for one in likely) for version in _PLAIN}
        return list(dict.fromkeys(tables)), plain


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
        if any(one.kind == _OWN for others in self._others for one in others):
            return None  # addresses of a VRF
        found = {kind for one in self._local for kind in self._types(one, address, interface)}
        if self._plain is None and _OWN not in found:
            found |= {_UNICAST, _BROADCAST, _ANYCAST}
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
        own = [one for one in _longest(state, address, (_LOCAL,)) if one.kind != _MULTICAST]
        mine = [one for one in own if interface in (None, *self._names(one))]
        if mine and not (address.is_link_local and interface is None):
            return {one.kind for one in mine}
        routed = self._plain is not None and self._plain[6] and not address.is_link_local
        if own or not routed or not self._others:
            return {_UNICAST, _MULTICAST, *_UNREACHABLE} | {one.kind for one in own}
        if address.is_multicast:
            return {_MULTICAST, *_UNREACHABLE}
        found = {one.kind for others in self._others for one in _longest(others, address, (_MAIN,))}
        return found if found == {_UNICAST} else {_UNICAST, *_UNREACHABLE}

    def _types4(self, state: _Table, address: IP, interface: str | None) -> set[int]:
        """As inet_dev_addr_type (net/ipv4/fib_frontend.c): by the table "local" alone."""
        if address.is_multicast:
            return {_MULTICAST}
        if int(address) >> 24 == 0 or int(address) == 2**32 - 1:
            return {_BROADCAST}
        own = _longest(state, address, (_LOCAL,))
        return {
            one.kind if interface in (None, *self._names(one)) else _UNICAST for one in own
        } or {_UNICAST}

    def _ways(self, state: _Table, address: IP, interface: str | None) -> set[str] | None:
        tables = _PLAIN[address.version].values()
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

    def _names(self, route: _Route) -> list[str]:
        return [self._name(one) for one in route.links]


def _longest(state: _Table, address: IP, tables: Iterable[int]) -> list[_Route]:
    """The routes of some tables that lead there, of the longest prefix and the best metric."""
    found = [
        one
        for one in state
        if one.table in tables and one.network.version == address.version and address in one.network
    ]
    best = max(((one.network.prefixlen, -one.metric) for one in found), default=None)
    return [one for one in found if (one.network.prefixlen, -one.metric) == best]


def _route(row: Row) -> _Route | None:
    """A route out of its message; None for what is not an entry of a table."""
    version = {af: version for version, af in _AF.items()}.get(row["family"])
    if version is None or row.get("flags", 0) & 0x200:  # RTM_F_CLONED
        return None
    try:
        start = row.get("dst", _ANY[version])
        network = ipaddress.ip_network((start, row["dst_len"]), strict=False)
    except ValueError:  # of a stranger
        return None
    links = tuple(one["oif"] for one in row.get("multipath", ()))
    if "oif" in row:
        links += (row["oif"],)
    table = row.get("table", _MAIN)
    return _Route(table, network, row["type"], row.get("priority", 0), links)


def _of_table(routes: Iterable[_Route], *, local: bool) -> _Table:
    return frozenset(one for one in routes if (one.table == _LOCAL) == local)


def _said(streams: Sequence[Stream], what: str, word: str) -> bool:
    """Whether all streams of a namespace say of themselves that they have something."""
    return bool(streams) and all(word in one.detail.get(what, ()) for one in streams)


def _is_plain(rules: Iterable[Row], version: int) -> bool:
    """Whether there are no routing rules but those from the beginning."""
    own = [one for one in rules if one["family"] == _AF[version]]
    selecting = [name for one in own for name in _SELECTORS & one.keys() if one[name] != -1]
    return not selecting and _PLAIN[version] == {
        one.get("priority", 0): one.get("table") for one in own
    }


def _listed(recording: Recording, namespace: int) -> Iterator[_List]:
    """Each list of routes with the rules of the same time, from a first one on that is whole."""
    held: _List | None = None
    for one in recording.snapshots("routes", "ip-rules"):
        if one.namespace != namespace or one.media != snapshots.NETLINK:
            continue
        whole = snapshots.state(one.content, one.media) == snapshots.WHOLE
        if held is None and not whole:
            return
        rows = snapshots.routing(one.kind, one.content) if whole else ()
        if one.kind == "routes":
            if held is not None:
                yield held
            routes = frozenset(filter(None, map(_route, rows))) if whole else None
            held = _List(one.after_ns, one.time_ns, routes, dict.fromkeys(_PLAIN, False))
        elif held is not None:
            plain = {version: whole and _is_plain(rows, version) for version in _PLAIN}
            held = held._replace(plain=plain)
    if held is not None:
        yield held


def _changes(recording: Recording, namespace: int) -> Iterator[tuple[int, RouteChange]]:
    """When each change was received."""
    for stream in recording.streams:
        if stream.kind != "rtnetlink" or stream.namespace != namespace:
            continue
        for chunk in recording.chunks(stream.id):
            ends = np.cumsum(chunk.lengths, dtype=np.int64).tolist()
            starts = [0, *ends[:-1]]
            for start, end, time in zip(starts, ends, chunk.received_ns.tolist(), strict=True):
                for change in route_changes(chunk.data[start:end]):
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
                _Route(_LOCAL, ipaddress.ip_network(address), _OWN, 0, (index,))
                for index, address in own
            }
            loopback = _Route(_LOCAL, ipaddress.ip_network("127.0.0.0/8"), _OWN, 0, (1,))
            yield one.time_ns, frozenset({*found, loopback})


def _changed(state: _Table, change: RouteChange) -> _Table:
    if change.row is None:
        return frozenset(
            one
            for one in state
            if change.link not in one.links or (change.down and one.kind == _OWN)
        )
    one = _route(change.row)
    if one is None or one.table != _LOCAL:
        return state
    return state - {one} if change.gone else state | {one}
