"""Packets for which their socket may have had no room: SYNs that nobody answered, datagrams.

The kernel counts them and tells of none which it was: a SYN that finds the listen queue full is not even
dropped, it is consumed (tcp_conn_request). So nothing is told where no counter rose, and nothing is sure.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.answers.handshakes import Answers, are_syns
from iptrec.answers.unheard import accepted_here
from iptrec.context.counters import in_words
from iptrec.packets.ends import End
from iptrec.packets.identity import Packets, swapped16
from iptrec.packets.window import WINDOW_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iptrec.context.counters import Rise
    from iptrec.context.sockets import Sockets
    from iptrec.names import I64, Mask
    from iptrec.packets.window import Window

_TCP, _UDP, _IPV6 = 6, 17, 6
_ANSWERED_NS: Final = 10_000_000  # a SYN that has room is answered at once
_LISTENING: Final = {"ListenOverflows": "LISTEN_OVERFLOW", "ListenDrops": "LISTEN_DROP"}
_RECEIVING: Final = {4: "UdpRcvbufErrors", 6: "Udp6RcvbufErrors"}


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
        self._receiving = {} if told else {v: n for v, n in _RECEIVING.items() if n in rose}

    def positions(self, window: Window) -> set[int]:
        """Where they are in a window."""
        found: set[int] = set()
        listening, receiving = self._full and self._listeners, self._receiving and self._filled
        if not (listening or receiving):
            return found
        at, packets = accepted_here(window)
        if listening:
            found.update(self._unanswered(window, at, packets).tolist())
        if receiving:
            found.update(at[_are_for(packets, _UDP, receiving)].tolist())
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
        where = f"TCP port {header['dport']}"
        overflow = self._full == "ListenOverflows"
        sentence = f"the listen queue of {where} may have been full" if overflow else (
            f"nobody answered, and {where} may have dropped it"
        )  # fmt: skip
        evidence = in_words([self._rose[self._full]])
        full = [one for one in fitting if one["waiting"] > one["room"]] if overflow else []
        if full:  # as ss(8) prints it
            evidence += f" (at the end Recv-Q {full[0]['waiting']}, Send-Q {full[0]['room']})"
        return End("recorded", _LISTENING[self._full], sentence, sure=False, evidence=evidence)

    def _overfull(self, header: Mapping[str, Any], fitting: list[dict[str, Any]]) -> End | None:
        counter = self._receiving.get(_IPV6 if ":" in header["dst"] else 4)
        if counter is None:
            return None
        by = sum(one["drops"] for one in fitting)
        return End(
            "recorded",
            "SOCKET_RCVBUFF",
            f"the receive buffer of UDP port {header['dport']} may have been full",
            sure=False,
            evidence=f"its socket dropped {by:,}, {in_words([self._rose[counter]])}",
        )

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
