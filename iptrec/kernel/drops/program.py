"""The program that runs where the kernel drops a packet (tracepoint skb:kfree_skb), and what it writes.

``-j TRACE`` and ``meta nftrace set 1`` set skb->nf_trace: the program looks at that bit first, so that all
other packets cost a load and a test. A record is `HEAD` bytes, the packet from its network header on, and room
for the symbol of the place in the kernel that dropped it, written once for each place (bpf_snprintf, %pS).

The namespace is that of the socket or of the device. Neither needs to be known: skb->dev is NULL for TCP behind
tcp_v4_rcv, and something else in a receive queue of UDP; the socket that was to get it is an argument from
Linux 6.11 on. A packet of an unknown namespace is recorded, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.errors import HostError
from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.bpf import BYTE, HALF, LONG, WORD, load, move, store, store_value

if TYPE_CHECKING:
    from iptrec.kernel.bpf.btf import Btf

TYPEDEF: Final = "btf_trace_kfree_skb"
LICENCE: Final = (
    b"Dual MIT/GPL"  # the kernel asks for it: what reads its memory is for GPL'd programs
)
# What is before the packet, as the program writes it; `decode.drops` has it as well.
LAYOUT: Final = np.dtype(
    [
        ("time", "<i8"), ("place", "<u8"), ("skb", "<u8"), ("reason", "<u4"), ("netns", "<u4"),
        ("ifindex", "<u4"), ("iif", "<u4"), ("mark", "<u4"), ("length", "<u4"), ("protocol", ">u2"),
        ("captured", "<u2"), ("cpu", "<u4"), ("uid", "<u4"), ("flags", "<u4"),
    ]
)  # fmt: skip
HEAD: Final = LAYOUT.itemsize
SYMBOL: Final = 64  # and behind it
FORMAT: Final = b"%pS\0"
# Flags of a record: it has the symbol; a copy shares the packet's bytes, or did; none does. Older records have
# neither of the last two.
NEW_PLACE, CLONED, ALONE = 1, 2, 4

_SIZES: Final = {2: HALF, 4: WORD, 8: LONG}
_OFFSETS: Final = {name: offset for name, (_, offset, *_) in (LAYOUT.fields or {}).items()}
_CTX, _SKB_, _RECORD, _FOUND = 6, 7, 8, 9  # registers that calls leave alone
_R0, _R1, _R2, _R3, _R4, _R5, _STACK = 0, 1, 2, 3, 4, 5, 10
_UID_AT, _IFINDEX_AT, _PLACE_AT, _ONE_AT = -8, -16, -24, -32  # in the stack
_ARGUMENTS: Final = 5  # skb, location, reason, rx_sk, and what the tracepoint itself is given
_TIME_WAIT, _NEW_SYN_RECV = 6, 12  # states of what is not a whole socket
_NOBODY: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF


class Maps(NamedTuple):
    """Descriptors: of the ring, of the number of records that found no room in it, of places, of the format."""

    ring: int
    lost: int
    places: int
    format: int


def require_reasons(btf: Btf) -> None:
    """Raise `HostError` where the tracepoint has no argument for them.

    Looked at before maps are made: kernels before 5.11 refuse those with EPERM, of which limits are the cause
    (RLIMIT_MEMLOCK) and not rights.
    """
    if btf.parameters(TYPEDEF) < _ARGUMENTS - 1:
        raise HostError("this kernel tells no reasons of drops: Linux 5.17 and later ones do")


def code(btf: Btf, maps: Maps, netns: int, snaplen: int) -> bytes:
    """The program for one kernel and one namespace. Raises `HostError` where this kernel lacks something."""
    rx_sk = btf.parameters(TYPEDEF) >= _ARGUMENTS
    parts = (
        _traced(btf),
        _socket("rx_sk", load(LONG, _R1, _CTX, 24), btf) if rx_sk else [],
        _socket("sk", load(LONG, _R1, _SKB_, btf.field("sk_buff", "sk").byte), btf),
        _device(btf, netns),
        _reserved(maps, HEAD + snaplen + SYMBOL),
        _head(btf),
        _packet(btf, snaplen),
        _symbol(maps, HEAD + snaplen),
        _end(),
    )
    return bpf.assembled([one for part in parts for one in part])


def _traced(btf: Btf) -> bpf.Code:
    """Leave unless the packet is traced."""
    traced = btf.field("sk_buff", "nf_trace")
    return [
        move(_CTX, _R1),
        load(LONG, _SKB_, _CTX, 0),
        load(BYTE, _R1, _SKB_, traced.byte),
        (bpf.BITS, _R1, traced.mask, "traced"),
        (bpf.ALWAYS, 0, 0, "exit"),
        "traced",
        bpf.number(_FOUND, 0),
        store_value(LONG, _STACK, _UID_AT, _NOBODY),
        store_value(LONG, _STACK, _IFINDEX_AT, 0),
    ]


def _netns(btf: Btf, structure: str, field: str, to: int) -> list[bytes]:
    """From the pointer to a socket or device in register 1 to the number of its namespace in another one."""
    inum = btf.field("net", "ns").byte + btf.field("ns_common", "inum").byte
    return [load(LONG, _R2, _R1, btf.field(structure, field).byte), load(WORD, to, _R2, inum)]


def _socket(name: str, pointer: bytes, btf: Btf) -> bpf.Code:
    """What a socket tells, unless one before it told it: namespace, and user where it is a whole one."""
    to_network, inum = _netns(btf, "sock_common", "skc_net", _FOUND)
    done = f"{name}: done"
    return [
        (bpf.NOT_EQUAL, _FOUND, 0, done),
        pointer,
        (bpf.EQUAL, _R1, 0, done),
        to_network,
        (bpf.EQUAL, _R2, 0, done),
        inum,
        load(BYTE, _R2, _R1, btf.field("sock_common", "skc_state").byte),
        (bpf.EQUAL, _R2, _TIME_WAIT, done),
        (bpf.EQUAL, _R2, _NEW_SYN_RECV, done),
        load(WORD, _R2, _R1, btf.field("sock", "sk_uid").byte),
        store(LONG, _STACK, _UID_AT, _R2),
        done,
    ]


def _device(btf: Btf, netns: int) -> bpf.Code:
    """What the device tells, and leave where the namespace is known and another one."""
    to_network, inum = _netns(btf, "net_device", "nd_net", _R3)
    return [
        load(LONG, _R1, _SKB_, btf.field("sk_buff", "dev").byte),
        (bpf.EQUAL, _R1, 0, "no device"),
        to_network,
        (bpf.EQUAL, _R2, 0, "no device"),
        inum,
        (bpf.NOT_EQUAL, _FOUND, 0, "no question"),
        move(_FOUND, _R3),
        "no question",
        (bpf.NOT_EQUAL_32, _R3, netns, "no device"),
        load(WORD, _R2, _R1, btf.field("net_device", "ifindex").byte),
        store(LONG, _STACK, _IFINDEX_AT, _R2),
        "no device",
        (bpf.EQUAL, _FOUND, 0, "ours"),
        (bpf.NOT_EQUAL_32, _FOUND, netns, "exit"),
        "ours",
    ]


def _reserved(maps: Maps, size: int) -> bpf.Code:
    """Take a record of the ring; where there is none, count that and leave."""
    return [
        bpf.map_itself(_R1, maps.ring),
        bpf.number(_R2, size),
        bpf.number(_R3, 0),
        bpf.call(bpf.RESERVE),
        (bpf.NOT_EQUAL, _R0, 0, "reserved"),
        bpf.map_value(_R1, maps.lost),
        bpf.number(_R2, 1),
        bpf.add_in_memory(_R1, _R2),
        (bpf.ALWAYS, 0, 0, "exit"),
        "reserved",
        move(_RECORD, _R0),
    ]


def _head(btf: Btf) -> bpf.Code:
    """All that is of a fixed size."""
    of_skb = {"iif": "skb_iif", "mark": "mark", "length": "len", "protocol": "protocol"}
    copied = [
        one
        for field, name in of_skb.items()
        for one in (
            load(_where(field)[0], _R1, _SKB_, btf.field("sk_buff", name).byte),
            _kept(field, _R1),
        )
    ]
    return [
        bpf.call(bpf.KTIME),
        _kept("time", _R0),
        bpf.call(bpf.CPU),
        _kept("cpu", _R0),
        load(LONG, _R1, _CTX, 8),
        _kept("place", _R1),
        store(LONG, _STACK, _PLACE_AT, _R1),
        load(LONG, _R1, _CTX, 16),
        _kept("reason", _R1),
        _kept("skb", _SKB_),
        _kept("netns", _FOUND),
        load(LONG, _R1, _STACK, _UID_AT),
        _kept("uid", _R1),
        load(LONG, _R1, _STACK, _IFINDEX_AT),
        _kept("ifindex", _R1),
        _set("captured", 0),
        *copied,
        *_cloned(btf),
    ]


def _cloned(btf: Btf) -> bpf.Code:
    """Whether the packet was cloned, since its bytes were made its own (skb->cloned)."""
    cloned = btf.field("sk_buff", "cloned")
    return [
        _set("flags", CLONED),
        load(BYTE, _R1, _SKB_, cloned.byte),
        (bpf.BITS, _R1, cloned.mask, "cloned"),
        _set("flags", ALONE),
        "cloned",
    ]


def _packet(btf: Btf, snaplen: int) -> bpf.Code:
    """The packet from its network header on, as far as it is in one piece.

    Verifiers differ: two plain comparisons of 64 bits are understood by all.
    """
    return [
        load(HALF, _R3, _SKB_, btf.field("sk_buff", "network_header").byte),
        load(WORD, _R2, _SKB_, btf.field("sk_buff", "tail").byte),
        bpf.subtract(_R2, _R3),
        (bpf.ABOVE, _R2, _POSITIVE, "copied"),
        (bpf.EQUAL, _R2, 0, "copied"),
        (bpf.BELOW, _R2, snaplen, "short"),
        bpf.number(_R2, snaplen),
        "short",
        _kept("captured", _R2),
        load(LONG, _R1, _SKB_, btf.field("sk_buff", "head").byte),
        bpf.add_register(_R3, _R1),
        move(_R1, _RECORD),
        bpf.add(_R1, HEAD),
        bpf.call(bpf.PROBE_READ_KERNEL),
        "copied",
    ]


def _symbol(maps: Maps, offset: int) -> bpf.Code:
    """The symbol of the place, where it is the first record of it."""
    key = [move(_R2, _STACK), bpf.add(_R2, _PLACE_AT)]
    flags, at = _where("flags")
    return [
        bpf.map_itself(_R1, maps.places),
        *key,
        bpf.call(bpf.LOOKUP),
        (bpf.NOT_EQUAL, _R0, 0, "known"),
        move(_R1, _RECORD),
        bpf.add(_R1, offset),
        bpf.number(_R2, SYMBOL),
        bpf.map_value(_R3, maps.format),
        move(_R4, _STACK),
        bpf.add(_R4, _PLACE_AT),
        bpf.number(_R5, 8),
        bpf.call(bpf.SNPRINTF),
        load(flags, _R1, _RECORD, at),
        bpf.add(_R1, NEW_PLACE),
        _kept("flags", _R1),
        store_value(LONG, _STACK, _ONE_AT, 1),
        bpf.map_itself(_R1, maps.places),
        *key,
        move(_R3, _STACK),
        bpf.add(_R3, _ONE_AT),
        bpf.number(_R4, 0),
        bpf.call(bpf.UPDATE),
        "known",
    ]


def _end() -> bpf.Code:
    """Hand the record over. Nobody is woken: what is traced has woken the recorder already."""
    return [
        move(_R1, _RECORD),
        bpf.number(_R2, 1),  # BPF_RB_NO_WAKEUP
        bpf.call(bpf.SUBMIT),
        "exit",
        bpf.number(_R0, 0),
        bpf.EXIT,
    ]


def _kept(field: str, by: int) -> bytes:
    """Store a register in a field of the record."""
    size, offset = _where(field)
    return store(size, _RECORD, offset, by)


def _set(field: str, value: int) -> bytes:
    """Store a number in a field of the record."""
    size, offset = _where(field)
    return store_value(size, _RECORD, offset, value)


def _where(field: str) -> tuple[int, int]:
    """The size of a field as loads and stores have it, and its offset in the record."""
    return _SIZES[LAYOUT[field].itemsize], _OFFSETS[field]
