"""Which rule of a ruleset a text is of, where no handle is told.

Equal texts may stand several times in a chain. Then the order tells: behind a rule come only later ones of its
chain, until the packet leaves it. What that leaves open stays open.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from iptrec.decode.nftrace import ACCEPT, DROP, GOTO, QUEUE, RETURN, STOLEN
from iptrec.decode.rulesets import nft_objects, nft_text
from iptrec.decode.rulesets.types import SEVERAL, UNTOLD
from iptrec.pasted import nft_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.pasted.nft_events import Event

Names = tuple[str, str, str]  # family, table, chain
_MOST_TRACES: Final = 1 << 14  # ids whose chains are remembered
_MOST_WAITING: Final = 1 << 12  # events
_MOST_TEXTS: Final = 1 << 16
_LAST: Final = frozenset({ACCEPT, DROP, STOLEN, QUEUE})  # of a base chain's events
_LEAVES: Final = frozenset({RETURN, GOTO})  # the chain that it is in


@dataclass(slots=True)
class Listed:
    """The rules of a ruleset as nft printed it, in order: handle and normal text, by chain.

    ``numbered``: it has no handles, and the numbers of its lines are in their place.
    """

    chains: dict[Names, list[tuple[int, str]]] = field(default_factory=dict)
    numbered: bool = False

    @classmethod
    def of(cls, text: bytes) -> Listed:
        """Of what ``nft list ruleset`` printed; without handles (-a) rules have numbers in their place."""
        found = cls(numbered=not nft_objects.has_handles(text))
        text = nft_objects.numbered(text)
        specs, _ = nft_text.texts(text)
        for one in nft_text.objects(text, specs):
            if chain := one.get("chain"):
                found.chains.setdefault((chain["family"], chain["table"], chain["name"]), [])
            elif rule := one.get("rule"):
                names = rule["family"], rule["table"], rule["chain"]
                spec = specs.get((rule["family"], rule["table"], rule["handle"]), "")
                found.chains.setdefault(names, []).append((rule["handle"], nft_words.normal(spec)))
        return found


@dataclass(slots=True)
class _Slot:
    """An event that may wait; ``places``: which rules of its chain it may be of."""

    event: Event
    places: Sequence[int] = ()
    done: bool = True


@dataclass(slots=True)
class _Visit:
    """A packet in a chain: what was told of it there, in order."""

    names: Names
    slots: list[_Slot] = field(default_factory=list)


class Handles:
    """Gives events the handles of their rules.

    ``listed``: None where no ruleset was given. ``texts``: chain and text of rules of which the place is not
    known, by family, table, and handle or a number from `types.UNTOLD` on. ``ambiguous``: events of rules
    whose text stands elsewhere in the chain as well; ``unlisted``: of rules that the ruleset does not have.
    """

    def __init__(self, listed: Listed | None) -> None:
        self._listed = listed
        self._visits: OrderedDict[int, list[_Visit]] = OrderedDict()
        self._waiting: deque[_Slot] = deque()
        self._places: dict[tuple[Names, str], list[int]] = {}
        self._numbers: dict[tuple[Names, str], int] = {}
        self.texts: dict[tuple[str, str, int], tuple[str, str]] = {}
        self.ambiguous = self.unlisted = 0

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event; those that are done, in order."""
        if self._listed is not None and self._listed.numbered and event.handle is not None:
            # The kernel's number is none of the listing's.
            event = replace(event, handle=None, text=event.text or f"handle {event.handle}")
        names = event.family, event.table, event.chain
        slot = _Slot(event)
        visits = self._visits.setdefault(event.trace, [])
        self._visits.move_to_end(event.trace)
        if event.packet is not None:
            self._leave(visits, 0)
        depth = next((at for at, one in enumerate(visits) if one.names == names), None)
        if depth is None:
            if visits and visits[0].names[:2] != names[:2]:
                self._leave(visits, 0)
            visits.append(_Visit(names))
        else:
            self._leave(visits, depth + 1)
        if not event.policy and not event.end:
            slot.places = self._candidates(names, event)
            slot.done = event.handle is not None
            self._note(names, slot)
            visits[-1].slots.append(slot)
        if event.policy or event.verdict in _LAST:
            self._leave(visits, 0)
        elif event.end or event.verdict in _LEAVES:
            self._leave(visits, len(visits) - 1)
        self._waiting.append(slot)
        if len(self._visits) > _MOST_TRACES:
            self._leave(self._visits.popitem(last=False)[1], 0)
        if len(self._waiting) > _MOST_WAITING:
            self._leave(self._visits.get(self._waiting[0].event.trace, []), 0)
        yield from self._ready()

    def finish(self) -> Iterator[Event]:
        """Those that are left."""
        for visits in self._visits.values():
            self._leave(visits, 0)
        yield from self._ready()

    def placeless(self) -> bytes:
        """The rules of ``texts`` as nft -a lists them."""
        chains: dict[Names, list[str]] = {}
        for (family, table, number), (chain, text) in self.texts.items():
            line = f"\t\t{nft_words.normal(text)} # handle {number}"
            chains.setdefault((family, table, chain), []).append(line)
        lines = []
        for (family, table, chain), rules in chains.items():
            lines += [f"table {family} {table} {{", f"\tchain {chain} {{", *rules, "\t}", "}"]
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    def _ready(self) -> Iterator[Event]:
        while self._waiting and self._waiting[0].done:
            yield self._waiting.popleft().event

    def _leave(self, visits: list[_Visit], depth: int) -> None:
        """Packets come no more to the chains from a depth on, as they were called."""
        while len(visits) > depth:
            self._resolve(visits.pop())

    def _resolve(self, visit: _Visit) -> None:
        rules = self._rules(visit.names)
        for slot, place in zip(
            visit.slots, _placed([one.places for one in visit.slots]), strict=True
        ):
            if slot.done:
                continue
            slot.done = True
            if place is not None:
                slot.event = replace(slot.event, handle=rules[place][0])
                continue
            self.ambiguous += bool(slot.places)
            self.unlisted += not slot.places and self._listed is not None
            text = slot.event.text or ""
            number = self._number(visit.names, text, SEVERAL if slot.places else UNTOLD)
            slot.event = replace(slot.event, handle=number)

    def _rules(self, names: Names) -> list[tuple[int, str]]:
        return [] if self._listed is None else self._listed.chains.get(names, [])

    def _candidates(self, names: Names, event: Event) -> list[int]:
        """The places in the chain that an event may be of."""
        if event.handle is not None:
            return [
                at for at, (handle, _) in enumerate(self._rules(names)) if handle == event.handle
            ]
        key = names, event.text or ""
        if key not in self._places:
            if len(self._places) >= _MOST_TEXTS:
                self._places.clear()
            text, rules = nft_words.normal(key[1]), self._rules(names)
            found = [at for at, (_, one) in enumerate(rules) if one == text]
            if not found:
                found = [at for at, (_, one) in enumerate(rules) if nft_words.alike(one, text)]
            self._places[key] = found
        return self._places[key]

    def _note(self, names: Names, slot: _Slot) -> None:
        """Keep the text that is told with a handle, where the ruleset does not have that."""
        event = slot.event
        if not slot.places and event.handle is not None and event.text is not None:
            key = *names[:2], event.handle
            if len(self.texts) < _MOST_TEXTS:
                self.texts.setdefault(key, (names[2], event.text))

    def _number(self, names: Names, text: str, least: int) -> int:
        """A number for a text, from ``least`` on."""
        key = names, nft_words.normal(text)
        if key not in self._numbers and len(self._numbers) < _MOST_TEXTS:
            self._numbers[key] = least + len(self._numbers)
            self.texts[*names[:2], self._numbers[key]] = names[2], text
        return self._numbers.get(key, least + _MOST_TEXTS)


def _placed(places: list[Sequence[int]]) -> list[int | None]:
    """The place of each of some events in one chain, None where several are possible.

    Each is behind the one before; those that are of no known place say nothing.
    """
    earliest: list[int] = []
    least = -1
    for some in places:
        least = min((one for one in some if one > least), default=least)
        earliest.append(least)
    latest: list[int] = []
    most = 1 << 62
    for some in reversed(places):
        most = max((one for one in some if one < most), default=most)
        latest.append(most)
    found: list[int | None] = []
    for some, low, high in zip(places, earliest, reversed(latest), strict=True):
        left = [one for one in some if low <= one <= high]
        found.append(left[0] if len(left) == 1 else None)
    return found
