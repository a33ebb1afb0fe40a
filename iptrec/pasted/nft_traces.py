"""Text of nft monitor trace and of xtables-monitor --trace, as the datagrams of nf_tables that it is of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.pasted import nft_monitor, nft_saved, xtables_monitor
from iptrec.pasted.nft_chains import Ends
from iptrec.pasted.nft_events import Event, datagram
from iptrec.pasted.nft_monitor import Unread
from iptrec.pasted.nft_rules import Handles, Listed
from iptrec.pasted.nft_versions import Versions
from iptrec.pasted.nft_wrapped import straightened, unwrapped
from iptrec.pasted.prefixes import Times
from iptrec.pasted.rulesets import NFT_JSON, NFT_PASTED, NFT_TEXT, Made, saved_alone
from iptrec.pasted.sources import Interfaces, Lost, lose
from iptrec.pcap.capture import Captured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.pasted.nft_saved import Told
    from iptrec.pasted.sources import Given

_BEGINS: Final = re.compile(r"\b(?:trace id [0-9a-f]|PACKET: \d|TRACE: \d)")
_LEARNED: Final = "iptables-nft-save, and handles of the trace"
_OWN: Final = "the text itself"
_MOST_TOLD: Final = 1 << 12  # chains, and rules of each, of which handles are kept
_SNAPLEN: Final = 60  # bytes: 40 of the network header, 20 of the transport's
_UNTOLD: Final = ("csum", "seq", "ack", "frag", "mf", "ext", "mark of rules")
_UNTOLD_BY_XTABLES: Final = ("csum", "seq", "ack", "window", "mark")

_Monitor = nft_monitor.Monitor | xtables_monitor.Monitor


class NftMonitor:
    """The kind of text; a `sources.Text`."""

    name = "nft-monitor"
    title = "lines of nft monitor trace"

    def is_line(self, line: bytes) -> bool:
        """Whether it has an event of a trace."""
        return nft_monitor.is_line(_text(line))

    def read(self, lines: Iterable[bytes], given: Given) -> Traces:
        """The source."""
        listed = _listed(given)
        known = listed.chains if listed else {}
        monitor = nft_monitor.Monitor(known)
        return Traces(unwrapped(lines), given, monitor, listed, self.name, _UNTOLD)


class XtablesMonitor:
    """The kind of text; a `sources.Text`."""

    name = "xtables-monitor"
    title = "lines of xtables-monitor --trace"

    def is_line(self, line: bytes) -> bool:
        """Whether it has an event of a trace."""
        return xtables_monitor.is_line(_text(line))

    def read(self, lines: Iterable[bytes], given: Given) -> Traces:
        """The source."""
        monitor = xtables_monitor.Monitor()
        return Traces(lines, given, monitor, _listed(given), self.name, _UNTOLD_BY_XTABLES)


class Traces:
    """Events of the lines; a `sources.Source`."""

    kind = "nftrace"
    snaplen = _SNAPLEN
    damage = ""

    def __init__(
        self,
        lines: Iterable[bytes],
        given: Given,
        monitor: _Monitor,
        listed: Listed | None,
        source: str,
        untold: tuple[str, ...],
    ) -> None:
        self.detail: dict[str, Any] = {}
        self.lost: list[Lost] = []
        self._lines = lines
        self._names = Interfaces(dict(given.links) or {"lo": 1})
        self._times = Times(given.changed_ns)
        self._monitor = monitor
        self._versions = Versions()
        self._ends = Ends()
        self._handles = Handles(listed)
        self._facts = {"source": source, "untold": list(untold)}
        self._unread = 0
        self._saved = saved_alone(given.rulesets)
        self._rules: Told = {}
        self._last_ns = 0

    @property
    def links(self) -> Mapping[int, str]:
        """Index and name of each interface that was met."""
        return self._names.met

    @property
    def rulesets(self) -> list[Made]:
        """Rules without a place, and a listing with the handles that were told for iptables-nft-save."""
        made = []
        if self._handles.texts:
            made.append(Made(NFT_PASTED, _OWN, self._handles.placeless()))
        if self._saved:
            listing = nft_saved.listing(self._saved, self._rules)
            made.append(Made(NFT_JSON, _LEARNED, listing, "json"))
        return made

    @property
    def remarks(self) -> list[str]:
        """What the user is told beside the number of events."""
        said = []
        handles, monitor = self._handles, self._monitor
        if self._unread:
            said.append(f"{counted(self._unread, 'line')} could not be read (cut off?)")
        if handles.unlisted:
            said.append(
                f"{counted(handles.unlisted, 'event')} of rules that the ruleset does not have"
            )
        if handles.ambiguous:
            said.append(
                f"{counted(handles.ambiguous, 'event')} of rules whose text stands more than once in"
                " the chain: which one it was is not known (nft -a monitor trace tells it)"
            )
        if isinstance(monitor, xtables_monitor.Monitor) and monitor.guessed:
            said.append(
                f"{counted(monitor.guessed, 'line')} with ports and no protocol taken for UDP"
            )
        return said

    def __iter__(self) -> Iterator[Captured]:
        for line in self._lines:
            text = _text(line)
            begins = _BEGINS.search(text)
            time_ns = self._times.of(text[: begins.start()].encode()) if begins else self._last_ns
            if not self.detail:
                self.detail = {
                    "group": 9, "sequence": False, "rebuilt": True, **self._facts, "times": self._times.told(),
                }  # fmt: skip
            yield from self._told(self._monitor.feed(text, time_ns), time_ns)
            self._last_ns = time_ns
        yield from self._told(self._monitor.finish(), self._last_ns)
        yield from self._placed(self._versions.finish())
        yield from self._captured(self._handles.finish())

    def _told(
        self, found: Iterable[Event | nft_monitor.Lost | Unread], time_ns: int
    ) -> Iterator[Captured]:
        for one in found:
            if isinstance(one, Event):
                if self._saved:
                    self._learn(one)
                yield from self._placed(self._versions.feed(one))
            elif isinstance(one, Unread):
                self._unread += 1
                lose(self.lost, Lost(time_ns, time_ns, 1, "truncated"))
            else:
                lose(self.lost, Lost(self._last_ns, time_ns, None, "enobufs"))

    def _placed(self, events: Iterable[Event]) -> Iterator[Captured]:
        for one in events:
            for event in self._ends.feed(one):
                yield from self._captured(self._handles.feed(event))

    def _learn(self, event: Event) -> None:
        """Keep a rule's handle and text, and that there is a chain."""
        names = event.family, event.table, event.chain
        if names in self._rules or len(self._rules) < _MOST_TOLD:
            rules = self._rules.setdefault(names, {})
            if event.handle is not None and event.text is not None and len(rules) < _MOST_TOLD:
                rules[event.handle] = event.text

    def _captured(self, events: Iterable[Event]) -> Iterator[Captured]:
        for event in events:
            try:
                yield Captured(event.time_ns, datagram(event, self._names))
            except ValueError:  # a name of more than 255 bytes
                self._unread += 1
                lose(self.lost, Lost(event.time_ns, event.time_ns, 1, "truncated"))


def _listed(given: Given) -> Listed | None:
    text = given.rulesets.get(NFT_TEXT)
    return None if text is None else Listed.of(text)


def _text(line: bytes) -> str:
    return straightened(line.decode("utf-8", "backslashreplace"))
