"""Text of ``nft monitor trace``: its lines as events (src/netlink.c, later src/trace.c, of nft).

All begin with "trace id ID FAMILY TABLE CHAIN ". Then comes "packet: ..." with the headers, before the first
event of each base chain (old versions leave that out before a policy); "rule TEXT (verdict ...)", or "unknown
rule handle N (verdict ...)" of a rule that nft did not read, as those of anonymous chains; "policy ..."; and
"verdict ..." at the end of a chain, which nft does not print where the kernel tells it as a rule without a
handle, as 6.18 does. New versions print "conntrack: ..." before the packet. The mark is in lines of policies
and ends alone, if it is not 0. ``-a`` puts the handle behind a rule. ``-j`` changes nothing.

A rule with an anonymous chain or a line feed in a comment goes over several lines. Names are not quoted.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.names import NFT_FAMILIES
from iptrec.pasted import nft_packet
from iptrec.pasted.nft_events import VERDICTS, Event, Tracked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.pasted.nft_packet import Packet

_LINE: Final = re.compile(
    rf"(?:^|(?<=[\s:>\]]))trace id (?P<id>[0-9a-f]{{1,8}}) (?P<family>{'|'.join(NFT_FAMILIES)}) (?P<rest>.*)",
    re.DOTALL,
)
_WHAT: Final = re.compile(
    r"packet: |conntrack: |rule |unknown rule handle \d{1,19} \(|policy |verdict "
)
_VERDICT: Final = re.compile(
    r"unknown verdict value (?P<number>\d{1,10})|(?P<word>[a-z]+)(?: \"?(?P<target>[^\"]+)\"?)?"
)
_ENDED: Final = re.compile(
    r" \(verdict ((?:jump|goto) [^()]+|unknown verdict value \d{1,10}|[a-z]+)\)\s*$"
)
_HANDLE: Final = re.compile(r" # handle (\d{1,19})$")
_MARK: Final = re.compile(r"(?:meta )?mark (0x[0-9a-f]{1,8}|\d{1,10})\s*$")
_LOST: Final = re.compile(r"# ERROR: .*(?:lost some netlink events|No buffer space)")
_STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_STATUS: Final = {
    "expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512,
}  # fmt: skip
_DIRECTIONS: Final = {"original": 0, "reply": 1}
_MOST_LINES: Final = 1000  # of one rule
_MOST_TEXT: Final = 1 << 16  # characters of one rule
_MOST_TRACES: Final = 1 << 14  # ids whose packets are remembered
_FIRST_NAMES: Final = 2  # words: a table and a chain

Names = tuple[str, str, str]  # family, table, chain


class Lost(NamedTuple):
    """nft says that the kernel had no room for some events."""


class Unread(NamedTuple):
    """A line that begins as one of a trace, and is none that can be read."""

    line: str


class _Begun(NamedTuple):
    """A rule of which the end has not come; ``prefix``: characters before each of its lines."""

    head: Event
    lines: list[str]
    prefix: int
    size: int = 0


def is_line(line: str) -> bool:
    """Whether a line is one of a trace."""
    return _LINE.search(line) is not None


class Monitor:
    """What comes line after line; each line gives the events that are whole with it.

    ``known``: chains of a ruleset, which tell names apart that have spaces.
    """

    def __init__(self, known: Collection[Names] = ()) -> None:
        self._known = known
        self._begun: _Begun | None = None
        self._met: OrderedDict[int, tuple[Names, Packet | None]] = OrderedDict()
        self._brought: dict[int, tuple[Names, Packet]] = {}
        self._tracked: dict[int, Tracked] = {}

    def feed(self, line: str, time_ns: int = 0) -> Iterator[Event | Lost | Unread]:
        """Read one line, without its line feed, of a time (epoch, ns)."""
        found = _LINE.search(line)
        if self._begun is not None:
            if found is None:
                yield from self._continued(self._begun, line)
                return
            yield from self.finish()
        if found is not None:
            yield from self._line(found, line, time_ns)
        elif _LOST.search(line):
            yield Lost()

    def finish(self) -> Iterator[Event | Lost | Unread]:
        """What is left where the text ends, or another line begins."""
        begun, self._begun = self._begun, None
        if begun is not None:
            yield self._whole(begun)

    def _line(
        self, found: re.Match[str], line: str, time_ns: int
    ) -> Iterator[Event | Lost | Unread]:
        trace, family, rest = int(found["id"], 16), found["family"], found["rest"]
        named = _named(family, rest, self._known)
        if named is None:
            yield Unread(line)
            return
        (_, table, chain), rest = named
        head = Event(trace=trace, family=family, table=table, chain=chain, time_ns=time_ns)
        word, _, told = rest.partition(" ")
        match word:
            case "packet:":
                self._remember(head, nft_packet.packet(told))
            case "conntrack:":
                self._tracked = {trace: _connection(told)}
            case "rule" | "unknown":
                yield from self._rule(_Begun(head, [rest], found.start()))
            case _:
                yield from self._end(head, word, told, line)

    def _rule(self, begun: _Begun) -> Iterator[Event | Lost | Unread]:
        """A rule's line: the first one, or with others behind it."""
        text = "\n".join(begun.lines)
        ended = _ENDED.search(text)
        # An open quote is a comment that goes on; one that has a quote in it ends with the next event's line.
        if ended is None or (
            text[: ended.start()].count('"') % 2 and len(begun.lines) < _MOST_LINES
        ):
            self._begun = begun
            return
        self._begun = None
        yield self._whole(begun)

    def _whole(self, begun: _Begun) -> Event | Unread:
        text = "\n".join(begun.lines)
        ended = _ENDED.search(text)
        verdict = None if ended is None else _verdict(ended[1])
        if ended is None or verdict is None:
            return Unread(begun.lines[0])
        return self._completed(_of_rule(begun.head, text[: ended.start()], *verdict))

    def _continued(self, begun: _Begun, line: str) -> Iterator[Event | Lost | Unread]:
        size = begun.size + len(line)
        if len(begun.lines) >= _MOST_LINES or size > _MOST_TEXT:
            yield from self.finish()
            return
        begun.lines.append(line if line[:1].isspace() else line[begun.prefix :])
        yield from self._rule(begun._replace(size=size))

    def _end(self, head: Event, word: str, told: str, line: str) -> Iterator[Event | Lost | Unread]:
        """A policy, or the end of a chain."""
        mark = _MARK.search(told)
        verdict = _verdict((told[: mark.start()] if mark else told).strip())
        if verdict is None or (word == "policy" and verdict[1] is not None):
            yield Unread(line)
            return
        number, target = verdict
        # The kernel tells no mark that is 0.
        told_mark = int(mark[1], 0) if mark else 0
        policy = word == "policy"
        yield self._completed(
            replace(head, policy=policy, verdict=number, target=target, mark=told_mark)
        )

    def _remember(self, head: Event, packet: Packet) -> None:
        names = (head.family, head.table, head.chain)
        self._met[head.trace] = names, packet
        self._met.move_to_end(head.trace)
        self._brought[head.trace] = names, packet
        if len(self._met) > _MOST_TRACES:
            old, _ = self._met.popitem(last=False)
            self._brought.pop(old, None)

    def _completed(self, event: Event) -> Event:
        """With its packet, if it is the first one behind it, and the version of IP."""
        names = (event.family, event.table, event.chain)
        brought = self._brought.pop(event.trace, None)
        packet = brought[1] if brought is not None and brought[0] == names else None
        _, last = self._met.get(event.trace, (names, None))
        version = None if last is None else last.version
        tracked = self._tracked.pop(event.trace, None) if packet is not None else None
        return replace(event, packet=packet, version=version, tracked=tracked)


def _named(family: str, rest: str, known: Collection[Names]) -> tuple[Names, str] | None:
    """The table and the chain that a line names, and what is behind them; None where nobody can tell."""
    words = rest.split(" ", _FIRST_NAMES)
    if len(words) > _FIRST_NAMES and all(words) and _WHAT.match(words[2]):
        return (family, words[0], words[1]), words[2]
    for _, table, chain in sorted(one for one in known if one[0] == family):
        if rest.startswith(f"{table} {chain} ") and _WHAT.match(rest, len(table) + len(chain) + 2):
            return (family, table, chain), rest[len(table) + len(chain) + 2 :]
    return None


def _of_rule(head: Event, text: str, verdict: int, target: str | None) -> Event:
    """A rule's event: by its handle where nft did not have its text."""
    word, _, body = text.partition(" ")
    if word == "unknown":
        return replace(head, handle=int(body.split()[-1]), verdict=verdict, target=target)
    handle = _HANDLE.search(body)
    if handle is not None:
        body = body[: handle.start()]
    number = None if handle is None else int(handle[1])
    return replace(head, handle=number, text=body, verdict=verdict, target=target)


def _verdict(text: str) -> tuple[int, str | None] | None:
    """A verdict's number, as `decode.nftrace` has it, and the chain that it leads to."""
    found = _VERDICT.fullmatch(text)
    if found is None:
        return None
    if found["number"] is not None:  # one that nft has no name for
        return int(found["number"]), None
    leads = found["word"] in ("jump", "goto")
    if found["word"] not in VERDICTS or leads != (found["target"] is not None):
        return None
    return VERDICTS[found["word"]], found["target"]


def _connection(text: str) -> Tracked:
    told = dict(re.findall(r"ct (id|direction|status|state) (\S+)", text[:_MOST_TEXT]))
    number = told.get("id", "")
    return Tracked(
        id=int(number) if number.isdecimal() and int(number[:11]) < 1 << 32 else None,
        direction=_DIRECTIONS.get(told.get("direction", "")),
        status=_bits(told.get("status"), _STATUS),
        state=_bits(told.get("state"), _STATES),
    )


def _bits(text: str | None, names: dict[str, int]) -> int | None:
    if text is None:
        return None
    words = text.split(",")
    return sum({names[one] for one in words}) if all(one in names for one in words) else None
