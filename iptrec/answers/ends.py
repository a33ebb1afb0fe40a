"""How packets ended behind the rules, as far as what was recorded beside them tells.

Of a packet that was not seen behind PREROUTING the recorded routes, rules and settings say what the kernel
would have made of it (`context.arrival`). Of one that was let pass an answer of this host's own may say it, an
error of ICMP or a RST.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.answers.answered import RST
from iptrec.answers.last_seen import last_seen
from iptrec.context.arrival import fates, wherever
from iptrec.context.counters import Counts
from iptrec.context.world import UNKNOWN
from iptrec.context.worlds import Worlds
from iptrec.decode.counters import Counter
from iptrec.names import HOOKS
from iptrec.packets import lossy
from iptrec.packets.ends import End
from iptrec.packets.outcome import NOT_SEEN, NOTHING_TELLS

if TYPE_CHECKING:
    from iptrec.answers.answered import Answer
    from iptrec.answers.last_seen import LastSeen
    from iptrec.context.interfaces import Interfaces
    from iptrec.context.world import Arrived, Fate, World
    from iptrec.packets.model import Traversal
    from iptrec.packets.outcome import Vanished
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording

_REMEMBERED: Final = 10_000
NOBODYS: Final = "NOT_SPECIFIED"
_OR_LOST: Final = "or the events were lost"
_OR_UNTRACED: Final = "or it went on, and nf_tables did not trace it yet"
_OR_BRIDGED: Final = "or the bridge dropped it"
# By the kernel's word the errors that it sends then.
_TOLD_BY: Final = {
    "IP_INHDR": ("time-exceeded",),
    "PKT_TOO_BIG": ("fragmentation-needed", "packet-too-big"),
    "IP_INNOROUTES": ("net-unreachable", "no-route", "admin-prohibited"),
    "UNREACHABLE": ("host-unreachable",),
    "PROHIBIT": ("admin-prohibited",),
    "IP_INADDRERRORS": ("beyond-scope",),
}
_REASONS: Final = {name: reason for reason, names in _TOLD_BY.items() for name in names}
_WORDS: Final = {
    "IP_INADDRERRORS": "packets from its source are not forwarded",
    "IP_INHDR": "its hops were used up",
    "PKT_TOO_BIG": "it is larger than the MTU",
    "IP_INNOROUTES": "there is no route",
    "UNREACHABLE": "the route is unreachable",
    "PROHIBIT": "the route is prohibit",
}
_BEHIND: Final = {  # the rules: at INPUT, and on its way out
    "INPUT": {
        "port-unreachable": ("NO_SOCKET", "no socket took it"),
        RST: ("NO_SOCKET", "no socket took it"),
        "protocol-unreachable": ("IP_NOPROTO", "nobody takes its protocol"),
    },
    **dict.fromkeys(
        ("FORWARD", "OUTPUT", "POSTROUTING"),
        dict.fromkeys(
            ("host-unreachable", "address-unreachable"),
            ("NEIGH_FAILED", "the next hop did not answer"),
        )
        | dict.fromkeys(
            ("fragmentation-needed", "packet-too-big"),  # the route's own, or a tunnel's
            ("PKT_TOO_BIG", _WORDS["PKT_TOO_BIG"]),
        ),
    ),
}
# What may have been otherwise for a moment between two lists.
_FLEETING: Final = frozenset(["NOT_JOINED"])
# Counted by ip_error of what is not forwarded, and by nf_conntrack_in of what it has no room for.
_NOT_FORWARDED: Final = Counter("IpInAddrErrors")
_NOT_TRACKED: Final = Counter("drop", "conntrack")


class Ends:
    """The ends of packets of one namespace of a recording; asked only for those that are shown."""

    def __init__(self, recording: Recording, namespace: int, interfaces: Interfaces) -> None:
        self._recording = recording
        self._namespace = namespace
        self._interfaces = interfaces
        own = lossy.event_streams(recording, namespace)
        self._counted = all(one.detail.get("sequence") is not False for one in own)
        self._losses = lossy.spans(recording, namespace)
        self._known: dict[tuple[Arrived, World], list[Fate]] = {}
        self._both = len({one.kind for one in own}) > 1

    @functools.cached_property
    def _traced_ns(self) -> int:
        """When rules of legacy iptables and of nf_tables both traced packets; 0 where one of them is recorded.

        Without a rule of ours there nf_tables traces nothing, also of packets that legacy iptables traces.
        """
        if not self._both:
            return 0
        listed = self._recording.snapshots("nft-generation")
        return next((one.time_ns for one in listed if one.namespace == self._namespace), 0)

    @functools.cached_property
    def _worlds(self) -> Worlds:
        return Worlds(self._recording, self._namespace, self._interfaces)

    @property
    def alike(self) -> bool:
        """Whether the same can be said of all packets that vanished: nothing."""
        return not (self._worlds.known or self._losses or self._both) and self._counted

    def reason(self, window: Window, position: int, reason: str, end: End | None) -> str:
        """Why a packet that vanished is incomplete: no more than that, where its end is known."""
        if end is not None:
            return reason.partition(":")[0].replace(NOTHING_TELLS, NOT_SEEN)
        time_ns = int(window.moment_ns[window.assembly.events(position)[-1]])
        if time_ns <= self._traced_ns:
            return f"{reason}, {_OR_UNTRACED}"
        return f"{reason}, {_OR_LOST}" if self._lossy(time_ns) else reason

    def of(
        self,
        window: Window,
        position: int,
        packet: Traversal,
        answer: Answer | None,
        *,
        alone: bool = False,
    ) -> End | None:
        """How the packet at a position of the window ended; None where nothing tells.

        ``answer``: what this host sent about it. ``alone``: it is one of `Unheard`.
        """
        vanished = window.assembly.outcomes[window.assembly.outcome[position]].vanished
        if vanished is None:
            hook = int(window.events.hook[window.assembly.events(position)[-1]])
            found = None if answer is None else _answered(answer, packet, hook)
            return found or (_unheard(packet) if alone else None)
        found = None if vanished == "elsewhere" else self.routed(window, position, packet, vanished)
        if answer is not None:
            if found is not None and answer.name in _TOLD_BY.get(found.reason, ()):
                return replace(found.adding(_said(answer)), sure=found.sure or answer.sure)
            found = _told(answer, packet.family, vanished) or found
        if found is None:
            return None
        row = int(window.assembly.events(position)[-1])
        return self._doubted(found, int(window.moment_ns[row]))

    def bridged(self, index: int, family: str, time_ns: int) -> bool:
        """Whether a bridge may have had in hand what was at an interface."""
        worlds, _ = self._worlds.at((time_ns, time_ns))
        return _bridged(index, 6 if family == "ipv6" else 4, worlds)

    def routed(
        self, window: Window, position: int, packet: Traversal, vanished: Vanished = "surely"
    ) -> End | None:
        """What routing made of the packet there, by what was recorded of it; None where nobody knows."""
        seen = last_seen(window, position, packet)
        piece = bool(packet.header.get("mf") or packet.header.get("frag"))
        if seen is not None and seen.translated:
            return self._wherever(seen) if vanished == "surely" else None
        return None if seen is None else self._routed(seen, vanished, piece=piece)

    def _routed(self, seen: LastSeen, vanished: Vanished, *, piece: bool) -> End | None:
        worlds, sure = self._worlds.at(seen.time_ns)
        found = self._fates(seen.packet, worlds)
        if not found or any(one.what == "unknown" for one in found):
            return None
        drops = [one for one in found if one.what == "dropped"]
        flow = seen.packet.flow
        bridged = _bridged(flow.iif, flow.dst.version, worlds)
        if vanished == "perhaps" and (
            bridged
            or not sure
            or len(drops) < len(found)
            or any(one.reason in _FLEETING for one in drops)
        ):
            return None
        if not drops:
            return _passed(found, piece=piece)
        alone = len(drops) == len(found)
        end = _dropped(drops)
        if bridged:
            return replace(end.adding(_OR_BRIDGED, ", "), sure=False)
        return replace(end, sure=sure and alone and end.sure)

    def _wherever(self, seen: LastSeen) -> End | None:
        """Of what would have been seen again if it had been for this host, and is not forwarded."""
        worlds, sure = self._worlds.at(seen.time_ns)
        flow = seen.packet.flow
        found = dict.fromkeys(wherever(one, seen.packet) for one in worlds)
        counted, untracked = self._counted_drops
        if (
            not found
            or UNKNOWN in found
            or counted == 0
            or _bridged(flow.iif, flow.dst.version, worlds)
        ):
            return None
        end = _dropped([*found])
        return replace(end, sure=sure and end.sure and bool(counted) and untracked == 0)

    @functools.cached_property
    def _counted_drops(self) -> tuple[int | None, int | None]:
        """How many packets were not forwarded, and how many connection tracking dropped; None: not known."""
        counts = Counts(self._recording, self._namespace)
        return counts.rise(_NOT_FORWARDED), counts.rise(_NOT_TRACKED)

    def _fates(self, packet: Arrived, worlds: list[World]) -> list[Fate]:
        """Of all moments that it may have been; packets of a flow share theirs."""
        found: dict[Fate, None] = {}
        for world in worlds:
            key = packet, world
            if key not in self._known:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[key] = fates(world, _unmerged(packet, world))
            found.update(dict.fromkeys(self._known[key]))
        return list(found)

    def _doubted(self, end: End, time_ns: int) -> End:
        """The same, where events were lost at that time."""
        if not self._lossy(time_ns):
            return end
        return replace(end.adding(_OR_LOST, ", "), sure=False)

    def _lossy(self, time_ns: int) -> bool:
        return not self._counted or any(first <= time_ns <= last for first, last in self._losses)


def _dropped(fates: list[Fate]) -> End:
    """By one of these; sure where all say the same."""
    first, *others = dict.fromkeys(
        End("recorded", one.reason, one.text, evidence=one.evidence) for one in fates
    )
    for one in others:
        alike = one.evidence and one.sentence == first.sentence
        first = first.adding(one.evidence if alike else one.text, " or ")
    return replace(first, sure=not others)


def _bridged(index: int, version: int, worlds: list[World]) -> bool:
    """Whether a bridge may have had in hand what of IP's version was at an interface."""
    return any(one.through_bridge(index, version) for one in worlds)


def _unmerged(packet: Arrived, world: World) -> Arrived:
    """What is longer than its interface takes was put together of several (GRO): their lengths nobody knows."""
    device = world.devices.get(packet.flow.iif)
    longest = None if device is None else device.mtu
    if packet.length is None or longest is None or packet.length <= longest:
        return packet
    return packet._replace(length=None)


def _answered(answer: Answer, packet: Traversal, hook: int) -> End | None:
    """What became of a packet that all rules let pass; ``hook``: its last one, whatever the file says."""
    if packet.verdict != "ACCEPT" or hook >= len(HOOKS):
        return None
    return _refused(answer, HOOKS[hook])


def _refused(answer: Answer, hook: str) -> End | None:
    """What an answer says of a packet that passed a hook last."""
    reason, what = _BEHIND.get(hook, {}).get(answer.name, ("", ""))
    if not reason:
        return None
    return End("recorded", reason, what, evidence=_said(answer), sure=answer.sure)


def _told(answer: Answer, family: str, vanished: Vanished) -> End | None:
    """An end that nothing but an answer tells."""
    reason = _REASONS.get(answer.name)
    if reason is None:
        return None if vanished == "surely" else _refused(answer, "INPUT")
    word = "IP_INNOROUTES" if family == "ipv6" and reason == "PROHIBIT" else reason
    return End("recorded", word, _WORDS[reason], evidence=_said(answer), sure=answer.sure)


def _said(answer: Answer) -> str:
    what = "with a RST" if answer.name == RST else answer.name
    whom = "" if answer.sure else f", about it or {answer.otherwise}"
    return f"this host answered {what} (#{answer.number}){whom}"


def _passed(found: list[Fate], *, piece: bool) -> End:
    """Routing lets it pass, and yet it was not seen again. ``piece``: it is a fragment."""
    ways = [
        f"delivered it ({one.text})" if one.what == "local" else f"forwarded it ({one.text})"
        for one in found
    ]
    waits = piece and all(one.what == "local" for one in found)
    rest = "where a fragment waits for the others" if waits else "what discarded it is not known"
    text = f"routing would have {' or '.join(dict.fromkeys(ways))}{', ' if waits else ': '}{rest}"
    return End("recorded", NOBODYS, text, sure=False)


def _unheard(packet: Traversal) -> End | None:
    header = packet.steps[-1].header
    if packet.verdict != "ACCEPT":
        return None
    port = f"{str(header.get('proto')).upper()} port {header.get('dport')}"
    evidence = f"none had {port} while this was recorded"
    # Its checksum may be bad as well.
    return End("recorded", "NO_SOCKET", "no socket took it", sure=False, evidence=evidence)
