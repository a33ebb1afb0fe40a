"""Which of IPsec's policies a packet meets, and whether that drops it.

Sources: xfrm_policy_match, __xfrm_policy_check and xfrm_lookup (net/xfrm/xfrm_policy.c): the one of the lowest
number that fits counts. What asks for a transformation lets those packets in that came by IPsec, which is not
recorded of any.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from iptrec.decode import policies, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.context.routing_rules import Flow
    from iptrec.recording.rows import Recording

Direction = Literal["in", "out", "fwd"]

# TCP, UDP, DCCP, SCTP, UDP-Lite; of ICMP and its like the type stands there
_WITH_PORTS: Final = (6, 17, 33, 132, 136)
_LAST: Final = 1 << 32  # behind every priority
_NOT_LOADED: Final = "EPROTONOSUPPORT"  # see `kernel.policies`
_BY_IPSEC: Final = "none fits what came by IPsec"


@dataclass(frozen=True, slots=True)
class Policy:
    """See `decode.policies`; what a default lacks fits everything."""

    default: bool
    direction: Direction
    action: str
    socket: bool = False
    priority: int = _LAST
    index: int = 0
    family: int = 0
    src: str = ""
    dst: str = ""
    protocol: int = 0
    sport: int = 0
    sport_mask: int = 0
    dport: int = 0
    dport_mask: int = 0
    link: int = 0
    mark: int = 0
    mark_mask: int = 0
    if_id: int = 0
    templates: int = 0

    def fits(self, flow: Flow, link: int | None) -> bool | None:
        """Whether a packet meets it that goes out by an interface; None where that is not known."""
        if self.default:
            return True
        if not (flow.src in _network(self.src) and flow.dst in _network(self.dst)):
            return False
        sport, dport = (flow.sport, flow.dport) if flow.protocol in _WITH_PORTS else (None, None)
        found = [
            _equal(self.protocol, flow.protocol),
            _equal(self.sport, sport, self.sport_mask),
            _equal(self.dport, dport, self.dport_mask),
            _equal(self.link, link),
            _equal(self.mark, flow.mark, self.mark_mask),
            _equal(self.if_id, None),
        ]
        return False if False in found else None if None in found else True

    def __str__(self) -> str:
        """As ip-xfrm(8) prints it."""
        if self.default:
            return f"the default of dir {self.direction} is block, and none fits"
        words = [f"src {self.src} dst {self.dst}"]
        words += [f"proto {self.protocol}"] if self.protocol else []
        words += [f"sport {self.sport}"] if self.sport_mask else []
        words += [f"dport {self.dport}"] if self.dport_mask else []
        words.append(f"dir {self.direction} action {self.action}")
        words += [f"priority {self.priority}"] if self.priority else []
        words += ["with templates"] if self.templates else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Policies:
    """All of one moment. ``unused``: there were no states of IPsec, and no policies that ask for one."""

    every: tuple[Policy, ...] = ()
    unused: bool = False

    @classmethod
    def listed(cls, content: bytes) -> Policies:
        """Those of a snapshot."""
        every = tuple(Policy(**row) for row in policies.rows(content))
        ended = snapshots.state(content, snapshots.NETLINK)
        none = policies.states(content) == 0 and not any(one.templates for one in every)
        return cls(every, ended == _NOT_LOADED or (none and ended == snapshots.WHOLE))

    def of(self, direction: Direction) -> tuple[Policy, ...]:
        """Those of a direction, in the order in which they count."""
        return _of(self, direction)

    @property
    def of_sockets(self) -> bool:
        """Whether a socket has one of its own, which counts before all others."""
        return any(one.socket for one in self.every)

    def why(self, direction: Direction, flow: Flow, link: int | None) -> list[str | None]:
        """All that may be why they drop a packet; None: they let it pass."""
        found: dict[str | None, None] = {}
        for _, alike in itertools.groupby(self.of(direction), key=lambda one: one.priority):
            fitting = [(one, fits) for one in alike if (fits := one.fits(flow, link)) is not False]
            for one, _ in fitting:
                found.update(dict.fromkeys(_made_by(one)))
            if any(fits for _, fits in fitting):
                return list(found)
        found[None] = None
        if direction != "out" and any(one.templates for one in self.every):
            found[_BY_IPSEC] = None
        return list(found)


NONE: Final = Policies()


def over_time(recording: Recording, namespace: int) -> list[tuple[int, Policies]]:
    """Each list of a namespace, and its time (epoch)."""
    return [
        (one.time_ns, Policies.listed(one.content))
        for one in recording.snapshots("policies")
        if one.namespace == namespace
    ]


def _made_by(policy: Policy) -> Iterator[str | None]:
    if policy.action == "block" or policy.templates:
        yield str(policy)
    if policy.action != "block":
        yield None


@functools.lru_cache(maxsize=64)
def _of(every: Policies, direction: Direction) -> tuple[Policy, ...]:
    own = (one for one in every.every if one.direction == direction and not one.socket)
    return tuple(sorted(own, key=lambda one: one.priority))


@functools.lru_cache(maxsize=10_000)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def _equal(asked: int, there: int | None, mask: int | None = None) -> bool | None:
    """``mask``: None where 0 asks for nothing."""
    if not (asked if mask is None else mask):
        return True
    if there is None:
        return None
    return there == asked if mask is None else there & mask == asked & mask
