"""Columns out of a whole chunk of nfnetlink_log datagrams.

Layout: include/uapi/linux/netfilter/nfnetlink_log.h and nfnetlink_conntrack.h; how messages are walked is
in `netlink`. What attributes hold is big endian.

Recordings come from strangers: a length that lies costs its message and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import generations, netlink
from iptrec.decode.events import TraceEvents
from iptrec.decode.layouts import Layouts
from iptrec.decode.netlink import (
    ATTRIBUTE_HEADER,
    FAMILY_HEADER,
    LENGTH_MASK,
    MESSAGE_HEADER,
    Attributes,
    Fields,
    absent,
    attributes,
)

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from iptrec.names import I32, I64, U8, U32, U64, Mask

NFULNL_MSG_PACKET: Final = 0x0400

_PACKET_HDR, _MARK, _TIMESTAMP, _INDEV, _OUTDEV, _PHYSINDEV, _PHYSOUTDEV = range(1, 8)
_PAYLOAD, _PREFIX, _UID, _SEQ = range(9, 13)
_GID, _HWTYPE, _HWHEADER, _CT = 14, 15, 16, 18
_CTA_ID: Final = 12

# The shortest sound length of each attribute, by type; the last entry stands for all higher types.
_LEAST: Final = np.full(20, ATTRIBUTE_HEADER)
_LEAST[[_PACKET_HDR, _MARK, _INDEV, _OUTDEV, _PHYSINDEV, _PHYSOUTDEV, _UID, _SEQ, _GID]] = 8
_LEAST[_TIMESTAMP] = 20
_LEAST[_HWTYPE] = 6
_LEAST_CT: Final = np.full(14, ATTRIBUTE_HEADER)
_LEAST_CT[_CTA_ID] = 8

# NF_LOG_PREFIXLEN (include/net/netfilter/nf_log.h), the NUL included
_PREFIX_LONGEST: Final = ATTRIBUTE_HEADER + 128
_TOLD_BY: Final = (1, 2)  # protocol and hook; the length of the prefix
_BLOCK: Final = 8192  # messages; what they and their columns take stays in the processor's cache


def decode(data: bytes | U8, lengths: U32, received_ns: I64) -> TraceEvents:
    """Decode datagrams that lie back to back in ``data``.

    ``lengths`` (bytes) and ``received_ns`` have shape (n_datagrams,). Raises RecordingError when
    they do not describe ``data``; nothing inside the datagrams raises.
    """
    buffer, start, length = netlink.aligned(data, lengths, received_ns)
    words: U32 = buffer.view("<u4")
    datagram, message, size, undecoded = netlink.messages(words, start, length, NFULNL_MSG_PACKET)
    prefixes: dict[bytes, int] = {}
    layouts = Layouts(_LEAST, _TOLD_BY)
    blocks = []
    for first in range(0, max(len(message), 1), _BLOCK):
        block = slice(first, first + _BLOCK)
        at, sound = _packets(words, message[block], size[block], layouts)
        source, start_word = datagram[block], message[block]
        if not sound.all():
            undecoded[source[~sound]] = True
            rows = np.flatnonzero(sound)
            at, source, start_word = at.take(rows), source[rows], start_word[rows]
        columns = _columns(buffer, start_word, at, prefixes)
        blocks.append({"datagram": source, **columns})

    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return TraceEvents(
        buffer=buffer,
        head=columns["datagram"],
        received_ns=received_ns[columns["datagram"]],
        sent_ns=received_ns[columns["datagram"]],
        estimated=np.zeros(len(columns["datagram"]), np.bool_),
        sites=list(prefixes),
        generations=generations.NONE,
        undecoded=np.flatnonzero(undecoded),
        **columns,
    )


def _packets(words: U32, message: I64, size: I64, layouts: Layouts) -> tuple[Attributes, Mask]:
    """Find the attributes of packet messages, and say which messages are sound.

    An attribute is given by the word of its header; that of CTA_ID stands in for its NFULA_CT.
    """
    at, sound = layouts.walk(words, message + FAMILY_HEADER // 4, size - FAMILY_HEADER)
    sound &= (words.take(at[_PREFIX]) & LENGTH_MASK) <= _PREFIX_LONGEST
    if at.has(_CT):
        nested = np.flatnonzero(at[_CT] != absent(words))
        outer = at[_CT][nested]
        inside = (words.take(outer) & LENGTH_MASK).astype(np.int64) - ATTRIBUTE_HEADER
        inner, inner_sound = attributes(words, outer + 1, inside, _LEAST_CT)
        at.put(_CT, nested, inner[_CTA_ID])
        sound[nested] &= inner_sound
    return at, sound


def _columns(
    buffer: npt.NDArray[np.uint8], message: I64, at: Attributes, prefixes: dict[bytes, int]
) -> dict[str, npt.NDArray[Any]]:
    """Read the fields of sound messages; new prefixes get the next numbers in ``prefixes``."""
    of = Fields(buffer, at)
    header = of.number(_PACKET_HDR)
    link, link_length = _frames(buffer, of)
    return {
        "message": message << 2,
        "stamp_ns": _nanoseconds(*(of.number(_TIMESTAMP, word) for word in (1, 2, 3, 4))),
        "seq": of.or_none(_SEQ, of.number(_SEQ)),
        "family": buffer.take((message << 2) + MESSAGE_HEADER),
        "hook": np.where(of.there(_PACKET_HDR), header >> 8, 255).astype(np.uint8),
        "protocol": (header >> 16).astype(np.uint16),
        "site": of.texts(_PREFIX, buffer, prefixes),
        "mark": of.number(_MARK),
        "indev": of.number(_INDEV),
        "intype": (of.number(_HWTYPE) >> 16).astype(np.uint16),
        "outdev": of.number(_OUTDEV),
        "physindev": of.number(_PHYSINDEV),
        "physoutdev": of.number(_PHYSOUTDEV),
        "payload": of.offset(_PAYLOAD),
        "payload_length": of.length(_PAYLOAD),
        "link": link,
        "link_length": link_length,
        "uid": of.or_none(_UID, of.number(_UID)),
        "gid": of.or_none(_GID, of.number(_GID)),
        "ct_state": np.zeros(len(message), np.uint8),
        "ct_direction": np.full(len(message), -1, np.int8),
        "ct_status": np.full(len(message), -1, np.int64),
        "conntrack": of.or_none(_CT, of.number(_CT)),
        "trace": np.full(len(message), -1, np.int64),
    }


def _frames(buffer: npt.NDArray[np.uint8], of: Fields) -> tuple[I64, I32]:
    """Where the link-layer header is, and its length.

    Of what the kernel clones for the listeners here (net/core/dev.c, dev_loopback_xmit) it sends the beginning
    of the packet: that never had one.
    """
    link, length = of.offset(_HWHEADER), of.length(_HWHEADER)
    long: U64 = np.ndarray((len(buffer) - 7,), "<u8", buffer, strides=(1,))
    same = np.flatnonzero(long[link] == long[of.offset(_PAYLOAD)])
    if len(same):
        shorter = np.minimum(length[same], of.length(_PAYLOAD)[same])
        bare = same[shorter >= 8]  # noqa: PLR2004 - bytes that were compared
        link[bare], length[bare] = -1, 0
    return link, length


def _nanoseconds(high_seconds: U32, seconds: U32, high_microseconds: U32, microseconds: U32) -> I64:
    """Join the two 64-bit numbers of NFULA_TIMESTAMP; 0 where one does not fit into its lower half."""
    time = seconds.astype(np.int64) * 1_000_000_000 + microseconds.astype(np.int64) * 1000
    time[(high_seconds | high_microseconds) != 0] = 0
    return time
