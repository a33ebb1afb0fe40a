"""Filters in tcpdump's language (man 7 pcap-filter), compiled by libpcap for bare IP packets.

One expression has two uses: as classic BPF bytecode for ``-m bpf`` while recording, and on stored
packets while showing. Both see a packet from its IP header on (DLT_RAW), so both mean the same.

libpcap is reached through the seven functions below. It resolves names by itself: a host name in an
expression asks the DNS, "port http" reads /etc/services. Numeric expressions open no socket.
"""

from __future__ import annotations

import ctypes
import platform
import weakref
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from iptrec.errors import HostError, RecordingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from iptrec.decode.nflog import NflogEvents

# uapi/linux/netfilter/xt_bpf.h, XT_BPF_MAX_NUM_INSTR
MOST_INSTRUCTIONS: Final = 64

_DLT_RAW: Final = 12  # pcap/dlt.h, on Linux
_SNAPLEN: Final = 0xFFFF
_OPTIMIZE: Final = 1
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF
_REJECTS_ALL: Final = "expression rejects all packets"

_FAMILIES: Final = {"ipv4": "ip", "ipv6": "ip6"}

# linux/bpf_common.h
_BPF_CLASS: Final = 0x07
_BPF_MODE: Final = 0xE0
_BPF_LOADS: Final = {0x00, 0x01}  # BPF_LD, BPF_LDX
_BPF_PACKET_MODES: Final = {0x20, 0x40, 0xA0}  # BPF_ABS, BPF_IND, BPF_MSH
_BPF_JA: Final = 0x05
# linux/filter.h, SKF_LL_OFF: from here on Linux gives offsets a meaning outside the packet.
_OUTSIDE: Final = 0xFFE00000

_LIBRARIES: Final = ("libpcap.so.0.8", "libpcap.so.1")  # Debian's soname, everybody else's
_WHEEL_FOLDERS: Final = {"i386": "x86", "i686": "x86"}  # others are called as uname does


class _Instruction(ctypes.Structure):
    """``struct bpf_insn``."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """``struct bpf_program``."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


# struct pcap_pkthdr: the time stamp is a struct timeval, two longs; nothing here reads it.
_PACKET_HEADER: Final = np.dtype(
    [("stamp", np.int64 if ctypes.sizeof(ctypes.c_long) == 8 else np.int32, 2),  # noqa: PLR2004 - bytes
     ("caplen", np.uint32), ("len", np.uint32)]
)  # fmt: skip


def compile_for_kernel(expression: str, family: Literal["ipv4", "ipv6"]) -> str | None:
    """Return the argument of ``-m bpf --bytecode`` for the part that this family can match.

    "N,code jt jf k,..." as nfbpf_compile(8) prints it; None if the expression can match no packet
    of the family. Raises UsageError for an expression that libpcap refuses (with its message), that
    matches nothing at all, or that the kernel would not take; HostError without libpcap.
    """
    # Alone first: then no parenthesis can reach out of the ones below, and complaints are about
    # what the user wrote.
    _freed_later(_compiled(expression))
    program = _compile(f"{_FAMILIES[family]} and ({expression})")
    if isinstance(program, str):
        if program == _REJECTS_ALL:
            return None
        raise UsageError(f'filter "{expression}": {program}')
    instructions = _listing(program)
    _freed_later(program)
    _refuse_what_xt_bpf_refuses(expression, instructions)
    return ",".join(
        [str(len(instructions))]
        + [f"{code} {jump} {other} {k}" for code, jump, other, k in instructions]
    )
