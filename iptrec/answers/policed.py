"""Packets that all rules let pass to this host, and that IPsec's policies would have dropped then.

Before a socket is looked for, or just behind that: ip_protocol_deliver_rcu, udp_queue_rcv_one_skb, tcp_v4_rcv.
"""

from __future__ import annotations

import ipaddress
from functools import cached_property
from typing import TYPE_CHECKING, Final

from iptrec.answers.unheard import accepted_here
from iptrec.context.counters import Counts
from iptrec.context.policed import by_policy, why
from iptrec.context.policies import over_time
from iptrec.context.routing_rules import Flow
from iptrec.decode.counters import Counter
from iptrec.packets.ends import End

if TYPE_CHECKING:
    from iptrec.context.interfaces import Interfaces
    from iptrec.context.world import World
    from iptrec.context.worlds import Worlds
    from iptrec.packets.model import Step, Traversal
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording

# By XFRM's statistics: a policy blocked it, or it should have come by IPsec
_COUNTERS: Final = ("XfrmInPolBlock", "XfrmInNoPols", "XfrmInTmplMismatch")
_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}


class Policed:
    """Those of one namespace of a recording."""

    def __init__(self, recording: Recording, namespace: int, interfaces: Interfaces) -> None:
        self._recording = recording
        self._namespace = namespace
        self._interfaces = interfaces

    def positions(self, window: Window) -> set[int]:
        """Where in a window packets are that may be of them."""
        if not self._dropping:
            return set()
        return set(accepted_here(window)[0].tolist())

    @cached_property
    def _dropping(self) -> bool:
        """Whether there are policies for what comes in that drop, and the kernel did not count none."""
        lists = over_time(self._recording, self._namespace)
        every = (one for _, policies in lists for one in policies.of("in"))
        there = any(one.action == "block" or one.templates for one in every)
        if not there:
            return False
        counts = Counts(self._recording, self._namespace)
        rose = [counts.rise(Counter(name)) for name in _COUNTERS]
        return None in rose or any(rose)

    def end(self, window: Window, position: int, packet: Traversal) -> End | None:
        """What became of the packet there."""
        from iptrec.answers.last_seen import near  # noqa: PLC0415 - few recordings have policies

        row = int(window.assembly.events(position)[-1])
        flow = _flow(packet.steps[-1], int(window.events.indev[row]))
        if flow is None:
            return None
        worlds, sure = self._worlds.at(near(window, row))
        found = dict.fromkeys(one for world in worlds for one in why(world, "in", flow, None))
        whys = [one for one in found if one is not None]
        if not whys:
            return None
        sure = sure and len(found) == 1 and not any(map(_of_sockets, worlds))
        fate = by_policy(whys[0])
        return End("recorded", fate.reason, fate.text, sure=sure, evidence=fate.evidence)

    @cached_property
    def _worlds(self) -> Worlds:
        from iptrec.context.worlds import Worlds  # noqa: PLC0415 - likewise

        return Worlds(self._recording, self._namespace, self._interfaces)


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
