"""The program that runs where packets begin at OUTPUT, right behind the raw table's TRACE, and what it writes.

It looks at skb->nf_trace first: packets that are not traced cost a load and a test. Of others it tells once
for each socket and process who sends. The current task is the sender only where it runs on behalf of itself:

- TCP also sends out of softirq, in whatever process that interrupted; but not for a socket that a process has
  locked, whose packets wait for it in the backlog (net/ipv4/tcp_ipv4.c, tcp_v4_rcv; the timers alike). So
  sk_lock.owned tells process context. Listening sockets are not locked by who answers for them, and left out.
- UDP and echo requests are sent by sendmsg(2) and its like alone, and pass OUTPUT before that returns.
- Sockets of the kernel (sk_kern_sock, such as NFS has them), kernel threads, and who frees memory by network
  block devices (PF_MEMALLOC, also set by NBD itself) tell nothing.
- Tunnels and IPsec leave the inner packet's socket at the outer one: its protocol and source port differ.

What a socket is called is its inode, as in /proc/PID/fd: another one has another number.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.errors import HostError
from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.bpf import BYTE, HALF, LONG, WORD, load, move, store, store_value

if TYPE_CHECKING:
    from iptrec.kernel.bpf.btf import Btf

LICENCE: Final = b"Dual MIT/GPL"  # the kernel asks for it of what reads its memory
# What makes a fact: the first `KEY` bytes. What the map keeps of it: the next `VALUE` bytes. When it is told.
LAYOUT: Final = np.dtype(
    [
        ("inode", "<u8"), ("cgroup", "<u8"), ("pid", "<u4"), ("uid", "<u4"), ("protocol", "<u2"),
        ("family", "<u2"), ("port", "<u2"), ("peer_port", ">u2"), ("address", "V16"), ("peer", "V16"),
        ("comm", "S16"), ("since", "<i8"), ("turn", "<u4"), ("state", "<u4"), ("time", "<i8"),
    ]
)  # fmt: skip
RECORD: Final = LAYOUT.itemsize
_OFFSETS: Final = {name: offset for name, (_, offset, *_) in (LAYOUT.fields or {}).items()}
KEY: Final = _OFFSETS["since"]
VALUE: Final = _OFFSETS["time"] - KEY
# What is shared with the recorder: how many facts found no room in the ring, and which turn it is.
LOST, TURN = 0, 8
NOTES: Final = 16

_SKB, _SOCK, _TASK, _PROTOCOL = 6, 7, 8, 9  # registers that calls leave alone
_R0, _R1, _R2, _R3, _R4, _STACK = 0, 1, 2, 3, 4, 10
_FACT: Final = -RECORD  # in the stack
_HEADER_AT, _NUMBER_AT = _FACT - 8, _FACT - 16  # of the packet: its transport header, its protocol
_ACCEPT: Final = 1
_TIME_WAIT, _LISTEN, _NEW_SYN_RECV = 6, 10, 12  # of the states of TCP
_NEVER_SENDING: Final = 0x00200000 | 0x00000800  # PF_KTHREAD, PF_MEMALLOC
_TCP, _UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
_STREAM, _DGRAM, _RAW = 1, 2, 3
_NO_WAKEUP: Final = 1


class Maps(NamedTuple):
    """Descriptors: of the ring, of the facts that were told, of `NOTES`."""

    ring: int
    told: int
    notes: int


class _Family(NamedTuple):
    """Where IP's header tells the protocol, that of echo requests, and their type."""

    number: int
    protocol_at: int
    echo: int
    request: int


_FAMILIES: Final = {
    "ipv4": _Family(4, 9, socket.IPPROTO_ICMP, 8),
    "ipv6": _Family(6, 6, socket.IPPROTO_ICMPV6, 128),
}


def require_programs(btf: Btf) -> None:
    """Raise `HostError` where netfilter takes no programs."""
    try:
        btf.field("bpf_nf_ctx", "skb")
    except HostError:
        fact = "this kernel takes no programs of netfilter: Linux 6.4 and later ones do"
        raise HostError(fact) from None


def code(btf: Btf, maps: Maps, family: str) -> bytes:
    """The program for one kernel and family. Raises `HostError` where this kernel lacks something."""
    kind = _FAMILIES[family]
    parts = (
        _traced(btf),
        _socket(btf),
        _protocol(btf, kind),
        _packet(btf, kind),
        _task(btf),
        _fact(btf, kind),
        _told(maps),
        _tell(maps),
    )
    return bpf.assembled([one for part in parts for one in part])


def _traced(btf: Btf) -> bpf.Code:
    """Leave unless the packet is traced."""
    traced = btf.field("sk_buff", "nf_trace")
    return [
        load(LONG, _SKB, _R1, btf.field("bpf_nf_ctx", "skb").byte),
        load(BYTE, _R1, _SKB, traced.byte),
        (bpf.BITS, _R1, traced.mask, "traced"),
        (bpf.ALWAYS, 0, 0, "exit"),
        "traced",
    ]


def _socket(btf: Btf) -> bpf.Code:
    """Leave unless it is of a whole socket of a program; keep its inode."""
    kernels = btf.field("sock", "sk_kern_sock")
    way = [("sock", "sk_socket"), ("socket", "file"), ("file", "f_inode")]
    follow = [
        step
        for structure, field in way
        for step in (
            load(LONG, _R1, _R1, btf.field(structure, field).byte),
            (bpf.EQUAL, _R1, 0, "exit"),
        )
    ]
    return [
        load(LONG, _SOCK, _SKB, btf.field("sk_buff", "sk").byte),
        (bpf.EQUAL, _SOCK, 0, "exit"),
        load(BYTE, _R2, _SOCK, btf.field("sock_common", "skc_state").byte),
        (bpf.EQUAL, _R2, _TIME_WAIT, "exit"),
        (bpf.EQUAL, _R2, _NEW_SYN_RECV, "exit"),
        (bpf.EQUAL, _R2, _LISTEN, "exit"),
        _kept("state", WORD, _R2),
        load(BYTE, _R1, _SOCK, kernels.byte),
        (bpf.BITS, _R1, kernels.mask, "exit"),
        move(_R1, _SOCK),
        *follow,
        load(LONG, _R1, _R1, btf.field("inode", "i_ino").byte),
        _kept("inode", LONG, _R1),
    ]


def _protocol(btf: Btf, kind: _Family) -> bpf.Code:
    """Leave unless the current task must be the one that sends by a socket of this protocol and type."""
    return [
        load(HALF, _PROTOCOL, _SOCK, btf.field("sock", "sk_protocol").byte),
        load(HALF, _R1, _SOCK, btf.field("sock", "sk_type").byte),
        (bpf.EQUAL, _PROTOCOL, _TCP, "tcp"),
        (bpf.EQUAL, _PROTOCOL, _UDP, "udp"),
        (bpf.NOT_EQUAL, _PROTOCOL, kind.echo, "exit"),
        (bpf.EQUAL, _R1, _RAW, "process"),
        "udp",
        (bpf.NOT_EQUAL, _R1, _DGRAM, "exit"),
        (bpf.ALWAYS, 0, 0, "process"),
        "tcp",
        (bpf.NOT_EQUAL, _R1, _STREAM, "exit"),
        load(WORD, _R1, _SOCK, btf.field_of("sock", "sk_lock", "owned").byte),
        (bpf.EQUAL, _R1, 0, "exit"),
        "process",
    ]


def _packet(btf: Btf, kind: _Family) -> bpf.Code:
    """Leave unless it is the socket's own packet: of its protocol and port, or an echo request with its id."""
    return [
        store_value(LONG, _STACK, _HEADER_AT, 0),
        store_value(LONG, _STACK, _NUMBER_AT, 0),
        *_read(btf, "network_header", kind.protocol_at, 1, _NUMBER_AT),
        *_read(btf, "transport_header", 0, 8, _HEADER_AT),
        load(BYTE, _R1, _STACK, _NUMBER_AT),
        bpf.subtract(_R1, _PROTOCOL),
        (bpf.NOT_EQUAL, _R1, 0, "exit"),
        (bpf.EQUAL, _PROTOCOL, kind.echo, "echo"),
        load(HALF, _R1, _STACK, _HEADER_AT),
        bpf.big_endian(_R1),
        load(HALF, _R2, _SOCK, btf.field("sock_common", "skc_num").byte),
        bpf.subtract(_R2, _R1),
        (bpf.NOT_EQUAL, _R2, 0, "exit"),
        (bpf.ALWAYS, 0, 0, "own"),
        "echo",
        load(BYTE, _R1, _STACK, _HEADER_AT),
        (bpf.NOT_EQUAL, _R1, kind.request, "exit"),
        load(HALF, _R1, _STACK, _HEADER_AT + 4),
        bpf.big_endian(_R1),
        "own",
        _kept("port", HALF, _R1),
    ]


def _read(btf: Btf, header: str, offset: int, size: int, to: int) -> list[bytes]:
    """Read a part of one of the packet's headers into the stack."""
    return [
        load(HALF, _R3, _SKB, btf.field("sk_buff", header).byte),
        load(LONG, _R1, _SKB, btf.field("sk_buff", "head").byte),
        bpf.add_register(_R3, _R1),
        bpf.add(_R3, offset),
        move(_R1, _STACK),
        bpf.add(_R1, to),
        bpf.number(_R2, size),
        bpf.call(bpf.PROBE_READ_KERNEL),
    ]


def _task(btf: Btf) -> bpf.Code:
    """The process: its number and name, as /proc/PID has them."""
    comm = btf.field("task_struct", "comm").byte
    return [
        bpf.call(bpf.CURRENT_TASK),
        move(_TASK, _R0),
        load(WORD, _R1, _TASK, btf.field("task_struct", "flags").byte),
        (bpf.BITS, _R1, _NEVER_SENDING, "exit"),
        load(WORD, _R1, _TASK, btf.field("task_struct", "tgid").byte),
        _kept("pid", WORD, _R1),
        load(LONG, _TASK, _TASK, btf.field("task_struct", "group_leader").byte),
        load(LONG, _R1, _TASK, comm),
        _kept("comm", LONG, _R1),
        load(LONG, _R1, _TASK, comm + 8),
        _kept("comm", LONG, _R1, 8),
    ]


def _fact(btf: Btf, kind: _Family) -> bpf.Code:
    """What the socket tells: user, control group, both of its ends."""
    group = btf.field("sock", "sk_cgrp_data").byte + btf.field("sock_cgroup_data", "cgroup").byte
    ends = {"address": "skc_rcv_saddr", "peer": "skc_daddr"}
    if kind.number == _FAMILIES["ipv6"].number:
        ends = {"address": "skc_v6_rcv_saddr", "peer": "skc_v6_daddr"}
    copied = [
        one
        for field, name in ends.items()
        for one in _address(field, btf.field("sock_common", name).byte, kind)
    ]
    return [
        load(WORD, _R1, _SOCK, btf.field("sock", "sk_uid").byte),
        _kept("uid", WORD, _R1),
        load(LONG, _R1, _SOCK, group),
        (bpf.EQUAL, _R1, 0, "no group"),
        load(LONG, _R1, _R1, btf.field("cgroup", "kn").byte),
        load(LONG, _R1, _R1, btf.field("kernfs_node", "id").byte),
        "no group",
        _kept("cgroup", LONG, _R1),
        _kept("protocol", HALF, _PROTOCOL),
        store_value(HALF, _STACK, _at("family"), kind.number),
        load(HALF, _R1, _SOCK, btf.field("sock_common", "skc_dport").byte),
        _kept("peer_port", HALF, _R1),
        *copied,
    ]


def _address(field: str, at: int, kind: _Family) -> list[bytes]:
    if kind.number == _FAMILIES["ipv4"].number:
        return [
            load(WORD, _R1, _SOCK, at),
            _kept(field, LONG, _R1),
            store_value(LONG, _STACK, _at(field) + 8, 0),
        ]
    return [
        one
        for half in (0, 8)
        for one in (load(LONG, _R1, _SOCK, at + half), _kept(field, LONG, _R1, half))
    ]


def _told(maps: Maps) -> bpf.Code:
    """Leave where it was told in this turn; else what is kept of it, as of when it was told first."""
    return [
        bpf.map_value(_TASK, maps.notes),
        load(LONG, _TASK, _TASK, TURN),
        bpf.map_itself(_R1, maps.told),
        *_pointer(_R2, "inode"),
        bpf.call(bpf.LOOKUP),
        (bpf.EQUAL, _R0, 0, "new"),
        load(WORD, _R1, _R0, _OFFSETS["turn"] - KEY),
        bpf.subtract(_R1, _TASK),
        (bpf.EQUAL, _R1, 0, "exit"),
        load(LONG, _R1, _R0, 0),
        _kept("since", LONG, _R1),
        load(WORD, _R1, _R0, _OFFSETS["state"] - KEY),
        _kept("state", WORD, _R1),
        bpf.call(bpf.KTIME),
        (bpf.ALWAYS, 0, 0, "tell"),
        "new",
        bpf.call(bpf.KTIME),
        _kept("since", LONG, _R0),
        "tell",
        _kept("time", LONG, _R0),
        _kept("turn", WORD, _TASK),
    ]


def _tell(maps: Maps) -> bpf.Code:
    """Put it into the ring, and note that. Nobody is woken: the packet's trace has done that."""
    return [
        bpf.map_itself(_R1, maps.ring),
        *_pointer(_R2, "inode"),
        bpf.number(_R3, RECORD),
        bpf.number(_R4, _NO_WAKEUP),
        bpf.call(bpf.OUTPUT),
        (bpf.EQUAL, _R0, 0, "written"),
        bpf.map_value(_R1, maps.notes),
        bpf.number(_R2, 1),
        bpf.add_in_memory(_R1, _R2),
        (bpf.ALWAYS, 0, 0, "exit"),
        "written",
        bpf.map_itself(_R1, maps.told),
        *_pointer(_R2, "inode"),
        *_pointer(_R3, "since"),
        bpf.number(_R4, 0),
        bpf.call(bpf.UPDATE),
        "exit",
        bpf.number(_R0, _ACCEPT),
        bpf.EXIT,
    ]


def _pointer(to: int, field: str) -> list[bytes]:
    """Let a register point to a field of the fact."""
    return [move(to, _STACK), bpf.add(to, _at(field))]


def _kept(field: str, size: int, by: int, offset: int = 0) -> bytes:
    """Store a register in a field of the fact."""
    return store(size, _STACK, _at(field) + offset, by)


def _at(field: str) -> int:
    """Where a field of the fact is in the stack."""
    return _FACT + _OFFSETS[field]
