"""Packets for which their socket may have had no room: SYNs that nobody answered, datagrams.

The kernel counts them and tells of none which it was: a SYN that finds the listen queue full is not even
dropped, it is consumed (tcp_conn_request). So nothing is told where no counter rose, and nothing is sure. Of a
socket's filter there is no counter at all: what it refuses is in the socket's own drops, as in UdpInErrors
(udp_queue_rcv_one_skb).
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.answers.handshakes import Answers, are_syns
from iptrec.answers.unheard import accepted_here
from iptrec.context.counters import in_words
from iptrec.decode import packet
from iptrec.names import AF_INET, AF_INET6
from iptrec.packets.ends import End
from iptrec.packets.identity import Packets, swapped16
from iptrec.packets.window import WINDOW_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iptrec.context.counters import Rise
    from iptrec.context.sockets import Sockets
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.window import Window

_TCP, _UDP, _IPV6 = 6, 17, 6
_ANSWERED_NS: Final = 10_000_000  # a SYN that has room is answered at once
_LISTENING: Final = {"ListenOverflows": "LISTEN_OVERFLOW", "ListenDrops": "LISTEN_DROP"}
_RECEIVING: Final = {4: "UdpRcvbufErrors", 6: "Udp6RcvbufErrors"}
_MOST_ENDS: Final = 1000  # addresses and ports of this host, each of which is looked at
_PREFIXES: Final = ("Udp", "Udp6")
_EXPLAINED: Final = ("RcvbufErrors", "InCsumErrors", "MemErrors")  # by InErrors, all of them


class Crowded:
    """Those of one namespace, whose sockets there are. ``rose``: its counters that did, by their names.

    ``filtered``: whether packets were chosen by a filter, that answers may not fit. ``told``: whether the
    kernel told of all that it dropped.
    """

    def __init__(
        self, sockets: Sockets, rose: Mapping[str, Rise], *, filtered: bool, told: bool
    ) -> None:
        self._sockets = sockets
        self._rose = rose
        self._filtered = filtered
        self._full = next((one for one in _LISTENING if one in rose), None)
        self._many = 0  # SYNs that nobody answered
        self._came: dict[int, list[tuple[str, int]]] = {}
        self._receiving = {} if told else {v: n for v, n in _RECEIVING.items() if n in rose}

    def positions(self, window: Window) -> set[int]:
        """Where they are in a window."""
        found: set[int] = set()
        listening, receiving = self._full and self._listeners, self._receiving and self._filled
        if not (listening or receiving):
            return found
        at, packets = accepted_here(window)
        if listening:
            unanswered = self._unanswered(window, at, packets).tolist()
            self._many = len(unanswered)
            found.update(unanswered)
        if receiving:
            came = _are_for(packets, _UDP, receiving)
            self._came = _by_end(window, at[came], packets.end_keys()[1][came])
            found.update(at[came].tolist())
        return found

    def end(self, header: Mapping[str, Any]) -> End | None:
        """Of a packet at one of these positions, as it came to its socket."""
        udp = header.get("proto") == "udp"
        every = (self._filled if udp else self._listeners).get(header.get("dport", 0), [])
        fitting = [one for one in every if _fits(one, header["dst"])]
        if not fitting:
            return None
        return self._overfull(header, fitting) if udp else self._unheard(header, fitting)

    def _unheard(self, header: Mapping[str, Any], fitting: list[dict[str, Any]]) -> End | None:
        if self._full is None:
            return None
        where, rose = f"TCP port {header['dport']}", self._rose[self._full]
        overflow = self._full == "ListenOverflows"
        full = [one for one in fitting if _is_full(one)] if overflow else []
        others = any(_is_full(one) for some in self._listeners.values() for one in some)
        if overflow and self._many > rose.by and others and not full:
            return None  # it is another one's queue
        sentence = f"the listen queue of {where} was full" if overflow else f"{where} dropped it"
        evidence = in_words([rose])
        if self._many > rose.by:
            evidence = f"one of {self._many:,} that nobody answered, {evidence}"
        elif not overflow:
            evidence = f"nobody answered, {evidence}"
        if full:  # as ss(8) prints it
            evidence += f" (at the end Recv-Q {full[0]['waiting']}, Send-Q {full[0]['room']})"
        return End("recorded", _LISTENING[self._full], sentence, sure=False, evidence=evidence)

    def _overfull(self, header: Mapping[str, Any], fitting: list[dict[str, Any]]) -> End | None:
        counter = self._receiving.get(_IPV6 if ":" in header["dst"] else 4)
        if counter is None:
            return None
        port, by = f"UDP port {header['dport']}", sum(one["drops"] for one in fitting)
        came = sum(many for dst, many in self._came.get(header["dport"], ()) if _fit(fitting, dst))
        of = f" of {came:,}" if came >= by else ""
        reason, sentence = "SOCKET_RCVBUFF", f"the receive buffer of {port} was full"
        if self._otherwise:
            sentence += ", or its filter refused it"
        rose = [self._rose[counter]]
        if self._otherwise and (by > self._no_room or not any(one["waiting"] for one in fitting)):
            reason = "SOCKET_FILTER"
            sentence = f"the filter of {port} refused it, or its receive buffer was full"
            rose += [one for name, one in self._rose.items() if name == f"{counter[:-12]}InErrors"]
        evidence = f"its socket dropped {by:,}{of}, {in_words(rose)}"
        return End("recorded", reason, sentence, sure=False, evidence=evidence)

    def _by(self, *names: str) -> int:
        """By how much counters of UDP rose, of IPv4 and IPv6: a socket may take both."""
        every = [self._rose.get(prefix + name) for prefix in _PREFIXES for name in names]
        return sum(one.by for one in every if one is not None)

    @functools.cached_property
    def _no_room(self) -> int:
        """How many datagrams found no room."""
        return self._by("RcvbufErrors")

    @functools.cached_property
    def _otherwise(self) -> bool:
        """Whether sockets dropped others than these, and not for their checksums."""
        return self._by("InErrors") > self._by(*_EXPLAINED)

    @functools.cached_property
    def _listeners(self) -> dict[int, list[dict[str, Any]]]:
        """By their ports, as they were at the end or at the start."""
        first, last = self._sockets.listed
        return _by_port(one for one in (first | last).values() if one["protocol"] == _TCP)

    @functools.cached_property
    def _filled(self) -> dict[int, list[dict[str, Any]]]:
        """Sockets of UDP that dropped packets meanwhile, by their ports; ``drops``: how many."""
        first, last = self._sockets.listed
        both = [(first[one], last[one]) for one in first.keys() & last.keys()]
        rises = [
            after | {"drops": after["drops"] - before["drops"]}
            for before, after in both
            if after["protocol"] == _UDP and None not in (before["drops"], after["drops"])
        ]
        return _by_port(one for one in rises if one["drops"] > 0)

    def _unanswered(self, window: Window, at: I64, packets: Packets) -> I64:
        """Where SYNs are to those who listen, that no SYN and ACK followed."""
        asked = are_syns(packets) & _are_for(packets, _TCP, self._listeners)
        asked &= ~self._too_late(window, at)
        answers = Answers.of(window)
        if self._filtered:  # those are known to fit it whose port has answered somebody
            asked &= np.isin(swapped16(packets.ends()[-1]).astype(np.int64), answers.port)
        at = at[asked]
        found: I64 = at[~answers.given(at, packets.flow_keys()[asked])]
        return found

    @staticmethod
    def _too_late(window: Window, at: I64) -> Mask:
        """Which may have been answered in the next window."""
        received = window.events.received_ns
        if len(received) < WINDOW_EVENTS // 2 or not len(at):
            return np.zeros(len(at), np.bool_)
        late: Mask = received[window.assembly.lasts()[at]] > received.max() - _ANSWERED_NS
        return late


def _by_end(window: Window, at: I64, keys: U64) -> dict[int, list[tuple[str, int]]]:
    """By port and address how many datagrams of a window came there; none if it is not all that was recorded.

    ``keys``: of both.
    """
    found: dict[int, list[tuple[str, int]]] = {}
    if window.number != 1 or window.decided < len(window.assembly):
        return found
    _, first, many = np.unique(keys, return_index=True, return_counts=True)
    if len(first) > _MOST_ENDS:
        return found
    rows = window.assembly.lasts()[at[first]].tolist()
    for row, count in zip(rows, many.tolist(), strict=True):
        family = AF_INET6 if window.events.ipv6[row] else AF_INET
        came = packet.header(window.events.packet(row), family)
        found.setdefault(came.get("dport", 0), []).append((str(came["dst"]), count))
    return found


def _is_full(row: Mapping[str, Any]) -> bool:
    """Whether more connections wait for one that listens than it has room for."""
    return bool(row["waiting"] > row["room"])


def _fit(rows: Iterable[Mapping[str, Any]], dst: str) -> bool:
    return any(_fits(one, dst) for one in rows)


def _by_port(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for one in rows:
        found.setdefault(one["port"], []).append(one)
    return found


def _are_for(packets: Packets, protocol: int, ports: Iterable[int]) -> Mask:
    """Which packets are of a protocol, and for some ports."""
    columns = packets.ends()
    own = np.isin(swapped16(columns[-1]).astype(np.int64), np.array([*ports], np.int64))
    found: Mask = own & (columns[0] == protocol)
    return found


def _fits(row: Mapping[str, Any], dst: str) -> bool:
    """Whether a socket may get what is sent there."""
    own, to = ipaddress.ip_address(row["address"]), ipaddress.ip_address(dst)
    if isinstance(own, ipaddress.IPv6Address):
        own = own.ipv4_mapped or own
    both = own.version == _IPV6 and own.is_unspecified and not row["v6only"]
    return own == to or (own.is_unspecified and (own.version == to.version or both))
