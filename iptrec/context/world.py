"""A packet that came in, all that was so at that moment, and what may become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from iptrec.context.policies import NONE, Policies
from iptrec.context.route import words

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Mapping

    from iptrec.context.route import Route
    from iptrec.context.routing import Tables
    from iptrec.context.routing_rules import Flow

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Device(NamedTuple):
    """An interface. ``vrf``: whether its packets are routed by a VRF. ``group``: what ip-link(8) calls so.

    ``bridge``: whether it is one.
    """

    name: str
    mtu: int | None = None
    vrf: bool = False
    group: int | None = None
    bridge: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What was so at one moment; always the same object for the same.

    ``setting``: of a path below /proc/sys; None where it is not known. ``joined``: whether an interface takes
    packets for a group; None where that is not known.
    """

    tables: Tables
    setting: Callable[[str], int | None]
    devices: Mapping[int, Device]
    joined: Callable[[str, IP], bool | None] = lambda _name, _group: None
    policies: Policies = NONE

    def through_bridge(self, index: int, version: int) -> bool:
        """Whether what comes in by an interface may pass IP's PREROUTING in a bridge, which may drop it then.

        br_nf_pre_routing (net/bridge/br_netfilter_hooks.c). A bridge may have a setting of its own.
        """
        name = f"net/bridge/bridge-nf-call-ip{'6' if version == 6 else ''}tables"  # noqa: PLR2004
        device = self.devices.get(index)
        return device is not None and device.bridge and self.setting(name) is not None

    def name(self, index: int) -> str:
        """Of an interface."""
        return self.devices[index].name if index in self.devices else f"if{index}"

    def route(self, one: Route) -> str:
        """In words."""
        return words(one, {index: self.name(index) for index in one.links})


class Arrived(NamedTuple):
    """A packet behind its last rule at PREROUTING. None: not known.

    ``length``: of the whole packet; ``whole``: whether it may not be fragmented (DF). ``source_route``:
    whether it brings a way of its own (RFC 791: LSRR, SSRR).
    """

    flow: Flow
    hops: int | None = None
    length: int | None = None
    whole: bool | None = None
    source_route: bool = False


class Fate(NamedTuple):
    """What becomes of it: it is ``dropped``, ``forwarded``, or comes to this host (``local``).

    ``text``: that it is dropped, by whom; else the route. ``evidence``: why it is dropped, where that is not
    said. None of it is known where ``what`` is "unknown".
    """

    what: Literal["dropped", "forwarded", "local", "unknown"]
    reason: str = ""
    text: str = ""
    link: int = 0
    evidence: str = ""


UNKNOWN: Final = Fate("unknown")


def dropped(reason: str, why: str, by: str = "routing") -> Fate:
    """``why``: the evidence; ``by``: who does it."""
    return Fate("dropped", reason, f"{by} would have dropped it", evidence=why)


def dotted(path: str) -> str:
    """A setting as sysctl(8) names it; dots in the name of an interface become slashes."""
    return path.translate({ord("/"): ".", ord("."): "/"})
