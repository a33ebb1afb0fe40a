"""``iptrec export pcapng``: packets for Wireshark, each with its path through the rules in comments.

What is said of a packet depends on its path alone, so it is made once for each path.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from iptrec.answers.lookalikes import numbered
from iptrec.answers.paths import shown
from iptrec.answers.versions import all_stages, events_of, first_stages
from iptrec.context.addresses import addresses
from iptrec.decode.headers import spans
from iptrec.names import counted
from iptrec.recording.hosts import hosts
from iptrec.recording.rows import lost_events
from iptrec.version import __version__
from iptrec.views import frames, rebuilt
from iptrec.views.cells import copy
from iptrec.views.escape import printable
from iptrec.views.frames import header_sizes, wire_lengths
from iptrec.views.losses import how_many
from iptrec.views.packet_json import iso_time
from iptrec.views.paths import end_line, ending
from iptrec.views.pcapng_blocks import (
    INTERFACE,
    SECTION,
    STATISTICS,
    Blocks,
    block,
    encoded,
    resolved,
    split,
)
from iptrec.views.pcapng_fields import fields
from iptrec.views.text import end_words

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from iptrec.answers.packets import Batch, Packets
    from iptrec.answers.paths import Path, PathStep, Whose
    from iptrec.answers.versions import Stages
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.ends import Ending
    from iptrec.recording.rows import Facts, Loss, Recording

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

Content = Literal["packets", "stages", "events"]

# https://www.tcpdump.org/linktypes.html
ETHERNET: Final = 1
RAW: Final = 101
NFLOG: Final = 239
NETLINK: Final = 253

_COMMENT = 1
_OS, _APPLICATION = 3, 4  # of a section
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11  # of an interface
_FLAGS, _PACKET_ID, _VERDICT = 2, 5, 7  # of a packet
_FIRST, _LAST, _RECEIVED, _DROPPED = 2, 3, 4, 5  # of statistics
_MOST_DROPPED: Final = 2**64 - 1  # what the field holds; the comment has the true sum
_INBOUND, _OUTBOUND = 1, 2
_VERDICT_OPAQUE = b"\0"  # "hardware": bytes that the standard gives no meaning

_ID: Final = np.dtype([("code", "<u2"), ("size", "<u2"), ("number", "<u8")])
_NETLINK_HEADER: Final = 16
# tcpdump.org/linktypes/LINKTYPE_NETLINK.html: sent to us, ARPHRD_NETLINK, NETLINK_NETFILTER
_COOKED: Final = struct.pack(">HH10xH", 0, 824, 12)
_NONE_LOST: Final = "no event was lost"
_LONGEST: Final = 60_000  # bytes of a comment; an option has at most 65,535
_POSTROUTING, _OUTPUT = 4, 3  # enum nf_inet_hooks


class _Name(NamedTuple):
    """What makes an interface one of its own."""

    host: str | None
    netns: str | None
    name: str
    link: int


_SOURCES: Final = {
    "nflog": _Name(None, None, "nflog:0", NFLOG),
    "nftrace": _Name(None, None, "nftrace", NETLINK),
}
EVENTS: Final = frozenset(_SOURCES)  # kinds of streams whose events Wireshark can read


class Capture:
    """A pcapng section that grows. Its methods return the bytes that come next."""

    def __init__(
        self,
        facts: Facts,
        link: str,
        kinds: Collection[str] = ("nflog",),
        *,
        verdicts: bool = True,
    ) -> None:
        """``link``: "auto", "raw" or "ethernet" (with zeros where no link header was recorded).

        ``kinds``: of the recording's streams. ``verdicts``: as options of the packets.
        """
        self._facts = facts
        self._lossy = _SOURCES["nflog" if "nflog" in kinds else "nftrace"]
        self._link = link
        self._grows, self._verdicts = False, verdicts
        self.written = 0  # traversals
        self.verdicts: Counter[str] = Counter()  # of their packets, where it grows
        self._numbers: dict[_Name, int] = {}
        self._seen: list[tuple[int, int, int]] = []  # per interface: packets, first and last ns

    def begin(
        self,
        losses: Sequence[Loss] | None,
        names: Iterable[tuple[IP, str]],
        remarks: Sequence[str] = (),
    ) -> bytes:
        """The section's header: who, where, what for, how complete; and the names of addresses.

        ``losses``: None where the recording grows: what is lost of it is told in the end. ``remarks``: what
        else is to be said, such as why it is not known whether events were lost.
        """
        facts = self._facts
        words = [
            f"recorded by iptrec {facts.iptrec} on {facts.host} from {iso_time(facts.started_ns)}",
            f"filter: {facts.filter or 'none'}",
            *remarks,
        ]
        if losses is None:
            words.append(f"live: what was lost is in the last statistics of {self._lossy.name}")
        else:
            words += [
                f"{how_many(losses)} (see the statistics of {self._lossy.name})"
                if losses
                else "no event is known to be lost"
                if remarks
                else _NONE_LOST,
                _closed(facts),
            ]
        body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + encoded(
            (_OS, facts.kernel),
            (_APPLICATION, f"iptrec {__version__}"),
            (_COMMENT, "; ".join(words)),
        )
        found = [block(SECTION, body), resolved(names)]
        if losses is None:
            self._grows = True
            self._interface(self._lossy, found)
        return b"".join(found)

    def packets(self, batch: Batch, stages: Stages, paths: Sequence[Path]) -> bytes | memoryview:
        """Stages of a batch's packets; it has the numbers of their ``paths``, from 1."""
        if not len(stages.row):
            return b""
        window = batch.window
        if self._grows:
            met, count = np.unique(batch.paths[batch.positions], return_counts=True)
            for one, packets in zip(met.tolist(), count.tolist(), strict=True):
                self.verdicts[paths[one - 1].verdict] += packets
        events = window.events.take(stages.row)
        outbound = (events.hook == _OUTPUT) | (events.hook == _POSTROUTING)
        index = np.where(outbound, events.outdev, events.indev)
        names, which = batch.interfaces.names(index, window.moment_ns[stages.row])
        headers = header_sizes(events, self._link)
        found: list[bytes] = []
        interface = self._interfaces(names, which, headers > 0, (batch.host, batch.netns), found)
        times = _times(window.events, stages.begun)
        self._count(interface, times)
        options, of = _packet_options(batch, stages, outbound, paths, verdicts=self._verdicts)
        captured = events.payload_length + headers
        blocks = Blocks(captured, np.array([len(one) for one in options])[of] + _ID.itemsize)
        blocks.write_heads(interface, times, wire_lengths(events, headers))
        frames.write(events, headers, blocks.buffer, blocks.frame)
        identities = np.empty(len(of), _ID)
        identities["code"], identities["size"] = _PACKET_ID, 8
        identities["number"] = window.number + stages.position
        spans(blocks.buffer, _ID.itemsize)[blocks.options] = identities.view(f"V{_ID.itemsize}")
        for number, option in enumerate(options):
            at = blocks.options[of == number] + _ID.itemsize
            spans(blocks.buffer, len(option))[at] = np.frombuffer(option, f"V{len(option)}")
        # Mostly no interface is new, and a copy would cost a quarter of all.
        return b"".join([*found, blocks.buffer.data]) if found else blocks.buffer.data

    def events(self, events: TraceEvents, kind: str) -> bytes:
        """Events as the kernel sent them, for Wireshark's dissectors; ``kind``: of their stream."""
        found: list[bytes] = []
        number = np.full(len(events), self._interface(_SOURCES[kind], found))
        if not len(events):
            return b"".join(found)
        cooked, skipped = (_COOKED, 0) if kind == "nftrace" else (b"", _NETLINK_HEADER)
        times = _times(events, slice(None))
        self._count(number, times)
        size = events.buffer.view("<u4").take(events.message >> 2).astype(np.int64) - skipped
        captured = size + len(cooked)
        blocks = Blocks(captured, np.zeros(len(size), np.int64))
        blocks.write_heads(number, times, captured)
        if cooked:
            spans(blocks.buffer, len(cooked))[blocks.frame] = np.frombuffer(
                cooked, f"V{len(cooked)}"
            )
        copy(
            blocks.buffer, blocks.frame + len(cooked), events.buffer, events.message + skipped, size
        )
        return b"".join([*found, blocks.buffer.data])

    def alive(self, now_ns: int) -> bytes:
        """Statistics in between, of a time (epoch, ns): what can be written where there is no packet."""
        body = struct.pack("<I", self._numbers[self._lossy]) + split(now_ns) + bytes(4)
        return block(STATISTICS, body)

    def end(self, losses: Sequence[Loss], facts: Facts) -> bytes:
        """The interfaces' statistics. What was lost has an interface of its own: its packets are not known.

        ``facts``: of the recording as it is now.
        """
        found: list[bytes] = []
        lost = self._interface(self._lossy, found) if losses or self._grows else None
        for number, (packets, first, last) in enumerate(self._seen):
            options: list[tuple[int, str | bytes]] = [(_RECEIVED, struct.pack("<Q", packets))]
            if packets:
                options += [(_FIRST, split(first)), (_LAST, split(last))]
            if number == lost:
                dropped = sum(loss.events or 0 for loss in losses)
                options.append((_DROPPED, struct.pack("<Q", min(dropped, _MOST_DROPPED))))
                spans = "; ".join(
                    f"{iso_time(one.first_ns)} to {iso_time(one.last_ns)}: {one.how},"
                    f" {'? events' if one.events is None else counted(one.events, 'event')}"
                    for one in losses[:100]
                )
                told = f"{how_many(losses)}: {spans}" if losses else _NONE_LOST
                options.append((_COMMENT, f"{told}; {_closed(facts)}" if self._grows else told))
            moment = facts.stopped_ns or last
            body = struct.pack("<I", number) + split(moment) + encoded(*options)
            found.append(block(STATISTICS, body))
        return b"".join(found)

    def _interfaces(
        self,
        names: list[str],
        which: I64,
        framed: Mask,
        whose: Whose,
        found: list[bytes],
    ) -> I64:
        """The number of each packet's interface; new ones are described in ``found``."""
        pair = which * 2 + framed
        present, of = np.unique(pair, return_inverse=True)
        numbers = [
            self._interface(_Name(*whose, names[one >> 1], ETHERNET if one & 1 else RAW), found)
            for one in present.tolist()
        ]
        return np.array(numbers, np.int64)[of]

    def _interface(self, one: _Name, found: list[bytes]) -> int:
        if one in self._numbers:
            return self._numbers[one]
        self._numbers[one] = number = len(self._numbers)
        self._seen.append((0, 0, 0))
        shown = one.name if one.host is None else f"{one.host}:{one.name}"
        options: list[tuple[int, str | bytes]] = [(_NAME, shown)]
        described = ("host", one.host), ("network namespace", one.netns)
        if told := [f"{what} {name}" for what, name in described if name is not None]:
            options.append((_DESCRIPTION, ", ".join(told)))
        options.append((_RESOLUTION, b"\x09"))  # 10^-9 s
        if self._facts.filter:
            options.append((_FILTER, b"\0" + self._facts.filter.encode()))
        found.append(block(INTERFACE, struct.pack("<HHI", one.link, 0, 0) + encoded(*options)))
        return number

    def _count(self, number: I64, times: I64) -> None:
        for one in np.unique(number).tolist():
            here = times[number == one]
            packets, first, last = self._seen[one]
            low, high = int(here.min()), int(here.max())
            self._seen[one] = (
                packets + len(here),
                min(first, low) if packets else low,
                max(last, high),
            )


def _packet_options(
    batch: Batch, stages: Stages, outbound: Mask, paths: Sequence[Path], *, verdicts: bool
) -> tuple[list[bytes], I64]:
    """The options of packets: distinct ones, and the number of each packet's, shape (n,)."""
    window = batch.window
    last = np.append(stages.position[1:] != stages.position[:-1], np.ones(1, np.bool_))
    outcome = window.assembly.outcome[stages.position]
    said = _odd_ends(batch)[stages.position]
    key = numbered(outcome, stages.until, last, outbound, said)
    _, first, of = np.unique(key, return_index=True, return_inverse=True)
    found = []
    for at in first.tolist():
        one, until = window.assembly.outcomes[int(outcome[at])], int(stages.until[at])
        position = int(stages.position[at])
        path, told = paths[batch.paths[position] - 1], batch.ended(position)
        steps = shown([window.resolver.places[place] for place in one.path])
        backends = [window.resolver.backends[one.path[step]].name for step in steps]
        count = sum(step < until for step in steps)
        verdict = (_VERDICT, _VERDICT_OPAQUE + printable(path.verdict).encode())
        found.append(
            encoded(
                (_FLAGS, struct.pack("<I", _OUTBOUND if outbound[at] else _INBOUND)),
                *([verdict] if verdicts else []),
                (_COMMENT, comment(path, told, count, last=bool(last[at]))),
                (_COMMENT, fields(path, told, backends, count)),
            )
        )
    return found, of


def _odd_ends(batch: Batch) -> I64:
    """Equal numbers for packets of whose ends the same is told; 0 where the path tells it. Shape (decided,)."""
    numbers: dict[tuple[tuple[str, ...], str | None], int] = {}
    found = np.zeros(len(batch.paths), np.int64)
    for position, one in batch.odd_ends.items():
        end = one.end
        words = () if end is None else (end_words(end), end.reason, end.text)
        found[position] = numbers.setdefault((words, one.reason), len(numbers) + 1)
    return found


def _times(events: TraceEvents, rows: I64 | slice) -> I64:
    """When, as `show` says it (epoch, ns)."""
    stamp = events.stamp_ns[rows]
    return np.where(stamp > 0, stamp, events.sent_ns[rows])


def section(
    capture: Capture,
    recording: Recording,
    packets: Packets,
    what: Content,
    ticks: Iterable[int] | None = None,
) -> Iterator[bytes | memoryview]:
    """A whole section: the packets that are selected, or the kernel's events of them.

    Of everything, the events are those that belong to no packet, too. ``ticks``: the recording grows; see
    `Packets.follow`.
    """
    names = [
        (address, f"{packets.interfaces_of(namespace).name(index, one.facts.started_ns)}.{host}")
        for one, namespace, host in _hosts(recording)
        for index, address in addresses(one) or ()
    ]
    remarks = [one for one in (rebuilt.uncounted(recording), *rebuilt.sources(recording)) if one]
    losses = lost_events(recording) if ticks is None else None
    yield capture.begin(losses, names, remarks)
    paths = what != "events"
    source = (
        packets.batches(objects=False, paths=paths)
        if ticks is None
        else packets.growing(ticks, paths=paths)
    )
    for batch in source:
        window, positions = batch.window, batch.positions
        if what == "events" and window.stream.kind not in EVENTS:
            continue
        capture.written += len(positions)
        if what == "events":
            rows = events_of(window, positions)
            if len(positions) == window.decided:
                rows = np.sort(np.concatenate([rows, window.unplaced]))
            traced = window.events.trace[rows] >= 0
            for kind, some in (("nflog", rows[~traced]), ("nftrace", rows[traced])):
                if len(some) or kind == window.stream.kind:
                    yield capture.events(window.events.take(some), kind)
            continue
        stages = (all_stages if what == "stages" else first_stages)(window, positions)
        yield capture.packets(batch, stages, list(packets.book.paths))
    yield capture.end(lost_events(recording), recording.facts)


def _closed(facts: Facts) -> str:
    return "closed cleanly" if facts.closed else "not closed: cut off or still running"


def _hosts(recording: Recording) -> list[tuple[Recording, int, str]]:
    """Of each recording a namespace, and the name of the host."""
    told = [(one.recording, one.name) for one in hosts(recording)]
    if not told:
        return [(recording, 1, recording.facts.host)]
    return [(one, each.id, name) for one, name in told for each in one.namespaces[:1]]


def comment(path: Path, told: Ending, steps: int, *, last: bool = True) -> str:
    """The verdict in a sentence, then a line for each of the first ``steps`` steps.

    ``told``: of the packet, beside that path.
    """
    lines = [ending(path, told.end)]
    if told.reason:
        lines.append(f"({printable(told.reason)})")
    lines += end_line(told.end, lines[0])
    size = 0
    for number, step in enumerate(path.steps[:steps]):
        line = _line(step)
        size += len(line.encode()) + 1
        if size > _LONGEST:
            lines.append(f"... {counted(steps - number, 'more step')}")
            break
        lines.append(line)
    if not last:
        lines.append("(the packet changed here)")
    return "\n".join(lines)


def _line(step: PathStep) -> str:
    where = f"{printable(step.table)} {printable(step.chain)}"
    target = "" if step.target is None else f" → {printable(step.target)}"
    if step.type != "rule":
        return f"{where} {step.type}{target}"
    number = "" if step.rule is None else f" #{step.rule}"
    return (
        f"{where}{number} {printable(step.spec or '(not in the recorded ruleset)')[:4000]}{target}"
    )
