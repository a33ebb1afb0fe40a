"""Text of ``xtables-monitor --trace``, of iptables-nft: its lines as events (iptables/xtables-monitor.c).

"PACKET: FAMILY ID IN=... SRC=... " has the headers of the first event of a base chain (of a table of inet with
NFPROTO= behind IN= and OUT=), " TRACE: FAMILY ID TABLE:CHAIN:rule:0xHANDLE:VERDICT  -4 -t TABLE -A CHAIN ..."
and "TABLE:CHAIN:policy:VERDICT" are the events. In old versions the packet's line comes behind that of the
event, its family may be 0, and the ends of chains are told, as rules with the handle 0 or as ":return:"; 1.8.9
does not tell them. Rules of inet have no text, and one that the program cannot print ends behind "-t TABLE".

No line tells the protocol: TCP is known by its flags, others by what a rule that matched asks for; a packet
with ports alone is taken for one of UDP. The length of IPv6 is that of what is behind the header, and 20 more.
The mark is told with the headers, if it is not 0: it is the one behind the first event's rule.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from iptrec.matching.facts import protocol_number
from iptrec.pasted import packet as packets
from iptrec.pasted.nft_events import VERDICTS, Event
from iptrec.pasted.nft_monitor import Lost, Unread
from iptrec.pasted.nft_packet import Packet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKET: Final = re.compile(r"PACKET: (?P<family>\d{1,3}) (?P<id>[0-9a-f]{8}) (?P<fields>.*)")
_TRACE: Final = re.compile(
    r" ?TRACE: (?P<family>\d{1,3}) (?P<id>[0-9a-f]{8}) (?P<rest>[^:]+:.*)", re.DOTALL
)
_RULE: Final = re.compile(
    r" +-(?P<version>[460]) -t (?P<table>\S+) (?:\[\d+:\d+\] )?-A (?P<chain>\S+) ?(?P<spec>.*)",
    re.DOTALL,
)
_PLACE: Final = re.compile(
    r"(?P<table>[^:]+):(?P<chain>.+?):(?P<what>(?:rule:0x[0-9a-f]{1,16}|policy|return):.*)",
    re.DOTALL,
)
_WHAT: Final = re.compile(
    r"rule:0x(?P<handle>[0-9a-f]{1,16}):(?P<verdict>\S+)\s*(?:  -[460] -t \S+ *)?"
    r"|policy:(?P<policy>\S+)\s*|return:.*",
    re.DOTALL,
)
_FIELD: Final = re.compile(r"(?:^| )([A-Z]+)[=:](\S*)")
_ID: Final = re.compile(
    r"(ID=\d{1,5})(?=[A-Z(])"
)  # nothing is between it and what follows, in old versions
_FLAG: Final = re.compile(r"(?<=[ )])(SYN|ACK|FIN|RST|PSH|URG)(?= |$)")
_PROTOCOL: Final = re.compile(r"(?:^|(?<!!) )-p (\S+)")
_LOST: Final = re.compile(r"No buffer space available")
_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}
_VERSION_OF: Final = {"ip": 4, "ip6": 6}
_SOURCE: Final = re.compile(r"(?:^| )SRC=(\S+)")
_VERSIONS: Final = {"4": "ip", "6": "ip6"}
_MOST_TRACES: Final = 1 << 14  # ids whose packets are remembered
_SHORT: Final = 20  # bytes: struct iphdr, which is counted in place of IPv6's header
_HEADER: Final = 40
_DUMPED, _ROOM = 40, 20  # bytes of the network header and of the transport's
# Of a protocol that is not told: reserved by IANA.
UNKNOWN: Final = 255
_UDP: Final = packets.UDP
_MOST_WAITING: Final = 1 << 11  # events, for what later ones tell of their packets
_ICMPV6: Final = {"ipv6-icmp": "icmpv6"}


def is_line(line: str) -> bool:
    """Whether a line is one of a trace."""
    return _found(_TRACE, line) is not None or _found(_PACKET, line) is not None


@dataclass(slots=True)
class _Trace:
    """What is known of a packet: the fields of its next event, its family, its version of IP, its protocol."""

    fields: str | None = None
    family: str = ""
    version: int | None = None
    protocol: int | None = None


@dataclass(slots=True)
class _Waiting:
    """An event, and the fields of its packet, whose protocol a later line may tell."""

    event: Event
    known: _Trace
    fields: str | None = None


class Monitor:
    """What comes line after line; each line gives the events that are done with it, in order.

    ``guessed``: how many lines of packets are taken for UDP's, as they have ports and nothing else is told.
    """

    def __init__(self) -> None:
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._waiting: deque[_Waiting] = deque()
        self._behind: bool | None = None  # whether packets' lines come behind those of events
        self.guessed = 0

    def feed(self, line: str, time_ns: int = 0) -> Iterator[Event | Lost | Unread]:
        """Read one line, without its line feed, of a time (epoch, ns)."""
        if found := _found(_PACKET, line):
            self._packet(int(found["id"], 16), found["fields"])
        elif found := _found(_TRACE, line):
            yield from self._trace(found, line, time_ns)
        elif _LOST.search(line):
            yield from self.finish()
            yield Lost()
        while len(self._waiting) > _MOST_WAITING:
            yield self._done(self._waiting.popleft())

    def finish(self) -> Iterator[Event | Lost | Unread]:
        """What is left where the text ends."""
        while self._waiting:
            yield self._done(self._waiting.popleft())

    def _packet(self, trace: int, fields: str) -> None:
        if source := _SOURCE.search(fields):
            self._known(trace).version = 6 if ":" in source[1] else 4
        last = (
            self._waiting[-1] if self._waiting and self._waiting[-1].event.trace == trace else None
        )
        if self._behind is None:  # the first packet of all
            self._behind = last is not None
        if self._behind:
            if last is not None and last.fields is None:
                last.fields = fields
        else:
            self._known(trace).fields = fields

    def _trace(self, found: re.Match[str], line: str, time_ns: int) -> Iterator[Unread]:
        trace = int(found["id"], 16)
        known = self._known(trace)
        rest = found["rest"]
        spec = _RULE.search(rest)
        table, chain, told = _place(rest, spec)
        said = _FAMILIES.get(int(found["family"])) or _VERSIONS.get(spec["version"] if spec else "")
        family = said or known.family
        what = _WHAT.fullmatch(told)
        verdict = _verdict(what["verdict"] or what["policy"] or "CONTINUE") if what else None
        if not family or what is None or verdict is None:
            yield Unread(line)
            return
        known.family = family
        known.version = _VERSION_OF.get(family, known.version)
        handle = int(what["handle"], 16) if what["handle"] else 0
        text = spec["spec"] if spec and handle else None
        if text is not None and (asked := _PROTOCOL.search(text)):
            known.protocol = protocol_number(_ICMPV6.get(asked[1], asked[1])) or known.protocol
        event = Event(
            trace=trace, family=family, table=table, chain=chain, time_ns=time_ns,
            policy=what["policy"] is not None, handle=handle or None, text=text, verdict=verdict[0],
            target=verdict[1], version=known.version,
        )  # fmt: skip
        fields, known.fields = known.fields, None
        self._waiting.append(_Waiting(event, known, fields))

    def _done(self, waiting: _Waiting) -> Event:
        """With its packet, and its version of IP, which tables of inet do not tell."""
        event = replace(waiting.event, version=waiting.event.version or waiting.known.version)
        if waiting.fields is None:
            return event
        six = event.version == 6  # noqa: PLR2004
        packet, mark, guessed = _headers(waiting.fields, six, waiting.known.protocol)
        self.guessed += guessed
        return replace(event, packet=packet, mark=mark)

    def _known(self, trace: int) -> _Trace:
        known = self._traces.setdefault(trace, _Trace())
        self._traces.move_to_end(trace)
        if len(self._traces) > _MOST_TRACES:
            self._traces.popitem(last=False)
        return known


def _found(pattern: re.Pattern[str], line: str) -> re.Match[str] | None:
    """A line by its pattern, wherever it begins."""
    start = max(line.find(" TRACE: ") if pattern is _TRACE else line.find("PACKET: "), 0)
    return pattern.match(line, start)


def _place(text: str, rule: re.Match[str] | None) -> tuple[str, str, str]:
    """Table, chain, and what was there; of a chain with colons the rule's own words tell the name."""
    place = text if rule is None else text[: rule.start()]
    if rule is not None and place.startswith(f"{rule['table']}:{rule['chain']}:"):
        return rule["table"], rule["chain"], place[len(rule["table"]) + len(rule["chain"]) + 2 :]
    found = _PLACE.fullmatch(place)
    return (found["table"], found["chain"], found["what"]) if found else ("", "", "")


def _verdict(text: str) -> tuple[int, str | None] | None:
    """A verdict's number, as `decode.nftrace` has it, and the chain that it leads to."""
    word, _, target = text.partition(":")
    if word.startswith("0x"):
        try:
            number = int(word, 16)
        except ValueError:
            return None
        signed = number - 2**32 if number >= 2**31 else number
        return (signed, None) if number < 2**32 else None
    number_of = VERDICTS.get(word.lower())
    return None if number_of is None else (number_of, target or None)


def _headers(text: str, six: bool, protocol: int | None) -> tuple[Packet, int, bool]:
    """The headers, the mark, and whether the protocol is but likely."""
    text = _ID.sub(r"\1 ", text)
    told = dict(_FIELD.findall(text))
    flags = sum(packets.TCP_FLAGS[one] for one in set(_FLAG.findall(text)))
    ports = _number(told, "SPORT", 1 << 16), _number(told, "DPORT", 1 << 16)
    guessed = False
    if flags:
        protocol = packets.TCP
    elif protocol is None:
        guessed = None not in ports
        protocol = _UDP if guessed else UNKNOWN
    mark = int(told["MARK"], 16) if re.fullmatch(r"0x[0-9a-f]{1,8}", told.get("MARK", "")) else 0
    try:
        whole = packets.built(_told(told, six, protocol, ports, flags or None, text))
    except (ValueError, OverflowError, LookupError):
        whole = b""
    start = _HEADER if six else (whole[0] & 15) * 4 if whole else 0
    return (
        Packet(
            iif=told.get("IN", ""), oif=told.get("OUT", ""), link=_link(told),
            network=whole[:start][:_DUMPED], transport=whole[start:][:_ROOM],
        ),
        mark,
        guessed,
    )  # fmt: skip


def _told(
    told: Mapping[str, str],
    six: bool,
    protocol: int,
    ports: tuple[int | None, int | None],
    flags: int | None,
    text: str,
) -> packets.Told:
    length = _number(told, "LEN", 1 << 17)
    place = sum(
        bit for word, bit in (("DF", packets.DF), ("MF", packets.MF), ("CE", packets.EVIL))
        if re.search(rf"(?:^|\s|\)){word}(?=\s|$)", text)
    )  # fmt: skip
    options = re.search(r"OPT \(([0-9A-F]{2,80})\)", text)
    return packets.Told(
        source=_address(told["SRC"], six=six),
        destination=_address(told["DST"], six=six),
        protocol=protocol,
        length=length if length is None or not six else length + _HEADER - _SHORT,
        tos=_number(told, "TC" if six else "TOS", 256),
        ttl=_number(told, "HOPLIMIT" if six else "TTL", 256),
        id=_number(told, "ID", 1 << 16),
        flags=place,
        fragment=8 * (_number(told, "FRAG", 1 << 13) or 0),
        options=bytes.fromhex(options[1]) if options else b"",
        flow_label=_number(told, "FLOWLBL", 1 << 20),
        sport=ports[0],
        dport=ports[1],
        tcp_flags=flags,
    )


def _address(text: str, *, six: bool) -> bytes:
    return (IPv6Address(text) if six else IPv4Address(text)).packed


def _number(told: Mapping[str, str], name: str, below: int) -> int | None:
    text = told.get(name, "")
    if not re.fullmatch(r"0x[0-9a-f]{1,16}|\d{1,19}", text):
        return None
    found = int(text, 16) if text.startswith("0x") else int(text)
    return found if found < below else None


def _link(told: Mapping[str, str]) -> bytes:
    """The header of Ethernet; each byte of an address may have but one digit."""
    ends = []
    for name in ("MACDST", "MACSRC"):
        parts = told.get(name, "").split(":")
        if len(parts) != 6 or not all(re.fullmatch("[0-9a-f]{1,2}", one) for one in parts):  # noqa: PLR2004
            return b""
        ends.append(bytes(int(one, 16) for one in parts))
    kind = told.get("MACPROTO", "")
    return b"".join([*ends, bytes.fromhex(kind)]) if re.fullmatch("[0-9a-f]{4}", kind) else b""
