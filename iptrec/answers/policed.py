"""Packets that all rules let pass to this host, and that IPsec's policies would have dropped then.

Before a socket is looked for, or just behind that: ip_protocol_deliver_rcu, udp_queue_rcv_one_skb, tcp_v4_rcv.
"""

from __future__ import annotations

import ipaddress
from functools import cached_property
from typing import TYPE_CHECKING, Final

from iptrec.answers.unheard import accepted_here
from iptrec.context.policed import by_policy, why
from iptrec.context.routing_rules import Flow
from iptrec.decode.counters import Counter
from iptrec.packets.ends import End

if TYPE_CHECKING:
    from iptrec.context.counters import Counts
    from iptrec.context.world import World
    from iptrec.context.worlds import Worlds
    from iptrec.packets.model import Step
    from iptrec.packets.window import Window

# By XFRM's statistics: a policy blocked it, or it should have come by IPsec
_COUNTERS: Final = ("XfrmInPolBlock", "XfrmInNoPols", "XfrmInTmplMismatch")
_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}


class Policed:
    """Of one namespace, of which ``worlds`` tell, and ``counts`` of what policies dropped."""

    def __init__(self, worlds: Worlds, counts: Counts) -> None:
        self._worlds = worlds
        self._counts = counts

    def positions(self, window: Window) -> set[int]:
        """Where in a window packets are that may be of them."""
        if not self._dropping:
            return set()
        return set(accepted_here(window)[0].tolist())

    @cached_property
    def _dropping(self) -> bool:
        """Whether there are policies for what comes in that drop, and the kernel did not count none."""
        lists = [policies.of("in") for _, policies in self._worlds.policies]
        there = any(one.action == "block" or one.templates for some in lists for one in some)
        if not there:
            return False
        rose = [self._counts.rise(Counter(name)) for name in _COUNTERS]
        return None in rose or any(rose)

    def end(self, step: Step, iif: int, time_ns: tuple[int, int]) -> End | None:
        """What became of a packet after a step, by its interface, between two times."""
        flow = _flow(step, iif)
        if flow is None:
            return None
        worlds, sure = self._worlds.at(time_ns)
        found = dict.fromkeys(one for world in worlds for one in why(world, "in", flow, None))
        whys = [one for one in found if one is not None]
        if not whys:
            return None
        sure = sure and len(found) == 1 and not any(map(_of_sockets, worlds))
        fate = by_policy(whys[0])
        return End("recorded", fate.reason, fate.text, sure=sure, evidence=fate.evidence)


def _of_sockets(world: World) -> bool:
    """Whether a socket's own policy may count instead."""
    return world.policies.of_sockets


def _flow(step: Step, iif: int) -> Flow | None:
    """None where it is not known, or was sent by this host itself."""
    header, in_ = step.header, step.in_
    if in_ is None or in_ == "lo":
        return None
    try:
        src, dst = (ipaddress.ip_address(header[one]) for one in ("src", "dst"))
    except (KeyError, ValueError):
        return None
    protocol = str(header.get("proto"))
    number = _PROTOCOLS.get(protocol) or (int(protocol) if protocol.isdecimal() else None)
    ports = header.get("sport"), header.get("dport")
    return Flow(src, dst, iif, in_, step.mark, 0, number, *ports)
