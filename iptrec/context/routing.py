"""A look-up in recorded routes and routing rules, as the kernel does it.

Sources: net/core/fib_rules.c, net/ipv4/fib_rules.c and fib_trie.c (fib_table_lookup), net/ipv6/fib6_rules.c and
route.c (rt6_score_route). Where the answer depends on what is not recorded, such as a hash that chooses among
next hops, all that are possible are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.context.route import DEAD, ERRORS, LOCAL_TABLE, OWN, THROW
from iptrec.context.routing_rules import LEGACY_TOS

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.context.route import Route
    from iptrec.context.routing_rules import Flow, RoutingRule

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_HIGH, _LOW = 1, 3  # ICMPV6_ROUTER_PREF_...; 0 is medium
_MOST: Final = 64  # answers to one question
_MOST_RULES: Final = 10_000  # gone through, for one question


class Found(NamedTuple):
    """An answer. ``route``: None where no route was met; ``rule``: the routing rule that led there.

    ``links``: by which interfaces a packet may go; one of several is chosen by a hash.
    """

    route: Route | None
    rule: RoutingRule | None
    links: tuple[int, ...] = ()

    @property
    def kind(self) -> int:
        """RTN_...; UNREACHABLE's like of a rule; 0: there is no route."""
        if self.route is not None:
            return self.route.kind
        return 0 if self.rule is None else self.rule.action


_NOTHING: Final = Found(None, None)


class Tables:
    """All routes at one moment, and the rules that choose among their tables."""

    def __init__(self, routes: Iterable[Route], rules: Sequence[RoutingRule]) -> None:
        self.rules = {
            version: [one for one in rules if one.version == version] for version in (4, 6)
        }
        self._routes: dict[tuple[int, int], dict[int, dict[int, list[Route]]]] = {}
        self.realms = False
        for one in routes:
            table = self._routes.setdefault((one.table, one.network.version), {})
            of_length = table.setdefault(one.network.prefixlen, {})
            of_length.setdefault(int(one.network.network_address), []).append(one)
            self.realms |= one.realm

    def custom(self, version: int) -> bool:
        """Whether there are other rules than those from the beginning."""
        return not all(one.plain for one in self.rules[version])

    def covering(self, table: int, address: IP) -> Iterator[list[Route]]:
        """The routes of a table that lead to an address, those of the longest prefix first."""
        lengths = self._routes.get((table, address.version), {})
        number, bits = int(address), address.max_prefixlen
        for length in sorted(lengths, reverse=True):
            start = number >> (bits - length) << (bits - length)
            if found := lengths[length].get(start):
                yield found

    def own(self, version: int) -> Iterator[Route]:
        """The routes of the host's own addresses."""
        for of_length in self._routes.get((LOCAL_TABLE, version), {}).values():
            for routes in of_length.values():
                yield from (one for one in routes if one.kind == OWN)

    def lookup(self, flow: Flow) -> list[Found]:
        """The answers that are possible; one, where all is known. `Found(None, None)`: no route."""
        found: dict[Found, None] = {}
        waiting = [0]
        rules = self.rules[flow.dst.version]
        seen: set[int] = set()
        while waiting and len(found) <= _MOST:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            if at >= len(rules) or len(seen) > _MOST_RULES:
                found[_NOTHING] = None
                continue
            matches = rules[at].matches(flow)
            if matches is not True:
                waiting.append(at + 1)
            if matches is not False:
                self._follow(rules, at, flow, found, waiting)
        return list(found)

    def _follow(
        self,
        rules: Sequence[RoutingRule],
        at: int,
        flow: Flow,
        found: dict[Found, None],
        waiting: list[int],
    ) -> None:
        """What comes of a rule that matches: answers, and which rules are next."""
        rule = rules[at]
        if rule.goto is not None:
            waiting.append(_target(rules, rule.goto, at))
        elif rule.action in ERRORS:
            found[Found(None, rule)] = None
        elif rule.table is None:
            waiting.append(at + 1)
        else:
            for one in self._in_table(rule.table, flow):
                if (
                    one is None
                    or one.kind == THROW
                    or rule.suppresses(one.network.prefixlen, one.kind)
                ):
                    waiting.append(at + 1)
                else:
                    found[Found(one, rule, _links(one, flow))] = None

    def _in_table(self, table: int, flow: Flow) -> Iterator[Route | None]:
        """The routes of a table that may be the one; None: none of them."""
        for routes in self.covering(table, flow.dst):
            sure = False
            for one, certain in (_choose6 if flow.dst.version == 6 else _choose4)(routes, flow):  # noqa: PLR2004
                yield one
                sure = sure or certain
            if sure:
                return
        yield None


def _choose4(routes: list[Route], flow: Flow) -> Iterator[tuple[Route, bool]]:
    """Of one prefix: those that may be taken, and whether nothing comes after."""
    routes = sorted(routes, key=lambda one: (-one.tos, one.metric))
    for number, one in enumerate(routes):
        fits = (
            True if not one.tos else None if flow.tos is None else flow.tos & LEGACY_TOS == one.tos
        )
        usable = one.usable
        if fits is False or usable is False:
            continue
        following = routes[number + 1 : number + 2]
        # Of equal ones that was added first; a set has no order.
        alike = [(each.tos, each.metric) for each in following] == [(one.tos, one.metric)]
        certain = bool(fits and usable)
        yield one, certain
        if certain and not alike:
            return


def _choose6(routes: list[Route], flow: Flow) -> Iterator[tuple[Route, bool]]:
    """Likewise; those of packets from an address are looked at before those of packets from anywhere.

    Where there are some from other addresses alone, it depends on the shape of the tree whether the kernel
    takes the latter (fib6_node_lookup_1, fib6_backtrack).
    """
    sources = [one.source for one in routes if one.source is not None]
    plain = not sources or any(flow.src in one for one in sources)
    lengths = sorted({one.source.prefixlen if one.source else 0 for one in routes}, reverse=True)
    for length in lengths:
        here = [
            one
            for one in routes
            if (one.source.prefixlen if one.source else 0) == length
            and (one.source is None or flow.src in one.source)
            and one.usable is not False
            and (not flow.strict or one.kind in ERRORS or not one.links or flow.iif in one.links)
        ]
        for metric in sorted({one.metric for one in here}):
            best = _scored([one for one in here if one.metric == metric], flow)
            for number, one in enumerate(best):
                yield one, plain and one.usable is True and number == len(best) - 1
            if any(one.usable for one in best):
                return


def _scored(routes: list[Route], flow: Flow) -> list[Route]:
    """Of equal ones those by the interface that the packet came in by, then the preferred ones.

    A host that does not forward also asks whether a gateway answers: nobody knows.
    """
    if len(routes) < 2 or not flow.forwards:  # noqa: PLR2004 - nothing to choose
        return routes

    def score(one: Route) -> int:
        preferred = {_HIGH: 1, _LOW: -1}.get(one.preference, 0)
        return (2 if flow.iif in one.links else 0) | (preferred + 1 & 3) << 2

    best = max(map(score, routes))
    return [one for one in routes if score(one) == best]


def _links(route: Route, flow: Flow) -> tuple[int, ...]:
    """By which interfaces a packet may go that takes a route."""
    if not route.flags:
        return route.links
    alive = tuple(
        link for link, flags in zip(route.links, route.flags, strict=False) if not flags & DEAD
    )
    if flow.strict and flow.iif in alive:
        return (flow.iif,)
    return alive


def _target(rules: Sequence[RoutingRule], priority: int, at: int) -> int:
    """The rule that a goto leads to, which lies behind it; the next one where there is none."""
    return next(
        (number for number, one in enumerate(rules) if number > at and one.priority == priority),
        at + 1,
    )
