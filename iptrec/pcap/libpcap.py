"""The system's libpcap, through ctypes.

Types are those of man 3 pcap, pcap/bpf.h and pcap/pcap.h on 64-bit Linux.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from iptrec.errors import HostError

_SONAMES: Final = (
    "libpcap.so.0.8",
    "libpcap.so.1",
    "libpcap.dylib",
)  # Debian's, everybody else's, macOS's


class Instruction(ctypes.Structure):
    """``struct bpf_insn``."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    """``struct bpf_program``."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(Instruction)))


class PacketHeader(ctypes.Structure):
    """``struct pcap_pkthdr``; where nanoseconds were asked for, the second field holds them."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("fraction", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


@cache
def libpcap() -> ctypes.CDLL:
    """The library. Raises `HostError` where there is none."""
    for name in _SONAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return _declare(library)
    raise HostError("libpcap: not found; install it (Debian and Ubuntu: apt install libpcap0.8)")


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the functions that are used here their types (man 3 pcap; pcap/bpf.h)."""
    program = ctypes.POINTER(Program)
    prototypes: dict[str, tuple[type | None, list[type]]] = {
        "pcap_open_dead": (ctypes.c_void_p, [ctypes.c_int, ctypes.c_int]),
        "pcap_compile": (
            ctypes.c_int,
            [ctypes.c_void_p, program, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32],
        ),
        "pcap_geterr": (ctypes.c_char_p, [ctypes.c_void_p]),
        "pcap_freecode": (None, [program]),
        "pcap_close": (None, [ctypes.c_void_p]),
        "pcap_fopen_offline_with_tstamp_precision": (
            ctypes.c_void_p,
            [ctypes.c_void_p, ctypes.c_uint, ctypes.c_char_p],
        ),
        "pcap_datalink": (ctypes.c_int, [ctypes.c_void_p]),
        "pcap_datalink_val_to_name": (ctypes.c_char_p, [ctypes.c_int]),
        "pcap_snapshot": (ctypes.c_int, [ctypes.c_void_p]),
        "pcap_next_ex": (
            ctypes.c_int,
            [
                ctypes.c_void_p,
                ctypes.POINTER(ctypes.POINTER(PacketHeader)),
                ctypes.POINTER(ctypes.c_void_p),
            ],
        ),
        "bpf_filter": (
            ctypes.c_uint,
            [ctypes.POINTER(Instruction), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint],
        ),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
