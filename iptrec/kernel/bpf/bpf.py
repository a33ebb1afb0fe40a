"""bpf(2) by itself: maps, programs, and the few instructions that ours are made of.

include/uapi/linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst. What is made
here are descriptors: gone with the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Final

from iptrec.errors import strerror
from iptrec.libc import libc

_CALLS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280}  # __NR_bpf
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN, _MAP_FREEZE = 0, 2, 5, 17, 22
_LINK_CREATE: Final = 28
HASH, ARRAY, RINGBUF = 1, 2, 27  # enum bpf_map_type
LRU_HASH: Final = 9
READ_ONLY, MMAPABLE = 1 << 7, 1 << 10  # BPF_F_RDONLY_PROG, BPF_F_MMAPABLE
_SOCKET_FILTER, _TRACING = 1, 26  # BPF_PROG_TYPE_
_TRACE_RAW_TP: Final = 23
_NETFILTER, _AT_NETFILTER = 32, 45  # BPF_PROG_TYPE_NETFILTER, BPF_NETFILTER
_LOG_BYTES: Final = 1 << 20
_SO_ATTACH_BPF: Final = 50  # asm-generic/socket.h
_STATISTICS: Final = ("processed ", "verification time", "stack depth")

# Sizes of loads and stores, and helpers (enum bpf_func_id).
BYTE, HALF, WORD, LONG = 0x10, 0x08, 0x00, 0x18
LOOKUP, UPDATE, KTIME, CPU, LOAD_BYTES, PROBE_READ_KERNEL = 1, 2, 5, 8, 26, 113
OUTPUT, RESERVE, SUBMIT, DISCARD, CURRENT_TASK, SNPRINTF = 130, 131, 132, 133, 158, 165
PROBE_READ_USER, TASK_REGISTERS = 112, 175
# Jumps: of 64 bits, and one of 32.
ALWAYS, EQUAL, ABOVE, BITS, NOT_EQUAL, BELOW = 0x05, 0x15, 0x25, 0x45, 0x55, 0xA5
NOT_EQUAL_32: Final = 0x56

Code = list[bytes | tuple[int, int, int, str] | str]


def insn(code: int, to: int = 0, by: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction; ``value``: 32 bits, signed or not."""
    return struct.pack("=BBhI", code, by << 4 | to, offset, value & 0xFFFFFFFF)


def load(size: int, to: int, by: int, offset: int = 0) -> bytes:
    """Load what is behind a register into another one."""
    return insn(0x61 | size, to, by, offset)


def store(size: int, to: int, offset: int, by: int) -> bytes:
    """Store a register behind another one."""
    return insn(0x63 | size, to, by, offset)


def store_value(size: int, to: int, offset: int, value: int) -> bytes:
    """Store a number behind a register."""
    return insn(0x62 | size, to, 0, offset, value)


def move(to: int, by: int) -> bytes:
    """Copy a register."""
    return insn(0xBF, to, by)


def number(to: int, value: int) -> bytes:
    """Set a register."""
    return insn(0xB7, to, value=value)


def add(to: int, value: int) -> bytes:
    """Add a number to a register."""
    return insn(0x07, to, value=value)


def add_register(to: int, by: int) -> bytes:
    """Add a register to another one."""
    return insn(0x0F, to, by)


def subtract(to: int, by: int) -> bytes:
    """Subtract a register from another one."""
    return insn(0x1F, to, by)


def add_in_memory(to: int, by: int) -> bytes:
    """Add a register to the 64 bits behind another one, at once for all processors."""
    return insn(0xDB, to, by)


def count_in_memory(to: int, by: int) -> bytes:
    """The same, and the second register has what was there before."""
    return insn(0xDB, to, by, value=1)


def and_(to: int, value: int) -> bytes:
    """Keep some bits of a register."""
    return insn(0x57, to, value=value)


def shift(to: int, bits: int) -> bytes:
    """Shift a register to the left."""
    return insn(0x67, to, value=bits)


def big_endian(to: int) -> bytes:
    """Turn the 16 bits of a register from the host's byte order into the network's, or back."""
    return insn(0xDC, to, value=16)


def load_packet(size: int, offset: int) -> bytes:
    """Set register 0 to a field of the message that register 6 has the context of, in network byte order."""
    return insn(0x20 | size, value=offset)


def call(helper: int) -> bytes:
    """Call a helper: arguments in registers 1 to 5, its answer in 0."""
    return insn(0x85, value=helper)


def map_itself(to: int, descriptor: int) -> bytes:
    """Set a register to a map (BPF_PSEUDO_MAP_FD)."""
    return insn(0x18, to, 1, value=descriptor) + insn(0)


def map_value(to: int, descriptor: int) -> bytes:
    """Set a register to the value of an array of one (BPF_PSEUDO_MAP_VALUE)."""
    return insn(0x18, to, 2, value=descriptor) + insn(0)


EXIT: Final = insn(0x95)


def assembled(code: Code) -> bytes:
    """Instructions with the jumps' offsets.

    ``code``: instructions, the names of places in it, and jumps: (code, register, value, place).
    """
    places: dict[str, int] = {}
    at = 0
    for one in code:
        if isinstance(one, str):
            places[one] = at
        else:
            at += len(one) // 8 if isinstance(one, bytes) else 1
    done = b""
    for one in code:
        if isinstance(one, bytes):
            done += one
        elif not isinstance(one, str):
            kind, register, value, place = one
            done += insn(kind, register, 0, places[place] - len(done) // 8 - 1, value)
    return done


def new_map(kind: int, *, key: int = 0, value: int = 0, entries: int, flags: int = 0) -> int:
    """Make a map; its descriptor. ``key``, ``value``: bytes. Raises OSError."""
    return _bpf(_MAP_CREATE, struct.pack("=5I", kind, key, value, entries, flags))


def fill(array: int, value: bytes) -> None:
    """Set the value of an array of one, and let nobody change it any more. Raises OSError."""
    key, text = ctypes.create_string_buffer(4), ctypes.create_string_buffer(value, len(value))
    where = ctypes.addressof(key), ctypes.addressof(text)
    _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", array, 0, *where, 0))
    _bpf(_MAP_FREEZE, struct.pack("=I", array))


def tracing(code: bytes, licence: bytes, typedef: int, name: bytes) -> int:
    """Load a program for a tracepoint; its descriptor. ``typedef``: the number of its btf_trace_...

    Raises OSError; where the kernel's verifier refuses, with its last words.
    """
    where = struct.pack("=II36xI4x", 0, _TRACE_RAW_TP, typedef)
    return _loaded(_TRACING, code, licence, name, where)


def socket_filter(code: bytes, licence: bytes, name: bytes) -> int:
    """Load a filter of a socket; its descriptor. Raises OSError as `tracing` does."""
    return _loaded(_SOCKET_FILTER, code, licence, name)


def filtered(opened: socket.socket, program: int) -> None:
    """Let only those messages into a socket that a `socket_filter` passes. Raises OSError."""
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program)


def netfilter(code: bytes, licence: bytes) -> int:
    """Load a program for a hook of netfilter; its descriptor. Raises OSError as `tracing` does."""
    where = struct.pack("=II", 0, _AT_NETFILTER)
    return _loaded(_NETFILTER, code, licence, b"iptrec_senders", where)


def hooked(program: int, family: int, hook: int, priority: int) -> int:
    """Put a program of `netfilter` at a hook of this network namespace, until this descriptor is closed.

    ``family``, ``hook``: NFPROTO_ and NF_INET_ numbers. Raises OSError: EBUSY where the priority is taken.
    """
    where = struct.pack("=IIiI", family, hook, priority, 0)
    return _bpf(_LINK_CREATE, struct.pack("=4I", program, 0, _AT_NETFILTER, 0) + where)


def _loaded(kind: int, code: bytes, licence: bytes, name: bytes, where: bytes = b"") -> int:
    text, words = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(licence)
    log = ctypes.create_string_buffer(_LOG_BYTES)
    given = len(code) // 8, ctypes.addressof(text), ctypes.addressof(words)

    def loaded(*logging: int) -> int:
        head = struct.pack("=IIQQIIQII16s", kind, *given, *logging, 0, 0, name)
        return _bpf(_PROG_LOAD, head + where)

    try:
        return loaded(0, 0, 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
    try:
        return loaded(1, _LOG_BYTES, ctypes.addressof(log))
    except OSError as error:
        lines = log.value.decode("latin-1").strip().splitlines()
        told = [line for line in lines if not line.startswith(_STATISTICS)]
        fact = f"{strerror(error)} ({told[-1]})" if told else strerror(error)
        raise OSError(error.errno, fact) from None


def attached(program: int) -> int:
    """Attach a program of `tracing`: it runs until this descriptor is closed. Raises OSError."""
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", 0, program))


def _bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2)."""
    machine = os.uname().machine
    if machine not in _CALLS:
        raise OSError(errno.ENOSYS, f"not known how to call bpf(2) on {machine}")
    room = ctypes.create_string_buffer(attributes, len(attributes))
    found: int = libc.syscall(_CALLS[machine], command, room, len(attributes))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found
