"""The programs that see a table of legacy iptables replaced, and what they write.

No tracepoint is in x_tables. But a process that replaces a table takes counters for the new rules, a page for
each processor, before the kernel goes over to them, and gives those of the old ones back when no processor
walks them any more (net/ipv4/netfilter/ip_tables.c, translate_table and __do_replace;
net/netfilter/x_tables.c, xt_percpu_counter_alloc, xt_replace_table, xt_percpu_counter_free). Both have
tracepoints. Which table it is stands in the arguments of the setsockopt(2) that the process is in; whose it
is, its socket tells. What the kernel gives back for others meanwhile, such as counters of a process that ended
just before, looks as if this one did: only pages are told, with their addresses, by which those of a table
are known.

Another program, a filter of the socket that traces come out of, counts these: what was counted when a
replacement began was told by the old rules.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.errors import HostError
from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.bpf import HALF, LONG, WORD, load, move, number, store, store_value
from iptrec.kernel.bpf.btf import FUNCTION

if TYPE_CHECKING:
    from iptrec.kernel.bpf.btf import Btf

LICENCE: Final = b"Dual MIT/GPL"  # the kernel asks for it of what reads its memory
TAKEN, GIVEN_BACK = "btf_trace_percpu_alloc_percpu", "btf_trace_percpu_free_percpu"
LAYOUT: Final = np.dtype(
    [
        ("time", "<i8"), ("process", "<u8"), ("page", "<u8"), ("level", "<u4"), ("begins", "<u4"),
        ("table", "S32"),
    ]
)  # fmt: skip
RECORD: Final = LAYOUT.itemsize
# What is written beside the ring: how many records found no room, how many tables were replaced in ways that
# are not followed, how many messages there were; how many replacements began, and of each when, and after how
# many messages.
LOST, STRANGE, MESSAGES, BEGUN, PLACES = 0, 8, 16, 24, 32
SLOTS: Final = 64
NOTES: Final = PLACES + 16 * SLOTS

_PAGE: Final = 4096  # XT_PCPU_BLOCK_SIZE: so large, and so aligned, is what is taken
_GIVEN: Final = 2  # of base_addr, off, ptr
_SET_REPLACE: Final = 64  # IPT_SO_SET_REPLACE, IP6T_SO_SET_REPLACE; SOL_IP is 0, SOL_IPV6 41
_KERNEL_THREAD: Final = 0x200000  # PF_KTHREAD
_LOG_PACKET: Final = 0x0400  # NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
_KIND_AT: Final = 4  # struct nlmsghdr
_NO_WAKEUP, _WAKEUP = 1, 2  # BPF_RB_
_OFFSETS: Final = {name: offset for name, (_, offset, *_) in (LAYOUT.fields or {}).items()}
_R0, _R1, _R2, _R3, _CTX, _REGISTERS, _TASK, _RECORD, _STACK = 0, 1, 2, 3, 6, 7, 8, 9, 10
_POINTER: Final = -8  # in the stack


class _Machine(NamedTuple):
    """How system calls are made: the field of struct pt_regs with their number, and those of arguments.

    ``arguments``: of the first four, fields and the bytes from there.
    """

    number: str
    setsockopt: int
    getsockopt: int
    arguments: tuple[tuple[str, int], ...]


_MACHINES: Final = {
    "x86_64": _Machine("orig_ax", 54, 55, (("di", 0), ("si", 0), ("dx", 0), ("r10", 0))),
    "aarch64": _Machine(
        "syscallno", 208, 209, (("orig_x0", 0), ("regs", 8), ("regs", 16), ("regs", 24))
    ),
}


class Maps(NamedTuple):
    """Descriptors: of the ring, and of the notes beside it."""

    ring: int
    notes: int


def require_way(btf: Btf) -> None:
    """Raise `HostError` where replacements cannot be seen on this machine.

    Looked at before maps are made: kernels before 5.11 refuse those with EPERM, of which limits are the cause.
    """
    btf.number("bpf_task_pt_regs", FUNCTION)  # from Linux 5.15 on
    if os.uname().machine not in _MACHINES:
        raise HostError(f"not known how system calls are made on {os.uname().machine}")
    if os.sysconf("SC_NPROCESSORS_CONF") == 1:
        raise HostError("with one processor the kernel takes no counters")


def taken(btf: Btf, maps: Maps, netns: int) -> bytes:
    """The program where counters are taken: a replacement begins."""
    size = 3 if btf.parameters(TAKEN) > 10 else 2  # noqa: PLR2004 - from 5.19 on behind call_site
    whole = [
        part
        for at in (size, size + 1)
        for part in (load(LONG, _R1, _CTX, 8 * at), (bpf.NOT_EQUAL, _R1, _PAGE, "exit"))
    ]
    noted: bpf.Code = [
        *_page(size + 4),
        bpf.map_value(_R2, maps.notes),
        load(LONG, _TASK, _R2, MESSAGES),  # before the time is: what was counted by then
        bpf.call(bpf.KTIME),
        store(LONG, _RECORD, _OFFSETS["time"], _R0),
        store_value(WORD, _RECORD, _OFFSETS["begins"], 1),
        bpf.map_value(_R2, maps.notes),
        bpf.add(_R2, BEGUN),
        number(_R1, 1),
        bpf.count_in_memory(_R2, _R1),
        bpf.and_(_R1, SLOTS - 1),
        bpf.shift(_R1, 4),
        bpf.map_value(_R2, maps.notes),
        bpf.add_register(_R2, _R1),
        store(LONG, _R2, PLACES, _R0),
        store(LONG, _R2, PLACES + 8, _TASK),
    ]
    return bpf.assembled(
        [
            move(_CTX, _R1),
            *whole,
            *_call(btf, maps, strange=True),
            *_ours(btf, netns),
            *_record(btf, maps),
            *noted,
            *_end(_NO_WAKEUP),
        ]
    )


def given_back(btf: Btf, maps: Maps, netns: int) -> bytes:
    """The program where counters are given back: a replacement has ended."""
    return bpf.assembled(
        [
            move(_CTX, _R1),
            load(LONG, _R1, _CTX, 8 * _GIVEN),
            (bpf.BITS, _R1, _PAGE - 1, "exit"),
            *_call(btf, maps, strange=False),
            *_ours(btf, netns),
            *_record(btf, maps),
            *_page(_GIVEN),
            bpf.call(bpf.KTIME),
            store(LONG, _RECORD, _OFFSETS["time"], _R0),
            store_value(WORD, _RECORD, _OFFSETS["begins"], 0),
            *_end(_WAKEUP),
        ]
    )


def counting(maps: Maps) -> bytes:
    """The filter that counts messages with packets, and takes all whole."""
    return bpf.assembled(
        [
            move(_CTX, _R1),
            bpf.load_packet(HALF, _KIND_AT),
            (bpf.NOT_EQUAL, _R0, socket.htons(_LOG_PACKET), "in"),
            *_count(maps, MESSAGES),
            "in",
            number(_R0, -1),
            bpf.EXIT,
        ]
    )


def _page(parameter: int) -> list[bytes]:
    """Note the address of the counters."""
    return [
        load(LONG, _R1, _CTX, 8 * parameter),
        store(LONG, _RECORD, _OFFSETS["page"], _R1),
    ]


def _argument(btf: Btf, which: int, size: int, to: int) -> bytes:
    field, behind = _MACHINES[os.uname().machine].arguments[which]
    return load(size, to, _REGISTERS, btf.field("pt_regs", field).byte + behind)


def _call(btf: Btf, maps: Maps, *, strange: bool) -> bpf.Code:
    """Leave unless the process is in a setsockopt(2) that replaces a table.

    ``strange``: note where it is in none that could. getsockopt(2) loads a table, which nobody has
    looked at before.
    """
    machine = _MACHINES[os.uname().machine]
    size = WORD if machine.number == "syscallno" else LONG
    other: bpf.Code = [(bpf.NOT_EQUAL, _R1, machine.setsockopt, "exit")]
    if strange:
        other = [
            (bpf.EQUAL, _R1, machine.setsockopt, "set"),
            (bpf.EQUAL, _R1, machine.getsockopt, "exit"),
            *_count(maps, STRANGE),
            (bpf.ALWAYS, 0, 0, "exit"),
            "set",
        ]
    return [
        bpf.call(bpf.CURRENT_TASK),
        move(_TASK, _R0),
        load(WORD, _R1, _TASK, btf.field("task_struct", "flags").byte),
        (bpf.BITS, _R1, _KERNEL_THREAD, "exit"),
        move(_R1, _TASK),
        bpf.call(bpf.TASK_REGISTERS),
        move(_REGISTERS, _R0),
        load(size, _R1, _REGISTERS, btf.field("pt_regs", machine.number).byte),
        *other,
        _argument(btf, 2, WORD, _R1),
        (bpf.NOT_EQUAL, _R1, _SET_REPLACE, "exit"),
        _argument(btf, 1, WORD, _R1),
        (bpf.EQUAL, _R1, socket.SOL_IP, "replaces"),
        (bpf.NOT_EQUAL, _R1, socket.IPPROTO_IPV6, "exit"),
        "replaces",
    ]


def _ours(btf: Btf, netns: int) -> bpf.Code:
    """Leave where the socket is of another network namespace."""
    way = (
        btf.field("files_struct", "fdt").byte,
        btf.field("fdtable", "fd").byte,
        None,
        btf.field("file", "private_data").byte,
        btf.field("socket", "sk").byte,
        btf.field("sock_common", "skc_net").byte,
    )
    inum = btf.field("net", "ns").byte + btf.field("ns_common", "inum").byte
    found: bpf.Code = [
        load(LONG, _R3, _TASK, btf.field("task_struct", "files").byte),
    ]
    for offset in way:
        if offset is None:  # the descriptor's place in the list of files
            found += [_argument(btf, 0, WORD, _R1), bpf.shift(_R1, 3), bpf.add_register(_R3, _R1)]
        else:
            found += [bpf.add(_R3, offset)]
        found += [*_read(8), load(LONG, _R3, _STACK, _POINTER)]
    return [
        *found,
        bpf.add(_R3, inum),
        *_read(4),
        load(WORD, _R1, _STACK, _POINTER),
        (bpf.EQUAL, _R1, 0, "ours"),  # not known
        (bpf.NOT_EQUAL_32, _R1, netns, "exit"),
        "ours",
    ]


def _read(size: int) -> list[bytes]:
    """Read what register 3 points to into the stack; 0 where that cannot be read."""
    return [
        store_value(LONG, _STACK, _POINTER, 0),
        move(_R1, _STACK),
        bpf.add(_R1, _POINTER),
        number(_R2, size),
        bpf.call(bpf.PROBE_READ_KERNEL),
    ]


def _record(btf: Btf, maps: Maps) -> bpf.Code:
    """Take a record of the ring, and note what does not depend on the time."""
    return [
        bpf.map_itself(_R1, maps.ring),
        number(_R2, RECORD),
        number(_R3, 0),
        bpf.call(bpf.RESERVE),
        (bpf.NOT_EQUAL, _R0, 0, "reserved"),
        *_count(maps, LOST),
        (bpf.ALWAYS, 0, 0, "exit"),
        "reserved",
        move(_RECORD, _R0),
        load(WORD, _R1, _TASK, btf.field("task_struct", "pid").byte),
        store(LONG, _RECORD, _OFFSETS["process"], _R1),
        _argument(btf, 1, WORD, _R1),
        store(WORD, _RECORD, _OFFSETS["level"], _R1),
        move(_R1, _RECORD),
        bpf.add(_R1, _OFFSETS["table"]),
        number(_R2, LAYOUT["table"].itemsize),
        _argument(btf, 3, LONG, _R3),
        bpf.call(bpf.PROBE_READ_USER),
    ]


def _count(maps: Maps, offset: int) -> list[bytes]:
    return [
        bpf.map_value(_R1, maps.notes),
        bpf.add(_R1, offset),
        number(_R2, 1),
        bpf.add_in_memory(_R1, _R2),
    ]


def _end(wakeup: int) -> bpf.Code:
    """Hand the record over."""
    return [
        move(_R1, _RECORD),
        number(_R2, wakeup),
        bpf.call(bpf.SUBMIT),
        "exit",
        number(_R0, 0),
        bpf.EXIT,
    ]
