"""The flow chart of a report: base chains by hook, how many packets passed each, and the ways between hooks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.answers.paths import shown
from iptrec.names import HOOKS, OF_NFT
from iptrec.packets.model import LOST
from iptrec.rulesets.legacy import ATTACHED
from iptrec.rulesets.table_names import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from iptrec.answers.path_counts import PathCount
    from iptrec.answers.rules import TableCount
    from iptrec.decode.rulesets.types import Chain, Ruleset
    from iptrec.names import Family
    from iptrec.packets.window import Window
    from iptrec.rulesets.places import Place

IN, OUT, HERE, SENT = (
    "in",
    "out",
    "here",
    "sent",
)  # ends of the map: the network twice, this host twice
_IP, _BRIDGE, _OTHER = "ip", "bridge", "other"
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_PRIORITIES: Final = {(one.hook, plain(one.table)): base.priority for one, base in ATTACHED}
# By the number of the hook: enum nf_dev_hooks, of arp NF_ARP_IN and others.
_OTHERS: Final = {"netdev": ("INGRESS", "EGRESS"), "arp": ("ARP IN", "ARP OUT", "ARP FORWARD")}


class Station(NamedTuple):
    """A base chain on the map. ``lane``: the part of the map that it is in; ``hook``: as readers name it."""

    lane: str
    hook: str
    table: str
    chain: str


class Way(NamedTuple):
    """A path on the map: where each of its steps is."""

    steps: tuple[Station, ...]


def station(hook: int, table: str, chain: str) -> Station:
    """Of a base chain; ``hook`` by the kernel's number, which depends on the family of the table."""
    family = table.partition(" ")[0] if " " in table else ""
    if family in _OTHERS:
        names = _OTHERS[family]
        return Station(
            _OTHER, names[hook] if hook < len(names) else f"{family} {hook}", table, chain
        )
    if hook >= len(HOOKS):
        name = "INGRESS" if hook == len(HOOKS) else "hook not known"
        return Station(_OTHER, name, table, chain)
    return Station(_BRIDGE if family == "bridge" else _IP, HOOKS[hook], table, chain)


def way(window: Window, path: Sequence[int]) -> Way:
    """Of a packet's places in a window, those that readers are told of."""
    places = [window.resolver.places[number] for number in path]
    return Way(tuple(_station(places[at]) for at in shown(places)))


def _station(place: Place) -> Station:
    base = place.base
    if base is None:
        base = HOOKS[place.hook] if place.hook < len(HOOKS) else place.chain
    return station(place.hook, place.table, base)


class Map:
    """What is drawn: `stations` by number, and what passed them."""

    def __init__(
        self, ways: Mapping[int, Way], paths: Iterable[PathCount], rulesets: Iterable[_Rulesets]
    ) -> None:
        self._priorities: dict[Station, int] = {}
        self._passed: dict[Station, int] = {}
        self._seen: dict[Station, int] = {}  # how far from its beginning a packet came there
        self._lost: dict[Station, int] = {}
        self._between: dict[tuple[str, str], int] = {}
        for one in rulesets:
            self._add_chains(one)
        for count in paths:
            self._add(ways[count.number], count)
        every = {*self._priorities, *self._passed}
        self.stations = sorted(every, key=self._order)
        self.numbers = {one: number for number, one in enumerate(self.stations)}

    def _order(self, one: Station) -> tuple[str, str, int, int, str, str]:
        """As packets pass them: of one priority as they were seen."""
        priority = self._priorities.get(one, 0)
        return one.lane, one.hook, priority, self._seen.get(one, 0), one.table, one.chain

    def _add_chains(self, rulesets: _Rulesets) -> None:
        for family, ruleset in rulesets.by_family.items():
            for table, chains in ruleset.tables.items():
                for chain in chains.values():
                    if (table, chain.name) in rulesets.known:
                        self._add_chain(family, table, chain)

    def _add_chain(self, family: Family, table: str, chain: Chain) -> None:
        if chain.base is not None:
            lane = OF_NFT.get(chain.base.family, family)
            if lane == family or " " in table:
                where = station(chain.base.hook, table, chain.name)
                self._priorities[where] = chain.base.priority
        elif chain.policy is not None and chain.name in HOOKS:
            hook = HOOKS.index(chain.name)
            where = station(hook, table, chain.name)
            self._priorities[where] = _PRIORITIES.get((hook, plain(table)), 0)

    def _add(self, way: Way, count: PathCount) -> None:
        packets, verdict = count.count.packets, count.path.verdict
        for at, one in enumerate(dict.fromkeys(way.steps)):
            self._seen.setdefault(one, at)
            self._passed[one] = self._passed.get(one, 0) + packets
        if not way.steps:
            return
        boxes = [_box(one) for one in way.steps]
        lost = verdict in LOST
        if lost:
            self._lost[way.steps[-1]] = self._lost.get(way.steps[-1], 0) + packets
        ends = [_begin(boxes[0]), *boxes, None if lost or verdict == "UNKNOWN" else _end(boxes[-1])]
        told = [one for one in ends if one is not None]
        for pair in itertools.pairwise(told):
            if pair[0] != pair[1]:
                self._between[pair] = self._between.get(pair, 0) + packets

    def as_object(self) -> dict[str, Any]:
        """As values of JSON. Names are not yet printable."""
        return {
            "stations": [
                {
                    **one._asdict(),
                    "priority": self._priorities.get(one),
                    "packets": self._passed.get(one, 0),
                    "lost": self._lost.get(one, 0),
                }
                for one in self.stations
            ],
            "ways": [[*pair, packets] for pair, packets in sorted(self._between.items())],
        }


class _Rulesets(NamedTuple):
    """The rules at a time; ``known``: the tables and chains that are not our own."""

    by_family: Mapping[Family, Ruleset]
    known: frozenset[tuple[str, str]]


def rulesets(
    counted: Iterable[TableCount], moments: Iterable[Mapping[Family, Ruleset]]
) -> list[_Rulesets]:
    """The rules of some moments, as `Map` takes them; ``counted`` has all chains but our own."""
    known = frozenset((one.table, chain) for one in counted for chain in one.chains)
    return [_Rulesets(one, known) for one in moments]


def _box(one: Station) -> str:
    return f"{one.lane}:{one.hook}"


def _begin(box: str) -> str | None:
    """Where packets come from that were first seen in a box."""
    lane, _, hook = box.partition(":")
    return {"PREROUTING": f"{lane}:{IN}", "OUTPUT": f"{lane}:{SENT}"}.get(hook)


def _end(box: str) -> str | None:
    """Where they go that were let pass there."""
    lane, _, hook = box.partition(":")
    return {"POSTROUTING": f"{lane}:{OUT}", "INPUT": f"{lane}:{HERE}"}.get(hook)
