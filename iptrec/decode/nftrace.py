"""Columns out of a whole chunk of NFT_MSG_TRACE messages: the columns that nflog's events have.

nf_tables tells of each rule that matches, of each chain's end and of policies (net/netfilter/
nf_tables_trace.c, include/uapi/linux/netfilter/nf_tables.h). The packet is in the first message of each
base chain that it passes, the others carry its trace id alone: they are given the packet of that
message. None is told with the verdict STOLEN.

The id is a hash of the kernel's buffer, the flow and the interface: the same throughout a base
chain, another one after NAT or on loopback; packets of a flow that come one after the other often have the
same, packets that are under way together never.

Between the traces the recorder keeps the numbers of the rulesets (NFT_MSG_NEWGEN, see `generations`).

An event's site is an `NftSite`. Hooks are not told; the ruleset knows
them. Network and transport header are two attributes, of 40 and 20 bytes at most, and are put together where
they lie side by side in the packet. Behind extension headers of IPv6, or IPv4 options of more than 20 bytes,
which are cut, the transport header could be of any protocol, and the packet ends where they begin. Of an IPv6
fragment but the first the kernel knows no transport header: what it dumps as such are the first 20 bytes of the
packet, and no network header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode import ethernet, netlink
from iptrec.decode.events import TraceEvents
from iptrec.decode.generations import BEFORE_ALL, Generations
from iptrec.decode.layouts import Layouts
from iptrec.decode.netlink import (
    ATTRIBUTE_HEADER,
    FAMILY_HEADER,
    LENGTH_MASK,
    MESSAGE_HEADER,
    Attributes,
)
from iptrec.decode.packet import EXTENSIONS
from iptrec.names import AF_INET, AF_INET6, ASKED, NFT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import numpy.typing as npt

    from iptrec.names import I32, I64, U8, U32, Mask


NFT_MSG_TRACE, NFT_MSG_NEWGEN = 0x0A11, 0x0A0F
_SEQUENCE: Final = 2  # of 32 bits: before it are length, kind and flags
FAMILIES: Final = {number: name for name, number in NFT_FAMILIES.items()}
POLICY: Final = 1  # enum nft_trace_types; 2 and 3 are rules and ends of chains
# Verdicts: netfilter's own, and those of enum nft_verdicts
ACCEPT, DROP, STOLEN, QUEUE, REPEAT = 1, 0, 2, 3, 4
CONTINUE, BREAK, JUMP, GOTO, RETURN = -1, -2, -3, -4, -5
_NEGATIVE: Final = 2**32 - 16
_VERDICT_MASK: Final = 0xFFFF  # the rest: a queue's number, the errno of a drop (linux/netfilter.h)

_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _LINK, _NETWORK, _TRANSPORT = range(1, 10)
_IIF, _IIFTYPE, _OIF, _OIFTYPE, _MARK, _NFPROTO, _POLICY = range(10, 17)
_CT_ID, _CT_DIRECTION, _CT_STATUS, _CT_STATE = range(18, 22)  # from Linux 6.16 on
_DUMPS: Final = (_NETWORK, _TRANSPORT, _IIF, _OIF)
_CODE, _TARGET = 1, 2  # of enum nft_verdict_attributes
_LEAST: Final = np.full(23, ATTRIBUTE_HEADER)
_LEAST[[_TYPE, _ID, _IIF, _OIF, _MARK, _NFPROTO, _POLICY, _CT_ID, _CT_STATUS, _CT_STATE]] = 8
_LEAST[_CT_DIRECTION] = 5
_LEAST[[_IIFTYPE, _OIFTYPE]] = 6
_LEAST[_HANDLE] = 12
_LEAST[[_TABLE, _CHAIN]] = 5
_TOLD_BY: Final = (3, 6)  # the type; the length of the chain's name
_LEAST_VERDICT: Final = np.full(4, ATTRIBUTE_HEADER)
_LEAST_VERDICT[_CODE] = 8
_LONGEST_NAME: Final = ATTRIBUTE_HEADER + netlink.LONGEST_TEXT  # NFT_NAME_MAXLEN is 256

_NETWORK_ROOM, _TRANSPORT_ROOM = 40, 20  # nf_tables_trace.c
_PACKET_ROOM: Final = 64
_DUMPED: Final = 63  # its byte that tells how much of a transport header is behind a gap
# Those that a filter knows: TCP, UDP, ICMPv6, SCTP, ESP, AH, IGMP, PIM
_TRANSPORTS: Final = (6, 17, 58, 132, 50, 51, 2, 103)
_AUTH: Final = 51  # nf_tables takes it for the transport (IP6_FH_F_AUTH, nf_tables_ipv6.h)
_EXTENSIONS: Final = [*EXTENSIONS.keys() - {_AUTH}, 135]  # and mobility, which nobody walks
_ETHERNET_TYPES: Final = [1, 772]  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_ETH_P_IP, _ETH_P_ARP, _ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
_NFPROTO_ARP: Final = NFT_FAMILIES["arp"]
_NO_FAMILY: Final = 255
# The first attribute of NFT_MSG_NEWGEN: its header (NFTA_GEN_ID) and the number, big-endian.
_GENERATION, _LEAST_GENERATION = 1 << 16 | 8, FAMILY_HEADER + 8


class NftSite(NamedTuple):
    """Where in a ruleset an event was, in the kernel's words.

    ``family``: of the table, as nft names it. ``handle``: the rule's; None at the end of a chain.
    ``verdict``: a number of netfilter or, negative, of nf_tables; of a policy its own. ``target``: the
    chain of a jump or goto.
    """

    family: str
    table: str
    chain: str
    policy: bool
    handle: int | None
    verdict: int
    target: str | None


def decode(data: bytes | U8, lengths: U32, received_ns: I64) -> TraceEvents:
    """Decode datagrams that lie back to back in ``data``, as `nflog.decode` does.

    ``hook`` is 255 throughout, there is no ``stamp_ns`` and no ``seq``. An event whose packet was not
    recorded has no payload.
    """
    buffer, start, length = netlink.aligned(data, lengths, received_ns)
    words: U32 = buffer.view("<u4")
    datagram, message, size, undecoded = netlink.messages(words, start, length, NFT_MSG_TRACE)
    layouts = Layouts(_LEAST, _TOLD_BY, by_size=True)
    at, sound = layouts.walk(words, message + FAMILY_HEADER // 4, size - FAMILY_HEADER)
    verdict, verdict_sound = _nested(words, at[_VERDICT])
    sound &= verdict_sound
    nowhere = netlink.absent(words)
    for needed in (_TABLE, _CHAIN, _ID):
        sound &= at[needed] != nowhere
    sound &= (at[_POLICY] != nowhere) | (at[_VERDICT] != nowhere)
    for names in (at[_TABLE], at[_CHAIN], verdict[_TARGET]):
        sound &= (words.take(names) & LENGTH_MASK) <= _LONGEST_NAME
    undecoded[datagram[~sound]] = True
    generations = _generations(words, start, length, received_ns)
    undecoded[generations.datagram] = False
    if not sound.all():
        datagram, message = datagram[sound], message[sound]
        at, verdict = at.take(sound), verdict.take(sound)
    columns = _columns(buffer, message, at, verdict)
    return TraceEvents(
        datagram=datagram,
        head=datagram[columns.pop("head")],
        received_ns=received_ns[datagram],
        sent_ns=received_ns[datagram],
        generations=generations,
        undecoded=np.flatnonzero(undecoded),
        **columns,
    )


def generations(data: bytes | U8, lengths: U32, received_ns: I64) -> Generations:
    """The numbers of rulesets alone, as `decode` finds them."""
    buffer, start, length = netlink.aligned(data, lengths, received_ns)
    return _generations(buffer.view("<u4"), start, length, received_ns)


def _generations(words: U32, start: I64, length: I64, received_ns: I64) -> Generations:
    """The datagrams that tell which ruleset was in force from there on."""
    of_kind = (words.take(start + 1) & LENGTH_MASK) == NFT_MSG_NEWGEN
    told = np.flatnonzero(of_kind & (length >= _LEAST_GENERATION))
    told = told[words.take(start[told] + FAMILY_HEADER // 4) == _GENERATION]
    number = words.take(start[told] + FAMILY_HEADER // 4 + 1).byteswap().astype(np.int64)
    unasked = words.take(start[told] + _SEQUENCE) != ASKED
    finished = np.maximum.accumulate(np.where(unasked, number, BEFORE_ALL))
    return Generations(number, told, received_ns[told], finished)


def _nested(words: U32, outer: I64) -> tuple[Attributes, Mask]:
    """The attributes inside of NFTA_TRACE_VERDICT; none where that is absent."""
    there = outer != netlink.absent(words)
    left = (words.take(outer) & LENGTH_MASK).astype(np.int64) - ATTRIBUTE_HEADER
    at, sound = netlink.attributes(words, outer + 1, np.where(there, left, 0), _LEAST_VERDICT)
    return Attributes.of(words, at), sound


def _columns(buffer: U8, message: I64, at: Attributes, verdict: Attributes) -> dict[str, Any]:
    """All fields of sound messages but those of their datagrams."""
    of = netlink.Fields(buffer, at)
    n = len(message)
    family = buffer.take((message << 2) + MESSAGE_HEADER)
    packet_family = np.where(of.there(_NFPROTO), of.number(_NFPROTO), family)
    site, sites, table = _sites(buffer, of, netlink.Fields(buffer, verdict), family)
    trace = buffer.view("<u4").take(at[_ID] + 1).astype(np.int64)  # in the host's byte order
    stolen = np.array([one.verdict == STOLEN for one in sites], np.bool_)[site]
    told, source = _dumped(
        trace,
        table,
        stolen,
        np.logical_or.reduce([of.there(one) for one in (_NETWORK, _TRANSPORT, _IIF, _OIF)]),
    )
    framed = _framed(of)
    protocol = _protocol(buffer, packet_family, of, framed)
    buffer, payload, payload_length = _packets(buffer, of)

    def carried(column: npt.NDArray[Any], without: int) -> npt.NDArray[Any]:
        return np.where(source >= 0, column[source], np.asarray(without, column.dtype))

    nothing = np.zeros(n, np.int64)
    none = np.full(n, -1, np.int64)
    no_index = np.zeros(n, np.uint32)
    return {
        "buffer": buffer,
        "head": np.where(source >= 0, source, np.arange(n)),
        "message": message << 2,
        "stamp_ns": nothing,
        "seq": none,
        "family": np.where(packet_family < _NO_FAMILY, packet_family, 0).astype(np.uint8),
        "hook": np.full(n, 255, np.uint8),
        "protocol": carried(protocol, 0),
        "site": site,
        "sites": sites,
        "mark": of.number(_MARK)[told],
        "indev": carried(of.number(_IIF), 0),
        "intype": carried((of.number(_IIFTYPE) >> 16).astype(np.uint16), 0),
        "outdev": carried(of.number(_OIF), 0),
        "physindev": no_index,
        "physoutdev": no_index,
        "payload": carried(payload, -1),
        "payload_length": carried(payload_length, 0),
        "link": carried(np.where(framed, of.offset(_LINK), -1), -1),
        "link_length": carried(np.where(framed, of.length(_LINK), 0).astype(np.int32), 0),
        "uid": none,
        "gid": none,
        "ct_state": carried(of.number(_CT_STATE).astype(np.uint8), 0),
        "ct_direction": carried(_direction(of), -1),
        # A status without bits is left out.
        "ct_status": carried(of.or_none(_CT_ID, of.number(_CT_STATUS)), -1),
        "conntrack": carried(of.or_none(_CT_ID, of.number(_CT_ID)), -1),
        "trace": trace,
    }


def _direction(of: netlink.Fields) -> npt.NDArray[np.int8]:
    """The byte behind the attribute's header; -1 without it, and for what is none of the two."""
    direction = of.or_none(_CT_DIRECTION, of.number(_CT_DIRECTION) >> 24)
    return np.where(direction <= 1, direction, -1).astype(np.int8)


def _sites(
    buffer: U8, of: netlink.Fields, verdict: netlink.Fields, family: U8
) -> tuple[I32, list[NftSite], I64]:
    """The number of each event's site, the sites, and a number for each event's table."""
    names: dict[bytes, int] = {}
    table = of.texts(_TABLE, buffer, names).astype(np.int64)
    policy = of.number(_TYPE) == POLICY
    code = np.where(policy, of.number(_POLICY), verdict.number(_CODE))
    rows = np.stack(
        [
            family.astype(np.uint32),
            table.astype(np.uint32),
            of.texts(_CHAIN, buffer, names).astype(np.uint32),
            policy.astype(np.uint32),
            np.where(of.there(_HANDLE), np.uint32(1), np.uint32(0)),
            of.number(_HANDLE, 1),
            of.number(_HANDLE, 2),
            np.where(policy | verdict.there(_CODE), code, np.uint32(2**32 + CONTINUE)),
            verdict.texts(_TARGET, buffer, names).astype(np.uint32),
            np.zeros(len(family), np.uint32),
        ],
        axis=1,
    )
    if not len(rows):
        return np.zeros(0, np.int32), [], table
    example, number = netlink.distinct(np.ascontiguousarray(rows, "<u4"))
    known = [name.decode("utf-8", "backslashreplace") for name in names]
    sites = [_site(known, *row) for row in rows[example].tolist()]
    return number.astype(np.int32), sites, table << 8 | family


def _site(
    names: list[str], family: int, table: int, chain: int, policy: int, there: int, *rest: int
) -> NftSite:
    high, low, code, target, _ = rest
    return NftSite(
        family=FAMILIES.get(family, str(family)),
        table=names[table],
        chain=names[chain],
        policy=bool(policy),
        handle=high << 32 | low if there else None,
        verdict=code - 2**32 if code >= _NEGATIVE else code & _VERDICT_MASK,
        target=names[target] if target < len(names) else None,
    )


def _dumped(trace: I64, table: I64, stolen: Mask, dumps: Mask) -> tuple[I64, I64]:
    """For each event which one has its packet's mark, and which one brought its packet (-1: not here).

    That is the last one of the same id that brought any; another table's would be another packet, or the
    same as it was before. Of a packet that a rule took away (``stolen``) the kernel tells neither
    (nf_tables_trace.c): it is the one that was told of last.
    """
    order = np.argsort(trace, kind="stable")
    position = np.arange(len(order))
    new = np.ones(len(order), np.bool_)
    new[1:] = trace[order][1:] != trace[order][:-1]
    first = np.maximum.accumulate(np.where(new, position, 0))

    def latest(those: Mask, without: I64) -> I64:
        at = np.maximum.accumulate(np.where(those[order], position, -1))
        found = without.copy()
        found[order] = np.where(at >= first, order[at], without[order])
        return found

    source = latest(dumps, np.full(len(order), -1, np.int64))
    source[(source >= 0) & (table[source] != table) & ~stolen] = -1
    told = latest(~stolen, position) if stolen.any() else position
    return told, source


def _packets(buffer: U8, of: netlink.Fields) -> tuple[U8, I64, I32]:
    """A buffer with packets made of both headers behind the messages; offset and length of each."""
    there = np.flatnonzero(of.there(_NETWORK) | of.there(_TRANSPORT))
    later = ~of.there(_NETWORK)[there]  # fragments
    begin = np.where(later, of.offset(_TRANSPORT)[there], of.offset(_NETWORK)[there])
    first = np.minimum(of.length(_TRANSPORT)[there], _TRANSPORT_ROOM)
    network = np.where(later, first, np.minimum(of.length(_NETWORK)[there], _NETWORK_ROOM))
    transport = np.where(later, 0, first)
    packets = np.zeros((len(there), _PACKET_ROOM), np.uint8)
    wide = np.lib.stride_tricks.sliding_window_view(buffer, _NETWORK_ROOM)
    headers = wide[begin]
    bodies = wide[np.maximum(of.offset(_TRANSPORT)[there], 0)]
    joined = _whole(headers, network)
    packets[:, _DUMPED] = np.where(joined, 0, transport)
    transport = np.where(joined, transport, 0)
    for size in np.unique(network).tolist():
        rows = network == size
        packets[rows, :size] = headers[rows, :size]
        packets[rows, size : size + _TRANSPORT_ROOM] = bodies[rows, :_TRANSPORT_ROOM]
    offset = np.full(len(of), -1, np.int64)
    offset[there] = len(buffer) - len(netlink.PADDING) + np.arange(len(there)) * _PACKET_ROOM
    length = np.zeros(len(of), np.int32)
    length[there] = network + transport
    pieces = [buffer[: -len(netlink.PADDING)], packets.reshape(-1)]
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
    packets[~ipv6, 0] = 0x40 + _NETWORK_ROOM // 4
    offset = np.arange(len(rows)) * _PACKET_ROOM
    length = np.full(len(rows), _NETWORK_ROOM + _TRANSPORT_ROOM, np.int32)
    for protocol in _TRANSPORTS:
        packets[ipv6, 6] = protocol
        yield packets.reshape(-1), offset, length


def behind(events: TraceEvents, row: int) -> bytes:
    """The beginning of what nf_tables takes for the transport header behind IPv6's extensions.

    Empty where none was dumped, or the packet has it at its place.
    """
    start, length = int(events.payload[row]), int(events.payload_length[row])
    if knows_more(events, np.array([row])).all():
        length = _NETWORK_ROOM + int(events.buffer[start + _DUMPED])
    elif events.trace[row] < 0 or length <= _NETWORK_ROOM or not _is_signed(events.buffer[start:]):
        return b""
    return events.buffer[start + _NETWORK_ROOM : start + length].tobytes()


def _is_signed(packet: U8) -> bool:
    """Whether an authentication header follows that of IPv6 at once."""
    return bool(packet[0] >> 4 == 6 and packet[6] == _AUTH)  # noqa: PLR2004 - the version


def knows_more(events: TraceEvents, rows: I64) -> Mask:
    """Of which events a transport header was dumped, if not what protocol it is of; shape (n,)."""
    traced = (events.trace[rows] >= 0) & (events.payload[rows] >= 0)
    told: Mask = events.buffer[np.maximum(events.payload[rows], 0) + _DUMPED] > 0
    return traced & told


def _framed(of: netlink.Fields) -> Mask:
    """Whether the link header is one of Ethernet, by the type of the device that the packet came in by."""
    kind = np.where(of.there(_IIFTYPE), of.number(_IIFTYPE), of.number(_OIFTYPE)) >> 16
    untold = ~(of.there(_IIFTYPE) | of.there(_OIFTYPE))
    framed: Mask = of.there(_LINK) & (untold | np.isin(kind, _ETHERNET_TYPES))
    return framed & (of.length(_LINK) >= ethernet.HEADER)


def _protocol(
    buffer: U8, family: npt.NDArray[Any], of: netlink.Fields, framed: Mask
) -> npt.NDArray[np.uint16]:
    """The ethertype; 0: not known.

    At hooks of bridges and devices it is the frame's. At egress a device has not written the link's header yet:
    a packet with the version of IP in front is IP where the kernel found a transport header in it, or it has
    nothing else.
    """
    at = np.where(framed, of.offset(_LINK) + ethernet.TYPE, 0)
    type_ = ethernet.short(buffer, at)
    tagged = (
        framed
        & np.isin(type_, ethernet.TAGGED)
        & (of.length(_LINK) >= ethernet.HEADER + ethernet.TAG)
    )
    type_ = np.where(tagged, ethernet.short(buffer, at + ethernet.TAG), type_)
    type_[framed & (type_ < ethernet.LEAST_TYPE)] = 0
    first = np.where(of.there(_NETWORK), of.offset(_NETWORK), of.offset(_TRANSPORT))
    parsed = of.there(_TRANSPORT) | (of.length(_NETWORK) < _NETWORK_ROOM)
    version = np.where(parsed & (first >= 0), buffer.take(np.maximum(first, 0)) >> 4, 0)
    by_version = np.where(version == 4, _ETH_P_IP, np.where(version == 6, _ETH_P_IPV6, 0))  # noqa: PLR2004
    told = np.where(framed, type_, by_version)
    told[family == _NFPROTO_ARP] = _ETH_P_ARP
    told[family == AF_INET] = _ETH_P_IP
    told[family == AF_INET6] = _ETH_P_IPV6
    return told.astype(np.uint16)
