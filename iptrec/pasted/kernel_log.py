"""Lines of the kernel's log that legacy iptables' TRACE wrote, as the datagrams of nflog that they stand for.

    TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= MAC=.. SRC=10.0.0.1 DST=10.0.0.2 LEN=60 .. PROTO=TCP SPT=1 ..

Who pastes such lines cuts them, wraps them, quotes them, and mixes them with others; what stands in front of
them is of dmesg, journalctl or syslog (`prefixes`). The log does not tell the hook: a chain that is built in
is of one, and one of a user is of that of the chain that the same packet came from.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import HOOKS
from iptrec.pasted import nflog
from iptrec.pasted.log_fields import CutError, parsed
from iptrec.pasted.packet import built, family
from iptrec.pasted.prefixes import Times
from iptrec.pasted.sources import Interfaces, Lost, lose
from iptrec.pcap.capture import Captured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.pasted.log_fields import Line
    from iptrec.pasted.packet import Told
    from iptrec.pasted.sources import Given

_PLACE: Final = re.compile(
    rb"TRACE: (?P<place>[^:\s]{1,32}:\S.{0,64}?:(?:rule|return|policy):[1-9]\d{0,9})(?= |$)"
)
_TRACE: Final = re.compile(
    _PLACE.pattern + rb" +IN=(?P<rest>.*)",
    re.DOTALL,
)  # fmt: skip
_BEGINS: Final = re.compile(rb"TRACE: [^:\s]{1,32}:\S")
_INTERFACES: Final = re.compile(
    r"(?P<in>\S*) +OUT=(?P<out>\S*) *(?:PHYSIN=(?P<physin>\S+) *)?(?:PHYSOUT=(?P<physout>\S+) *)?"
    r"(?:MAC=(?P<mac>[0-9a-f:]*) *)?(?:TUNNEL=\S* *)?"
    r"(?:MACSRC=(?P<from>[0-9a-f:]{17}) MACDST=(?P<to>[0-9a-f:]{17}) (?:VPROTO=\S+ VID=\S+ )?"
    r"MACPROTO=(?P<type>[0-9a-f]{4}) *)?(?P<packet>SRC=.*)",
    re.DOTALL,
)
# The rest of a line that somebody wrapped: words of the kernel alone
_CONTINUED: Final = re.compile(
    rb"[A-Z]{2,8}[=:]\S*|\[SRC=\S*|CE|DF|MF|CWR|ECE|URG|ACK|PSH|RST|SYN|FIN|OPT|\(?[0-9A-F]*\)?|\)?\]"
    rb"|INCOMPLETE|TRUNCATED|AH|ESP|AE|\[\d+|bytes\]"
)
_LONGEST: Final = 2048  # bytes of a line; the kernel's buffer has half of that (nf_log.c, S_SIZE)
_MOST_WRAPPED: Final = 12  # lines that one line was wrapped into
_REMEMBERED: Final = 4096  # packets in a table at once
_TABLE_HOOKS: Final = {
    "raw": (0, 3), "mangle": (0, 1, 2, 3, 4), "nat": (0, 1, 3, 4), "filter": (1, 2, 3), "security": (1, 2, 3),
}  # fmt: skip
_MISSED: Final = re.compile(rb"Missed (\d{1,18}) kernel messages")  # systemd-journald
_NUMBERED: Final = re.compile(rb"\d{1,10},(\d{1,18}),\d{1,18},[^;]*;")  # /dev/kmsg

SOURCE: Final = "kernel-log"
UNTOLD: Final = ("csum", "ext", "ecn")  # see `recording.rows.Stream`


class KernelLog:
    """The kind of text; a `sources.Text`."""

    name = SOURCE
    title = "lines of the kernel's log (TRACE of legacy iptables)"

    def is_line(self, line: bytes) -> bool:
        """Whether it has an event of TRACE."""
        return _PLACE.search(_message(line) if line[:1] == b"{" else line) is not None

    def read(self, lines: Iterable[bytes], given: Given) -> Lines:
        """The source."""
        return Lines(lines, given)


class Lines:
    """Events of the lines of a log; a `sources.Source`. ``cut``: lines that do not tell their packet."""

    kind = "nflog"
    snaplen = 0
    rulesets = ()

    def __init__(self, lines: Iterable[bytes], given: Given) -> None:
        self.damage = ""
        self.detail: dict[str, Any] = {}
        self.lost: list[Lost] = []
        self.cut = 0
        self.shortened = 0
        self._lines = lines
        self._names = Interfaces(dict(given.links) or {"lo": 1})
        self._times = Times(given.changed_ns)
        self._hooks = _Hooks()
        self._last_ns = 0

    @property
    def links(self) -> Mapping[int, str]:
        """Index and name of each interface that was met."""
        return self._names.met

    @property
    def remarks(self) -> list[str]:
        """What the user is told beside the number of events."""
        said = []
        if self.cut:
            said.append(f"{self.cut:,} lines do not tell their packet (cut off?) and are left out")
        if self.shortened:
            said.append(f"{self.shortened:,} lines are cut off in the packet's fields")
        if self._times.backwards:
            said.append(
                f"{self._times.backwards:,} times are before that of the line before (journalctl -r?);"
                " events are taken in the order of the lines"
            )
        return said

    def __iter__(self) -> Iterator[Captured]:
        for before, place, rest in _events(self._lines):
            time_ns = self._times.of(before)
            if not self.detail:
                self.detail = {
                    "group": 0, "sequence": False, "source": SOURCE, "rebuilt": True,
                    "untold": list(UNTOLD), "times": self._times.told(),
                }  # fmt: skip
            if not place:
                lose(self.lost, Lost(self._last_ns or time_ns, time_ns, None, "enobufs"))
                continue
            self._last_ns = time_ns
            try:
                yield Captured(time_ns, self._datagram(place, rest))
            except CutError:
                self.cut += 1
                lose(self.lost, Lost(time_ns, time_ns, 1, "truncated"))

    def _datagram(self, place: bytes, rest: bytes) -> bytes:
        found = _INTERFACES.fullmatch(rest[:_LONGEST].decode("utf-8", "backslashreplace"))
        if found is None:
            raise CutError("the line is cut before it tells a packet")
        line, payload = _packet(found["packet"])
        self.shortened += not line.whole
        table, _, chain = place.rpartition(b":")[0].rpartition(b":")[0].partition(b":")
        name = table.decode("ascii", "replace")
        hook = self._hooks.of(name, chain, found["in"], found["out"], line.packet)
        return nflog.datagram(
            b"TRACE: " + place + b" ",
            family(payload),
            payload,
            hook=hook,
            indev=self._names.index(found["in"]),
            outdev=self._names.index(found["out"]),
            physindev=self._names.index(found["physin"] or ""),
            physoutdev=self._names.index(found["physout"] or ""),
            mark=line.mark,
            uid=line.uid,
            gid=line.gid,
            link=_link(found),
        )  # fmt: skip


@lru_cache(maxsize=1024)
def _packet(text: str) -> tuple[Line, bytes]:
    """What a line tells of a packet, and its bytes. Most lines of a packet are equal here."""
    line = parsed(text)
    try:
        return line, built(line.packet)
    except ValueError as error:
        raise CutError(str(error)) from None


class _Hooks:
    """At which hook each event was."""

    def __init__(self) -> None:
        self._latest: OrderedDict[tuple[object, ...], int] = OrderedDict()

    def of(self, table: str, chain: bytes, in_: str, out: str, packet: Told) -> int | None:
        """By NF_INET_* number; None where it cannot be told."""
        key = (
            table, in_, out, packet.source, packet.destination, packet.protocol, packet.id, packet.length,
            packet.sport, packet.dport, packet.seq, packet.rest, packet.flow_label,
        )  # fmt: skip
        possible = _TABLE_HOOKS.get(table, ())
        name = chain.decode("ascii", "replace")
        if name in HOOKS and (hook := HOOKS.index(name)) in possible:
            self._latest[key] = hook
            self._latest.move_to_end(key)
            if len(self._latest) > _REMEMBERED:
                self._latest.popitem(last=False)
            return hook
        if key in self._latest:
            return self._latest[key]
        fitting = [one for one in possible if one in _BY_ENDS[bool(in_), bool(out)]]
        return fitting[0] if len(fitting) == 1 else None


# The hooks that know an interface that the packet came in by, and one that it goes out by
_BY_ENDS: Final = {
    (True, False): (0, 1),
    (False, True): (3, 4),
    (True, True): (2, 4),
    (False, False): (),
}


def _events(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """What is before an event in its line, its place, and the rest behind IN=.

    Without a place: a number of lines that the log itself says it has not got.
    """
    for line in _unwrapped(lines):
        starts = [one.start() for one in _BEGINS.finditer(line)]
        before = line[: starts[0]] if starts else line
        if not starts and (missed := _MISSED.search(line)):
            yield before, b"", missed[1]
        for start, end in pairwise([*starts, len(line)]):
            if found := _TRACE.match(line[start:end]):
                yield before, found["place"], found["rest"]
                before = b""


def _unwrapped(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of TRACE, those that were wrapped as one; of journalctl -o json as it prints others."""
    waiting, pieces = b"", 0
    for given in _with_gaps(lines):
        line = _message(given) if given[:1] == b"{" else given
        if b"TRACE: " not in line:
            if waiting and pieces < _MOST_WRAPPED and _continues(line):
                waiting, pieces = waiting + b" " + line.lstrip(), pieces + 1
                continue
            if not _MISSED.search(line):
                continue
        if waiting:
            yield waiting
        waiting, pieces = line, 1
    if waiting:
        yield waiting


def _continues(line: bytes) -> bool:
    """Whether a line has nothing but words of the kernel's, and no more than fit into one of its lines."""
    words = line.split() if len(line) < _LONGEST else []
    return bool(words) and all(map(_CONTINUED.fullmatch, words))


def _with_gaps(lines: Iterable[bytes]) -> Iterator[bytes]:
    """With a line as journald has it where numbers of messages are left out: these were overwritten."""
    last = None
    for line in lines:
        if found := _NUMBERED.match(line):
            number = int(found[1])
            if last is not None and number > last + 1:
                yield found[0] + b"Missed %d kernel messages" % (number - last - 1)
            last = number
        yield line


def _message(line: bytes) -> bytes:
    """An entry of journalctl -o json as journalctl -o short-unix has it."""
    try:
        entry = json.loads(line)
        message, time = entry["MESSAGE"], int(entry["__REALTIME_TIMESTAMP"])
    except (LookupError, RecursionError, TypeError, ValueError):
        return line
    if isinstance(message, list):  # bytes that are not UTF-8
        message = bytes(one for one in message if isinstance(one, int) and 0 <= one < 256)  # noqa: PLR2004
    text = message if isinstance(message, bytes) else str(message).encode("utf-8", "replace")
    return b"%d.%06d kernel: %s" % (*divmod(time, 1_000_000), text.replace(b"\n", b" "))


def _link(found: re.Match[str]) -> bytes:
    """The header of the link layer."""
    decoded = f"{found['to']}{found['from']}{found['type']}" if found["type"] else ""
    text = decoded or found["mac"] or ""
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""
