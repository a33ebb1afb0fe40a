"""What an importer hands over, and what text becomes one: in order, event by event.

A source is read once, from its beginning to its end; what it holds is not kept. Names of interfaces, and what
is to be said of it, are whole behind the last event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.pasted.rulesets import Made
    from iptrec.pcap.capture import Captured

_MOST_NAMES: Final = 1 << 16  # interfaces of one file; more are no names
_MOST_LOST: Final = 4096
_LONGEST_NAME: Final = 15  # bytes: IFNAMSIZ, with its NUL


class Lost(NamedTuple):
    """What is missing between two times (epoch, ns); ``events``: None where they are not counted.

    ``how``: of `recording.rows.Loss`.
    """

    first_ns: int
    last_ns: int
    events: int | None
    how: str


def lose(lost: list[Lost], one: Lost) -> None:
    """Add what is missing; where there are very many, the last ones become one."""
    if len(lost) < _MOST_LOST:
        lost.append(one)
        return
    last = lost[-1]
    known = None if last.events is None or one.events is None else last.events + one.events
    first_ns, last_ns = min(last.first_ns, one.first_ns), max(last.last_ns, one.last_ns)
    lost[-1] = Lost(first_ns, last_ns, known, last.how)


class Source(Protocol):
    """An open source: an iterator over what it holds, in order.

    ``kind``: of the stream, see `kinds.STREAMS`. ``detail``: of the stream, what readers are told of it:
    ``sequence`` False, and of a text ``source`` (its name, such as "kernel-log"), ``rebuilt`` True, ``untold``
    (header fields, by the names of `decode.packet.header`, that no line tells and that no answer shows), and
    ``times`` (see `prefixes`). It is whole when the first event is there. ``snaplen``: bytes of each packet.
    ``damage``: where it broke off, "" if it was read to its end. ``links``: index and name of each
    interface. ``lost``: see `Lost`. ``remarks``: phrases for the user.
    """

    kind: str

    @property
    def detail(self) -> dict[str, Any]:
        """Of the stream."""

    @property
    def snaplen(self) -> int:
        """Bytes of each packet."""

    @property
    def damage(self) -> str:
        """Where it broke off."""

    @property
    def links(self) -> Mapping[int, str]:
        """Names of interfaces by index."""

    @property
    def lost(self) -> Sequence[Lost]:
        """What it says is missing."""

    @property
    def rulesets(self) -> Sequence[Made]:
        """Snapshots of rules that it tells itself, with those of files."""

    @property
    def remarks(self) -> Sequence[str]:
        """Phrases for the user."""

    def __iter__(self) -> Iterator[Captured]:
        """All events, in the order of the source."""


@dataclass(slots=True)
class Interfaces:
    """Indexes for the names of interfaces: those that are known, then in the order in which they come."""

    known: dict[str, int] = field(default_factory=lambda: {"lo": 1})
    met: dict[int, str] = field(default_factory=dict)

    def index(self, name: str) -> int:
        """Of an interface; 0 for the empty name, which is none, and for what can be no name."""
        if not name or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
            return 0
        found = self.known.get(name)
        if found is None:
            if len(self.known) >= _MOST_NAMES:
                return 0
            found = self.known[name] = max(self.known.values(), default=0) + 1
        self.met.setdefault(found, name)
        return found


class Text(Protocol):
    """A kind of text: what recognises a line of it, and what reads it."""

    name: str  # as --from has it
    title: str  # as messages have it

    def is_line(self, line: bytes) -> bool:
        """Whether a line is one of an event of this kind."""

    def read(self, lines: Iterable[bytes], given: Given) -> Source:
        """The source that these lines are."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user gave beside a text.

    ``links``: indexes by name. ``rulesets``: contents by the kind of snapshot. ``changed_ns``: when the file
    was last changed, or now (epoch, ns): what completes times without a year.
    """

    links: Mapping[str, int]
    rulesets: Mapping[str, bytes]
    changed_ns: int
