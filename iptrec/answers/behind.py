"""What became of packets behind the rules, where anything is known of it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from iptrec.answers.answered import Answers
from iptrec.answers.explained import explained, is_of_routing
from iptrec.answers.received import Received
from iptrec.answers.unheard import Unheard
from iptrec.context.asked import Asked
from iptrec.packets.asked import AskedEnds
from iptrec.packets.drop_words import NETFILTER
from iptrec.packets.ends import Ending
from iptrec.packets.outcome import PERHAPS
from iptrec.rulesets.unmet import unmet

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.answers.ends import Ends
    from iptrec.answers.selection import Selection
    from iptrec.context.interfaces import Interfaces
    from iptrec.context.sockets import Sockets
    from iptrec.names import I64, Mask
    from iptrec.packets.ends import End
    from iptrec.packets.model import Traversal
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.relations import Relations
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.unmet import Unmet


def load() -> None:
    """Load what is loaded when it is needed, for a process that may not be able to read it later."""
    from iptrec.answers import ends, malformed  # noqa: F401, PLC0415


class Behind:
    """Follows the windows of one stream, and answers for the latest."""

    def __init__(
        self, recording: Recording, namespace: int, interfaces: Interfaces, sockets: Sockets
    ) -> None:
        self._recording = recording
        self._namespace = namespace
        self._interfaces = interfaces
        self._asked = AskedEnds(Asked(recording, namespace))
        self._no_socket = Unheard(sockets)
        self._received = Received(recording, namespace, interfaces, sockets)

    def next_window(self, window: Window, relations: Relations) -> None:
        """Go on to the next window, where ``relations`` are."""
        self._window = window
        self._asked.update()
        self._received.next_window(window)
        self._relations = relations
        self._ahead: dict[int, list[Unmet]] = {}
        self._answered: Answers | None = None
        self._alone: set[int] | None = None

    def odd(self, positions: I64) -> Mask:
        """Which traversals at some positions of the window have ends that may differ from each other's."""
        assembly = self._window.assembly
        gone = np.array([_is_routed(one) for one in assembly.outcomes], np.bool_)
        if gone.any() and not self._asked and self._ends.alike:
            gone[:] = False
        gone |= np.array([bool(self._unmet(one)) for one in assembly.outcomes], np.bool_)
        told = [*self._answers().positions, *self._unheard(), *self._received.positions]
        odd: Mask = gone[assembly.outcome[positions]] | np.isin(positions, told)
        return odd

    def chosen(self, selection: Selection, positions: I64, told: Callable[[int], Ending]) -> I64:
        """The positions of those that are selected by their ends.

        ``told``: what is told of the packet at a position; asked only where nothing else tells its end.
        """
        if not selection.reasons:
            return positions
        assembly = self._window.assembly
        outcome = assembly.outcome[positions]
        deaths = [one.death for one in assembly.outcomes]
        sure = np.array([one is not None and one.sure for one in deaths], np.bool_)
        kept: Mask = np.array([selection.ended_so(one) for one in deaths], np.bool_)[outcome]
        asked = np.flatnonzero(self.odd(positions) & ~sure[outcome])
        kept[asked] = [selection.ended_so(told(one).end) for one in positions[asked].tolist()]
        return positions[kept]

    def ended(self, position: int, packet: Traversal) -> Ending:
        """What is told of the packet at a position of the window; its first and its last step are enough."""
        assembly = self._window.assembly
        outcome = assembly.outcomes[assembly.outcome[position]]
        malformed = self._malformed(outcome, position, packet)
        answer, alone = self._answers().of(position), position in self._unheard()
        if packet.end is not None and packet.end.sure:
            sure = replace(packet.end, evidence=malformed) if malformed else packet.end
            return Ending(self._explained(position, packet, sure), packet.reason)
        if malformed is not None:
            return _ending(None, malformed, outcome.doubt)
        if outcome.vanished is None and answer is None:
            perhaps = packet.end or self._received.end(position, packet)
            if perhaps is not None or not alone:
                return Ending(perhaps, packet.reason)
        end = self._ends.of(self._window, position, packet, answer, alone=alone)
        if outcome.unrouted:
            asked = self._asked_about(outcome, position, packet)
            unsure = outcome.vanished == "surely" and answer is None
            end = _better(asked, end, unsure=unsure)
        reason = outcome.reason
        if outcome.vanished is not None and reason is not None:
            reason = self._ends.reason(self._window, position, reason, end)
        return _ending(end or packet.end, reason, outcome.doubt)

    def _malformed(self, outcome: Outcome, position: int, packet: Traversal) -> str | None:
        """Which matches of rules may have dropped it, where that can be why nothing more was seen."""
        rules = self._unmet(outcome)
        if not rules:
            return None
        from iptrec.answers.malformed import dropped_by_match  # noqa: PLC0415 - loads all matches

        return dropped_by_match(self._window, position, packet, rules)

    def _unmet(self, outcome: Outcome) -> list[Unmet]:
        """The rules of legacy iptables whose matches may have dropped packets: each is asked which one did."""
        dropped = outcome.death is not None and outcome.death.reason == NETFILTER
        book, last = self._window.resolver, outcome.path[-1]
        if (outcome.complete and not dropped) or book.backends[last].name != "legacy":
            return []
        if last not in self._ahead:
            self._ahead[last] = list(unmet(book.grammars[last], book.places[last]))
        return self._ahead[last]

    def _explained(self, position: int, packet: Traversal, end: End) -> End:
        """What the kernel said as it happened, and why it is so."""
        if not is_of_routing(end.where):
            return end
        return explained(end, self._ends.routed(self._window, position, packet))

    def _asked_about(self, outcome: Outcome, position: int, packet: Traversal) -> End | None:
        """What the kernel answered about a packet that it was to route: of one without a way of its own."""
        from iptrec.answers.last_seen import has_source_route  # noqa: PLC0415 - loads all matches

        row = int(self._window.assembly.events(position)[-1])
        if has_source_route(self._window.events.packet(row)) is not False:
            return None
        indev = int(self._window.events.indev[row])
        last = packet.steps[-1]
        bridged = last.physin is not None or self._ends.bridged(indev, packet.family, last.time_ns)
        return self._asked.of(self._window.resolver, outcome.path, last, indev, bridged=bridged)

    def _answers(self) -> Answers:
        if self._answered is None:
            self._answered = Answers(self._window, self._relations)
        return self._answered

    def _unheard(self) -> set[int]:
        if self._alone is None:
            found = self._no_socket.positions(self._window)
            # Who has sent before has a socket: of TCP two SYNs may meet.
            self._alone = (
                set(found[~self._relations.replies(found)].tolist()) if len(found) else set()
            )
        return self._alone

    @functools.cached_property
    def _ends(self) -> Ends:
        from iptrec.answers.ends import Ends  # noqa: PLC0415 - loads all that is known of routes

        return Ends(self._recording, self._namespace, self._interfaces)


def _is_routed(outcome: Outcome) -> bool:
    """Whether routing may be why its packets ended, which each has to be asked for."""
    death = outcome.death
    return outcome.vanished is not None or (death is not None and is_of_routing(death.where))


def _ending(end: End | None, *doubts: str | None) -> Ending:
    """An end, and what is in doubt: beside one that is sure nothing says perhaps."""
    told = "; ".join(filter(None, doubts)) or None
    if told is not None and end is not None and end.sure:
        told = told.replace(PERHAPS, "")
    return Ending(end, told)


def _better(asked: End | None, recorded: End | None, *, unsure: bool) -> End | None:
    """The kernel's own answer, with what explains it.

    ``unsure``: whether an answer is told that may have been about another moment; not where what was recorded
    is sure.
    """
    if asked is None or (not asked.sure and not unsure):
        return recorded
    if recorded is None or not recorded.sure:
        return asked
    return explained(asked, recorded) if asked.sure else recorded
