"""What the kernel answered, while packets were recorded, about the way of such a packet.

A stream "route-answers" has netlink's messages (include/uapi/linux/rtnetlink.h, netconf.h): questions with
their answers, by the same nlmsg_seq, in the order in which they were asked. RTM_GETROUTE with RTA_IIF is about
a packet; those without are about what this host would send to its source, then to its destination.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.attributes import first, headers
from iptrec.names import AF_INET6

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NOOP, _ERROR, _OVERRUN = 1, 2, 4  # NLMSG_
_NEW_ROUTE, _GET_ROUTE, _NEW_NETCONF, _GET_NETCONF = 24, 26, 80, 82  # RTM_
_DST, _SRC, _IIF, _OIF, _MARK, _IP_PROTO, _SPORT, _DPORT = 1, 2, 3, 4, 16, 27, 28, 29  # RTA_
_IFINDEX, _FORWARDING, _RP_FILTER, _FORCE_FORWARDING = 1, 2, 3, 9  # NETCONFA_
ALL: Final = -1  # NETCONFA_IFINDEX_ALL
_ROUTE: Final = struct.Struct("<BBBBBBBBI")  # struct rtmsg
_NETCONF: Final = 4  # struct netconfmsg, padded
_CODE: Final = struct.Struct("<i")
_COUNTS: Final = struct.Struct("<II")
_NUMBER_AT: Final = 8  # nlmsg_seq
_HEADER: Final = 16


class Way(NamedTuple):
    """A packet as routing sees it; what an answer is about. ``src``, ``dst``: of 4 or 16 bytes."""

    family: int
    iif: int
    src: bytes
    dst: bytes
    mark: int
    tos: int  # without the bits of ECN


class Ports(NamedTuple):
    """What rules of routing may ask for beside: IP protocol and ports; 0: none."""

    protocol: int
    sport: int
    dport: int


class Answer(NamedTuple):
    """``code``: an errno, 0 where there is a way; then RTN_... and the interface's index, or None."""

    code: int
    kind: int = 0
    oif: int | None = None


class Settings(NamedTuple):
    """Of an interface, or of all; None where the kernel did not say."""

    forwarding: int | None = None
    rp_filter: int | None = None
    force: int | None = None  # to forward IPv6 although that is off (Linux 6.17)


_UNTOLD: Final = Settings()
# Where there is a way, and where the question was none for the kernel: ENODEV, EMSGSIZE, EOPNOTSUPP
_SILENT: Final = frozenset({0, 19, 90, 95})


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked about a packet, and all that was answered.

    ``back``, ``out``: what this host would send to the packet's source, to its destination. ``here``, ``all``:
    how the interface that it came in by, and all of them, are set.
    """

    time_ns: int
    way: Way
    ports: Ports
    answer: Answer
    back: Answer | None = None
    out: Answer | None = None
    here: Settings = _UNTOLD
    all: Settings = _UNTOLD

    @property
    def tells(self) -> bool:
        """Whether it may tell of a packet's end: IPv6 has a way where forwarding is off, too."""
        return self.answer.code not in _SILENT or (
            self.answer.code == 0 and self.way.family == AF_INET6 and self.all.forwarding == 0
        )


class Changed(NamedTuple):
    """Routes, rules, addresses, interfaces or their settings are not as before."""

    time_ns: int


class Unasked(NamedTuple):
    """About so many kinds of packets there was no time to ask, nor to look at so many events."""

    questions: int
    events: int


class Answers:
    """Reads datagrams, which may come a few at a time."""

    def __init__(self) -> None:
        self._settings: dict[tuple[int, int], Settings] = {}
        self._begin()

    def _begin(self) -> None:
        self._asked: dict[int, tuple[int, bytes]] = {}
        self._time_ns = 0
        self._way: tuple[Way, Ports] | None = None
        self._answers: list[Answer] = []

    def read(
        self, datagrams: Iterable[tuple[int, bytes]]
    ) -> Iterator[Exchange | Changed | Unasked]:
        """What datagrams tell, each with the time of its receipt; what cannot be is left out."""
        for time_ns, datagram in datagrams:
            for kind, _, start, end in headers(datagram):
                yield from self._message(time_ns, kind, datagram, start, end)
        yield from self._done()

    def _message(
        self, time_ns: int, kind: int, datagram: bytes, start: int, end: int
    ) -> Iterator[Exchange | Changed | Unasked]:
        (number,) = struct.unpack_from("<I", datagram, start - _HEADER + _NUMBER_AT)
        body = datagram[start:end]
        way = _way(body) if kind == _GET_ROUTE else None
        if kind == _NOOP or way is not None:
            yield from self._done()
        if kind == _NOOP:
            self._settings.clear()
            yield Changed(time_ns)
        elif kind == _OVERRUN and len(body) >= _COUNTS.size:
            yield Unasked(*_COUNTS.unpack_from(body))
        elif kind in (_GET_ROUTE, _GET_NETCONF):
            if way is not None:
                self._time_ns, self._way = time_ns, way
            self._asked[number] = kind, body
        elif kind in (_NEW_ROUTE, _NEW_NETCONF, _ERROR):
            self._answered(number, kind, body)

    def _answered(self, number: int, kind: int, body: bytes) -> None:
        """An answer to one of them."""
        asked, question = self._asked.pop(number, (0, b""))
        if asked == _GET_ROUTE and (answer := _answer(kind, body)) is not None:
            self._answers.append(answer)
        if asked == _GET_NETCONF and kind == _NEW_NETCONF:
            found = first(body[_NETCONF:])
            index = _signed(first(question[_NETCONF:]).get(_IFINDEX))
            if body and index is not None:
                self._settings[body[0], index] = Settings(
                    _signed(found.get(_FORWARDING)),
                    _signed(found.get(_RP_FILTER)),
                    _signed(found.get(_FORCE_FORWARDING)),
                )

    def _done(self) -> Iterator[Exchange]:
        """What was asked about a packet, once all of it is there."""
        if self._way is not None and self._answers:
            way, ports = self._way
            answer, *others = self._answers
            back, out = (*others, None, None)[:2]
            here, of_all = (
                self._settings.get((way.family, index), _UNTOLD) for index in (way.iif, ALL)
            )
            found = Exchange(self._time_ns, way, ports, answer, back, out, here, of_all)
            yield found if len(others) > 1 else replace(found, back=None, out=None)
        self._begin()


def _way(body: bytes) -> tuple[Way, Ports] | None:
    """What a question is about; None where it is not about a packet that came in."""
    if len(body) < _ROUTE.size:
        return None
    family, _, _, tos, *_ = _ROUTE.unpack_from(body)
    found = first(body[_ROUTE.size :])
    iif = _signed(found.get(_IIF))
    if iif is None or _SRC not in found or _DST not in found:
        return None
    mark = int.from_bytes(found.get(_MARK, b""), "little")
    protocol, sport, dport = (
        int.from_bytes(found.get(one, b""), "big") for one in (_IP_PROTO, _SPORT, _DPORT)
    )
    return Way(family, iif, found[_SRC], found[_DST], mark, tos), Ports(protocol, sport, dport)


def way_of(body: bytes) -> Way | None:
    """What a question (RTM_GETROUTE, behind its header) is about; None where no packet came in."""
    found = _way(body)
    return None if found is None else found[0]


def _answer(kind: int, body: bytes) -> Answer | None:
    if kind == _ERROR and len(body) >= _CODE.size:
        return Answer(-_CODE.unpack_from(body)[0])
    if kind == _NEW_ROUTE and len(body) >= _ROUTE.size:
        rtm_type = _ROUTE.unpack_from(body)[7]
        return Answer(0, rtm_type, _signed(first(body[_ROUTE.size :]).get(_OIF)))
    return None


def _signed(value: bytes | None) -> int | None:
    if value is None or len(value) != _CODE.size:
        return None
    return int(_CODE.unpack(value)[0])
