"""Packets as far as nf_tables dumps them: the network header and the transport header, each for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode import netlink
from iptrec.decode.headers import spans
from iptrec.decode.packet import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I32, I64, U8, Mask

NETWORK, TRANSPORT = 8, 9  # of enum nft_trace_attributes
NETWORK_ROOM, _TRANSPORT_ROOM = 40, 20  # nf_tables_trace.c
_PACKET_ROOM: Final = 64
_DUMPED: Final = 63  # its byte that tells how much of a transport header is behind a gap
# Those that a filter knows: TCP, UDP, ICMPv6, SCTP, ESP, AH, IGMP, PIM
_TRANSPORTS: Final = (6, 17, 58, 132, 50, 51, 2, 103)
_AUTH: Final = 51  # nf_tables takes it for the transport (IP6_FH_F_AUTH, nf_tables_ipv6.h)
_EXTENSIONS: Final = [*EXTENSIONS.keys() - {_AUTH}, 135]  # and mobility, which nobody walks


def packets(buffer: U8, of: netlink.Fields) -> tuple[U8, I64, I32]:
    """A buffer with packets made of both headers behind the messages; offset and length of each."""
    there = np.flatnonzero(of.there(NETWORK) | of.there(TRANSPORT))
    later = ~of.there(NETWORK)[there]  # fragments
    begin = np.where(later, of.offset(TRANSPORT)[there], of.offset(NETWORK)[there])
    first = np.minimum(of.length(TRANSPORT)[there], _TRANSPORT_ROOM)
    network = np.where(later, first, np.minimum(of.length(NETWORK)[there], NETWORK_ROOM))
    transport = np.where(later, 0, first)
    made = np.zeros((len(there), _PACKET_ROOM), np.uint8)
    headers = spans(buffer, NETWORK_ROOM)[begin].view(np.uint8).reshape(-1, NETWORK_ROOM)
    body = np.maximum(of.offset(TRANSPORT)[there], 0)
    bodies = spans(buffer, _TRANSPORT_ROOM)[body].view(np.uint8).reshape(-1, _TRANSPORT_ROOM)
    joined = _whole(headers, network)
    made[:, _DUMPED] = np.where(joined, 0, transport)
    transport = np.where(joined, transport, 0)
    for size in np.flatnonzero(np.bincount(network)).tolist():
        rows = network == size
        if rows.all():
            rows = slice(None)  # which is faster
        made[rows, :size] = headers[rows, :size]
        made[rows, size : size + _TRANSPORT_ROOM] = bodies[rows]
    offset = np.full(len(of), -1, np.int64)
    offset[there] = len(buffer) - len(netlink.PADDING) + np.arange(len(there)) * _PACKET_ROOM
    length = np.zeros(len(of), np.int32)
    length[there] = network + transport
    pieces = [buffer[: -len(netlink.PADDING)], made.reshape(-1)]
    whole = np.concatenate([*pieces, np.frombuffer(netlink.PADDING, np.uint8)])
    whole.flags.writeable = False
    return whole, offset, length


def _whole(headers: U8, length: npt.NDArray[Any]) -> Mask:
    """Whether a network header of this length was dumped to its end; ``headers``: (n, 40)."""
    options = (headers[:, 0] & 0x0F) * 4 == length
    extensions = np.isin(headers[:, 6], _EXTENSIONS)
    whole: Mask = np.where(headers[:, 0] >> 4 == 6, ~extensions, options)  # noqa: PLR2004 - the version
    return whole


def possible(events: TraceEvents, rows: I64) -> Iterator[tuple[U8, I64, I32]]:
    """Packets that end before a transport header which was dumped: with it, as of each protocol in turn.

    A buffer, and offset and length of each packet in it, shape (n,), in bytes. ``rows``: see `knows_more`.
    """
    wide = np.lib.stride_tricks.sliding_window_view(events.buffer, _PACKET_ROOM)
    packets = wide[events.payload[rows]].copy()
    ipv6 = packets[:, 0] >> 4 == 6  # noqa: PLR2004 - the version
    packets[~ipv6, 0] = 0x40 + NETWORK_ROOM // 4
    offset = np.arange(len(rows)) * _PACKET_ROOM
    length = np.full(len(rows), NETWORK_ROOM + _TRANSPORT_ROOM, np.int32)
    for protocol in _TRANSPORTS:
        packets[ipv6, 6] = protocol
        yield packets.reshape(-1), offset, length


def behind(events: TraceEvents, row: int) -> bytes:
    """The beginning of what nf_tables takes for the transport header behind IPv6's extensions.

    Empty where none was dumped, or the packet has it at its place.
    """
    start, length = int(events.payload[row]), int(events.payload_length[row])
    if knows_more(events, np.array([row])).all():
        length = NETWORK_ROOM + int(events.buffer[start + _DUMPED])
    elif events.trace[row] < 0 or length <= NETWORK_ROOM or not _is_signed(events.buffer[start:]):
        return b""
    return events.buffer[start + NETWORK_ROOM : start + length].tobytes()


def _is_signed(packet: U8) -> bool:
    """Whether an authentication header follows that of IPv6 at once."""
    return bool(packet[0] >> 4 == 6 and packet[6] == _AUTH)  # noqa: PLR2004 - the version


def knows_more(events: TraceEvents, rows: I64) -> Mask:
    """Of which events a transport header was dumped, if not what protocol it is of; shape (n,)."""
    traced = (events.trace[rows] >= 0) & (events.payload[rows] >= 0)
    told: Mask = events.buffer[np.maximum(events.payload[rows], 0) + _DUMPED] > 0
    return traced & told
