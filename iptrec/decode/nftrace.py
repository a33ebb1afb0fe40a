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
from iptrec.decode.nft_packets import NETWORK, NETWORK_ROOM, TRANSPORT, packets
from iptrec.decode.traces import Traces
from iptrec.names import AF_INET, AF_INET6, ASKED, NFT_FAMILIES

if TYPE_CHECKING:
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

_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _LINK = range(1, 8)
_IIF, _IIFTYPE, _OIF, _OIFTYPE, _MARK, _NFPROTO, _POLICY = range(10, 17)
_CT_ID, _CT_DIRECTION, _CT_STATUS, _CT_STATE = range(18, 22)  # from Linux 6.16 on
_SITE: Final = (_TABLE, _CHAIN, _HANDLE, _VERDICT, _POLICY)
_DUMPS: Final = (NETWORK, TRANSPORT, _IIF, _OIF)
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
    nowhere = netlink.absent(words)
    for needed in (_TABLE, _CHAIN, _ID):
        sound &= at[needed] != nowhere
    sound &= (at[_POLICY] != nowhere) | (at[_VERDICT] != nowhere)
    rows = np.flatnonzero(sound)
    if len(rows) < len(sound):
        example, alike = _alike(buffer, message[rows], at.take(rows))
    else:
        example, alike = _alike(buffer, message, at)
    verdict, whole = _nested(words, at[_VERDICT][rows[example]])
    for names in (at[_TABLE][rows[example]], at[_CHAIN][rows[example]], verdict[_TARGET]):
        whole &= (words.take(names) & LENGTH_MASK) <= _LONGEST_NAME
    sound[rows] = whole[alike]
    undecoded[datagram[~sound]] = True
    generations = _generations(words, start, length, received_ns)
    undecoded[generations.datagram] = False
    if not sound.all():
        rows = np.flatnonzero(sound)
        datagram, message, at = datagram[rows], message[rows], at.take(rows)
        example, alike = _alike(buffer, message, at)
    columns = _columns(buffer, message, at, example, alike)
    return TraceEvents(
        datagram=datagram,
        head=datagram[columns.pop("head")],
        received_ns=received_ns[datagram],
        sent_ns=received_ns[datagram],
        estimated=np.zeros(len(datagram), np.bool_),
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


def _alike(buffer: U8, message: I64, at: Attributes) -> tuple[I64, I64]:
    """Messages that tell of the same site: one of each, and for every message the number of its equal.

    The bytes from the first to the last of the attributes that tell it are equal. What is too long to compare
    is alike to nothing.
    """
    words: U32 = buffer.view("<u4")
    first, end = at.span(words, _SITE)
    length = (end - first) << 2
    family = buffer.take((message << 2) + MESSAGE_HEADER)
    kinds = netlink.Fields(buffer, at).number(_TYPE)
    short = np.flatnonzero(length <= netlink.LONGEST_TEXT)
    beside = (family[short], kinds[short])
    rows = netlink.bytes_of(buffer, first[short] << 2, length[short], beside)
    example, number = netlink.distinct(rows)
    if len(short) == len(message):
        return example, number
    alike = np.empty(len(message), np.int64)
    alike[short] = number
    long = np.flatnonzero(length > netlink.LONGEST_TEXT)
    alike[long] = len(example) + np.arange(len(long))
    return np.concatenate([short[example], long]), alike


def _nested(words: U32, outer: I64) -> tuple[Attributes, Mask]:
    """The attributes inside of NFTA_TRACE_VERDICT; none where that is absent."""
    there = outer != netlink.absent(words)
    left = (words.take(outer) & LENGTH_MASK).astype(np.int64) - ATTRIBUTE_HEADER
    at, sound = netlink.attributes(words, outer + 1, np.where(there, left, 0), _LEAST_VERDICT)
    return Attributes.of(words, at), sound


def _columns(buffer: U8, message: I64, at: Attributes, example: I64, alike: I64) -> dict[str, Any]:
    """All fields of sound messages but those of their datagrams; ``example``, ``alike``: see `_alike`."""
    of = netlink.Fields(buffer, at)
    n = len(message)
    family = buffer.take((message << 2) + MESSAGE_HEADER)
    packet_family = np.where(of.there(_NFPROTO), of.number(_NFPROTO), family)
    of_sites, sites, tables = _sites(buffer, at.take(example), family[example])
    site, table = of_sites[alike], tables[alike]
    trace = buffer.view("<u4").take(at[_ID] + 1).astype(np.int64)  # in the host's byte order
    stolen = np.array([one.verdict == STOLEN for one in sites], np.bool_)[site]
    dumps = np.logical_or.reduce([of.there(one) for one in _DUMPS])
    told, source = _dumped(trace, table, stolen, dumps)
    mark = of.number(_MARK)
    brought = np.flatnonzero(dumps)
    of = netlink.Fields(buffer, at.take(brought))
    framed = _framed(of)
    protocol = _protocol(buffer, packet_family[brought], of, framed)
    buffer, payload, payload_length = packets(buffer, of)
    # Which of those brought the packet of each event; the last one stands for none.
    which = np.full(n + 1, len(brought))
    which[brought] = np.arange(len(brought))
    carrier = which.take(source)

    def carried(column: npt.NDArray[Any], without: int) -> npt.NDArray[Any]:
        return np.append(column, np.array([without], column.dtype)).take(carrier)

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
        "mark": mark[told],
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


def _sites(buffer: U8, at: Attributes, family: U8) -> tuple[I32, list[NftSite], I64]:
    """The number of each event's site, the sites, and a number for each event's table."""
    of = netlink.Fields(buffer, at)
    verdict = netlink.Fields(buffer, _nested(buffer.view("<u4"), at[_VERDICT])[0])
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
    traces = Traces(trace)
    source = traces.latest(dumps)
    source[(source >= 0) & (table[source] != table) & ~stolen] = -1
    if not stolen.any():
        return np.arange(len(trace)), source
    told = traces.latest(~stolen)
    return np.where(told >= 0, told, np.arange(len(trace))), source


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
    first = np.where(of.there(NETWORK), of.offset(NETWORK), of.offset(TRANSPORT))
    parsed = of.there(TRANSPORT) | (of.length(NETWORK) < NETWORK_ROOM)
    version = np.where(parsed & (first >= 0), buffer.take(np.maximum(first, 0)) >> 4, 0)
    by_version = np.where(version == 4, _ETH_P_IP, np.where(version == 6, _ETH_P_IPV6, 0))  # noqa: PLR2004
    told = np.where(framed, type_, by_version)
    told[family == _NFPROTO_ARP] = _ETH_P_ARP
    told[family == AF_INET] = _ETH_P_IP
    told[family == AF_INET6] = _ETH_P_IPV6
    return told.astype(np.uint16)
