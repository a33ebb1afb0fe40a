"""Lines of the kernel's log that legacy iptables' TRACE wrote, as the datagrams of nflog that they stand for.

    TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= MAC=.. SRC=10.0.0.1 DST=10.0.0.2 LEN=60 .. PROTO=TCP SPT=1 ..

Who pastes such lines cuts them, wraps them, quotes them, and mixes them with others; what stands in front of
them is of dmesg, journalctl or syslog (`prefixes`). The log does not tell the hook: a chain that is built in
is of one, and one of a user is of that of the chain that the same packet came from.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import HOOKS, counted
from iptrec.pasted import nflog
from iptrec.pasted.log_fields import CutError, parsed
from iptrec.pasted.log_lines import LONGEST, events, is_line
from iptrec.pasted.log_rules import LogRules
from iptrec.pasted.packet import built, family
from iptrec.pasted.prefixes import Times
from iptrec.pasted.repeated import Repeated
from iptrec.pasted.sources import Interfaces, Lost, lose
from iptrec.pcap.capture import Captured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.pasted.log_fields import Line
    from iptrec.pasted.packet import Told
    from iptrec.pasted.sources import Given

_INTERFACES: Final = re.compile(
    r"(?P<in>\S*) +OUT=(?P<out>\S*) *(?:PHYSIN=(?P<physin>\S+) *)?(?:PHYSOUT=(?P<physout>\S+) *)?"
    r"(?:MAC=(?P<mac>\S*) *)?(?:TUNNEL=\S* *)?"
    r"(?:MACSRC=(?P<from>[0-9a-f:]{17}) MACDST=(?P<to>[0-9a-f:]{17}) (?:VPROTO=\S+ VID=\S+ )?"
    r"MACPROTO=(?P<type>[0-9a-f]{4}) *)?(?P<packet>SRC=.*)",
    re.DOTALL,
)
_LONGEST_WHY: Final = 120  # characters
_REMEMBERED: Final = 4096  # packets in a table at once
_TABLE_HOOKS: Final = {
    "raw": (0, 3), "mangle": (0, 1, 2, 3, 4), "nat": (0, 1, 3, 4), "filter": (1, 2, 3), "security": (1, 2, 3),
}  # fmt: skip
SOURCE: Final = "kernel-log"
UNTOLD: Final = ("csum", "ext", "ecn")  # see `recording.rows.Stream`


class KernelLog:
    """The kind of text; a `sources.Text`."""

    name = SOURCE
    title = "lines of the kernel's log (TRACE of legacy iptables)"

    def is_line(self, line: bytes) -> bool:
        """Whether it has an event of TRACE."""
        return is_line(line)

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
        self.why = ""  # the first of them could not be read
        self.shortened = 0
        self._lines = lines
        self._names = Interfaces(dict(given.links) or {"lo": 1})
        self._times = Times(given.changed_ns)
        self._hooks = _Hooks()
        self._repeated = Repeated()
        self._log_rules = LogRules(given.rulesets)
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
            are = "is" if self.cut == 1 else "are"
            said.append(
                f"{counted(self.cut, 'line')} of TRACE could not be read and {are} left out;"
                f" of the first one: {self.why}"
            )
        if self.shortened:
            are = "is" if self.shortened == 1 else "are"
            said.append(f"{counted(self.shortened, 'line')} {are} cut off in the packet's fields")
        if others := self._log_rules.left_out:
            are = "is" if others == 1 else "are"
            said.append(
                f"{counted(others, 'line')} {are} of a LOG rule whose prefix looks like TRACE, and left out"
            )
        if again := self._repeated.left_out:
            are = "is" if again == 1 else "are"
            said.append(f"{counted(again, 'line')} that came again {are} left out")
        if alike := self._repeated.alike:
            are = "is" if alike == 1 else "are"
            said.append(
                f"{counted(alike, 'line')} {are} equal to an earlier one, and times do not tell whether that is"
                " the same event"
            )
        if back := self._times.backwards:
            have = "has a time" if back == 1 else "have times"
            said.append(
                f"{counted(back, 'line')} {have} before that of the previous line (journalctl -r?);"
                " events are taken in the order of the lines"
            )
        return said

    def __iter__(self) -> Iterator[Captured]:
        for found in events(self._lines):
            before, place, rest, missed = found
            last_ns, time_ns = self._times.last_ns, self._times.of(before)
            back = time_ns < last_ns
            if place and self._repeated.is_one(before, place, rest, goes_back=back):
                self._times.backwards -= back
                continue
            if not self.detail:
                self.detail = {
                    "group": 0, "sequence": False, "source": SOURCE, "rebuilt": True,
                    "untold": list(UNTOLD), "times": self._times.told(),
                }  # fmt: skip
            if missed:
                lose(self.lost, Lost(self._last_ns or time_ns, time_ns, None, "enobufs"))
                continue
            self._last_ns = time_ns
            try:
                if datagram := self._datagram(place, rest):
                    yield Captured(time_ns, datagram)
            except CutError as error:
                self.why = self.why or str(error)[:_LONGEST_WHY]
                self.cut += 1
                lose(self.lost, Lost(time_ns, time_ns, 1, "truncated"))
        if self._repeated.alike:
            self.detail["alike"] = self._repeated.alike

    def _datagram(self, place: bytes, rest: bytes) -> bytes:
        """Empty for a line that TRACE did not write."""
        if not place:
            raise CutError("it does not tell table, chain and rule, and then IN=")
        found = _INTERFACES.fullmatch(rest[:LONGEST].decode("utf-8", "backslashreplace"))
        if found is None:
            raise CutError("it is cut off before it tells a packet")
        line, payload = _packet(found["packet"])
        if self._log_rules.wrote(place, line.packet):
            return b""
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


def _link(found: re.Match[str]) -> bytes:
    """The header of the link layer."""
    decoded = f"{found['to']}{found['from']}{found['type']}" if found["type"] else ""
    text = decoded or found["mac"] or ""
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""
