"""What is in a recording, and how complete it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.answers.packets import Packets
from iptrec.answers.rules import last_tables
from iptrec.answers.untold import Untold
from iptrec.context.asked import Asked
from iptrec.context.counters import Counts
from iptrec.context.interfaces import Interfaces
from iptrec.decode import packet
from iptrec.decode.packet import protocol_name
from iptrec.names import AF_INET, AF_INET6, HOOKS, NFT_FAMILIES, OF_NFT
from iptrec.packets.identity import addressed, lengths, pair_keys, protocols
from iptrec.packets.outcome import after
from iptrec.recording.hosts import of_namespace
from iptrec.recording.rows import lost_events
from iptrec.rulesets.table_names import family_of
from iptrec.rulesets.targets import is_ours
from iptrec.rulesets.untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.selection import Selection
    from iptrec.context.counters import Rise
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U32, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.outcome import Outcome, Unordered
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.resolver import Book
    from iptrec.rulesets.untraced import Why


UNKNOWN: Final = "unknown"  # in the place of a protocol's name
_TALKERS: Final = 10
_PAIRS: Final = 100_000  # of addresses that are counted at a time
NOT_KNOWN: Final = ""  # in the place of an interface's name
_INPUT, _OUTPUT = HOOKS.index("INPUT"), HOOKS.index("OUTPUT")
_ELSEWHERE: Final = 2**32 - 1  # no interface has this index
_UNNAMED: Final[dict[int, str | None]] = {0: None, _ELSEWHERE: NOT_KNOWN}


@dataclass(slots=True)
class Talker:
    """Packets from one address to another, as they first were; ``bytes``: IP length."""

    src: str
    dst: str
    packets: int = 0
    bytes: int = 0


class UntracedChain(NamedTuple):
    """A base chain of nf_tables that packets may pass untraced, and why: see `rulesets.untraced`."""

    family: str
    table: str
    chain: str
    why: Why


class Questions(NamedTuple):
    """About how many kinds of packets the kernel was asked for their way, and about how many it was not.

    ``not_looked_at``: events among which nobody looked for such packets.
    """

    questions: int = 0
    not_asked: int = 0
    not_looked_at: int = 0


_NO_QUESTIONS: Final = Questions()


@dataclass(slots=True)
class Summary:
    """Counts over the whole recording, but for those of selected packets.

    ``selected``: how many these are, None where all were asked for; ``unjudged``: of how many more the filter
    does not know. Theirs are ``verdicts``, ``protocols``, ``interfaces``, ``talkers``, ``ends``,
    ``doubtful_ends``, ``vanished`` and ``unordered``.

    ``events + lost`` is what the kernel sent while we recorded. ``packets`` are traversals, of which ``copies``
    were made in the midst of another one's way, by a bridge or by IP, ``incomplete`` were not seen from their
    first rule to their end and ``ambiguous`` could be put together in more than one way; ``unread`` have a step
    of which nobody knows the rule's text, or whether it is a rule or the end of its chain. ``orphans`` are
    events that name no rule. ``interfaces``: by the pair that packets came in and went out by, None for this
    host, `NOT_KNOWN` where they were not seen to leave or to come. ``talkers``: the pairs of addresses with the
    most packets; ``talkers_exact`` is False where there were more pairs than are counted.

    ``untold``: how many packets at least nf_tables told nothing of, see `untold`.
    ``closed``: the recorder ended cleanly. ``uncounted``: losses of which nobody knows how many events they
    are, and times without tracing; ``countable`` is False where losses could not be seen (imported captures).
    ``untraced``: base chains that packets may pass untraced. ``rules``: how many there were in the end.
    ``ends``: packets that the kernel dropped behind the rules, by its reasons; ``doubtful_ends``: of how many
    others that, or the reason, is in doubt; ``disagree``: of how many the rules tell one end and the kernel
    another one.
    ``vanished``: how many packets were not seen after PREROUTING, by their last table and hook; ``asked``:
    about which the kernel was asked. ``unordered``: how many packets passed chains of both backends of which
    nobody knows which came first, by the hook and these chains. ``discards``: the
    counters of discarded packets that rose, by namespace.
    """

    events: int = 0
    lost: int = 0
    uncounted: int = 0
    countable: bool = True
    closed: bool = True
    packets: int = 0
    copies: int = 0
    incomplete: int = 0
    ambiguous: int = 0
    orphans: int = 0
    unread: int = 0
    untold: int = 0
    selected: int | None = None
    unjudged: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    protocols: dict[str, int] = field(default_factory=dict)
    interfaces: dict[tuple[str | None, str | None], int] = field(default_factory=dict)
    talkers: list[Talker] = field(default_factory=list)
    talkers_exact: bool = True
    rules: int = 0
    untraced: list[UntracedChain] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    doubtful_ends: int = 0
    disagree: int = 0
    vanished: dict[str, int] = field(default_factory=dict)
    asked: Questions = _NO_QUESTIONS
    unordered: dict[Unordered, int] = field(default_factory=dict)
    discards: dict[int, list[Rise]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether it is known that no event or packet is missing, and every trace is whole and certain."""
        missing = self.lost or self.uncounted or not (self.countable and self.closed)
        missing = missing or any(one.why != "beside" for one in self.untraced)
        return not (missing or self.incomplete or self.ambiguous or self.orphans or self.untold)


def summarize(reader: Recording, selection: Selection | None = None) -> Summary:
    """Go through the whole recording once; of what is of selected packets see `Summary`."""
    losses = lost_events(reader)
    summary = Summary(
        lost=sum(loss.events or 0 for loss in losses),
        uncounted=sum(loss.events is None for loss in losses),
        countable=all(one.detail.get("sequence") is not False for one in reader.streams),
        closed=reader.facts.closed,
    )
    verdicts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    vanished: Counter[str] = Counter()
    unordered: Counter[Unordered] = Counter()
    traffic, untold = _Traffic(reader), Untold(reader)
    books: dict[int, Book] = {}
    packets = Packets(reader, selection)
    for batch in packets.batches(objects=False):
        window, positions = batch.window, batch.positions
        books[window.stream.id] = window.resolver
        traffic.add(window, positions)
        untold.add(window)
        assembly, decided = window.assembly, window.decided
        for one, count in _each(assembly, positions):
            verdicts[one.verdict] += count
            if one.death is not None:
                ends[one.death.reason] += count if one.death.sure else 0
                summary.doubtful_ends += 0 if one.death.sure else count
            if place := _left_after(one, window.resolver):
                vanished[place] += count
            unordered.update(dict.fromkeys(one.unordered, count))
        for one, count in _each(assembly, np.arange(decided)):
            summary.incomplete += 0 if one.complete else count
            summary.ambiguous += 0 if one.doubt is None else count
            summary.unread += count if _unread(one, window.resolver) else 0
        summary.packets += decided
        summary.copies += int(np.count_nonzero(assembly.origins()[:decided] >= 0))
        summary.disagree += window.disagree
        summary.orphans += len(window.unplaced) + len(window.unread)
        summary.events += len(window.rows()) + len(window.unplaced) + len(window.unread)
        summary.events += assembly.ours
    if selection is not None:
        summary.selected, summary.unjudged = packets.count, packets.unjudged
    summary.rules = sum(map(_rules, books.values()))
    summary.untraced = [chain for one in books.values() for chain in _untraced(one)]
    summary.untraced += passed_before(reader)
    summary.verdicts = dict(verdicts.most_common())
    summary.ends = dict((+ends).most_common())
    summary.vanished = dict(vanished.most_common())
    summary.unordered = dict(unordered.most_common())
    summary.asked = _questions(reader)
    summary.untold = untold.count
    summary.discards = {
        one.id: rises
        for one in reader.namespaces
        if (rises := Counts(of_namespace(reader, one.id), one.id).rose())
    }
    traffic.tell(summary)
    return summary


def _each(assembly: Assembly, positions: I64) -> Iterator[tuple[Outcome, int]]:
    """The outcomes of some traversals, and how many have each."""
    numbers, counts = np.unique(assembly.outcome[positions], return_counts=True)
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        yield assembly.outcomes[number], count


def _unread(outcome: Outcome, book: Book) -> bool:
    """Whether nobody knows all that a packet met: rules changed before they were read."""
    places = (book.places[one] for one in outcome.path)
    return any(one.rule is None and not (one.end or one.ours) for one in places)


def _left_after(outcome: Outcome, book: Book) -> str | None:
    """The table and hook at PREROUTING after which packets were routed and not seen again."""
    return after(book, outcome.path[-1]) if outcome.unrouted else None


def _questions(recording: Recording) -> Questions:
    """Of all namespaces."""
    found = [Asked(of_namespace(recording, one.id), one.id) for one in recording.namespaces]
    return Questions(
        sum(one.questions for one in found),
        sum(one.unasked for one in found),
        sum(one.unseen for one in found),
    )


def _rules(book: Book) -> int:
    """How many rules there were in the end, but for ours."""
    return sum(
        not is_ours(rule, book.our_comment)
        for _, _, chains in last_tables(book)
        for chain in chains.values()
        for rule in chain.rules
    )


def _untraced(book: Book) -> Iterator[UntracedChain]:
    """The base chains of a stream's ruleset that packets may pass untraced."""
    known = book.timelines
    bases = {(family_of(table, family), table, chain) for family, table, chain in known.hooks}
    for place, why in untraced(known, book.our_comment).items():
        if place in bases or why == "above":
            yield UntracedChain(*place, why)


def passed_before(recording: Recording) -> Iterator[UntracedChain]:
    """The chains of nf_tables that a recorder of legacy iptables alone saw before its own rules."""
    for stream in recording.streams:
        told = stream.detail.get("passed_before")
        for one in told if isinstance(told, list) else ():
            match one:
                case [str(family), str(table), str(chain)] if family in NFT_FAMILIES:
                    whose: str = OF_NFT.get(family, family)
                    yield UntracedChain(whose, f"{family} {table}", chain, "before")


class _Traffic:
    """What kind of packets there were, by their first and last events."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._names: dict[int, Interfaces] = {}
        self._protocols: Counter[int] = Counter()
        self._interfaces: Counter[tuple[str | None, str | None]] = Counter()
        self._talkers: dict[int, Talker] = {}
        self._exact = True

    def add(self, window: Window, positions: I64) -> None:
        """Count some of a window's packets."""
        assembly = window.assembly
        begun = assembly.rows[assembly.first[positions]]
        ended = assembly.rows[assembly.first[positions] + assembly.count[positions] - 1]
        first, last = window.events.take(begun), window.events.take(ended)
        numbers, counts = np.unique(protocols(first), return_counts=True)
        self._protocols.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        self._add_interfaces(
            window,
            _or_not_known(first.indev, first.hook == _OUTPUT),
            _or_not_known(last.outdev, last.hook == _INPUT),
            window.moment_ns[begun],
        )
        self._add_talkers(first)

    def tell(self, summary: Summary) -> None:
        """Put it into the summary, the most first."""
        summary.protocols = {
            protocol_name(number) if number >= 0 else UNKNOWN: count
            for number, count in self._protocols.most_common()
        }
        summary.interfaces = dict(self._interfaces.most_common())
        ranked = sorted(self._talkers.values(), key=lambda one: (-one.packets, one.src, one.dst))
        summary.talkers = ranked[:_TALKERS]
        summary.talkers_exact = self._exact

    def _add_interfaces(
        self,
        window: Window,
        indev: U32,
        outdev: U32,
        time_ns: I64,
    ) -> None:
        namespace = window.stream.namespace
        if namespace not in self._names:
            own = of_namespace(self._recording, namespace)
            self._names[namespace] = Interfaces(own, namespace)
        names = self._names[namespace]
        pairs = indev.astype(np.uint64) << np.uint64(32) | outdev
        distinct, where, counts = np.unique(pairs, return_index=True, return_counts=True)
        for pair, at, count in zip(distinct.tolist(), where.tolist(), counts.tolist(), strict=True):
            inside, outside = (
                _UNNAMED[index] if index in _UNNAMED else names.name(index, int(time_ns[at]))
                for index in (pair >> 32, pair & 0xFFFFFFFF)
            )
            self._interfaces[inside, outside] += count

    def _add_talkers(self, first: TraceEvents) -> None:
        first = first.take(addressed(first))
        keys = pair_keys(first)
        distinct, where, inverse = np.unique(keys, return_index=True, return_inverse=True)
        counts = np.bincount(inverse, minlength=len(distinct)).tolist()
        sizes = np.bincount(inverse, lengths(first), len(distinct)).tolist()
        for key, at, count, size in zip(
            distinct.tolist(), where.tolist(), counts, sizes, strict=True
        ):
            if key not in self._talkers:
                family = AF_INET6 if first.ipv6[at] else AF_INET
                header = packet.header(first.packet(at), family)
                self._talkers[key] = Talker(str(header["src"]), str(header["dst"]))
            self._talkers[key].packets += count
            self._talkers[key].bytes += int(size)
        if len(self._talkers) > _PAIRS:
            self._exact = False
            kept = sorted(self._talkers.items(), key=lambda one: -one[1].packets)[: _PAIRS // 2]
            self._talkers = dict(kept)


def _or_not_known(device: U32, here: Mask) -> U32:
    """The interfaces' indexes; `_ELSEWHERE` where there is none, and the packet was not seen here, either."""
    return np.where((device == 0) & ~here, np.uint32(_ELSEWHERE), device)
