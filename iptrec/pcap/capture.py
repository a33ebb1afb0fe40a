"""Captures of nflog that other programs made (`tcpdump -i nflog:0 -w FILE`), read by libpcap itself.

A packet of LINKTYPE_NFLOG is what the kernel sent behind the header of netlink: struct nfgenmsg and
attributes in the byte order of the host, which libpcap turns to ours.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from iptrec.decode.nflog import NFULNL_MSG_PACKET
from iptrec.errors import RecordingError, strerror
from iptrec.libc import libc
from iptrec.pcap.libpcap import PacketHeader, libpcap

if TYPE_CHECKING:
    from collections.abc import Iterator

_NFLOG: Final = 239  # https://www.tcpdump.org/linktypes.html
_NANOSECONDS: Final = 1
_ERROR_BYTES: Final = 256  # PCAP_ERRBUF_SIZE
_END_OF_TIME: Final = 1 << 62  # ns
_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr


libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
libc.fclose.argtypes = [ctypes.c_void_p]


def open_to_read(path: str) -> int:
    """The descriptor of a file or a pipe; one that nobody has open to write is empty, and not waited for.

    Raises OSError; ValueError for what is not a name.
    """
    found = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(found, True)
    return found


class Captured(NamedTuple):
    """A datagram as a recording holds it, and when it was captured (epoch, ns)."""

    time_ns: int
    datagram: bytes
    whole: bool = True  # not cut to the capture's snaplen


class Capture:
    """An open capture; a context manager, and an iterator over what it holds, in order.

    ``snaplen``: bytes of each message that were kept. ``damage``: what libpcap said where the file broke
    off, "" if it was read to its end. "-" is stdin; ``descriptor``: where it is open already, closed with it.
    Raises `RecordingError` for what is no capture of nflog.
    """

    kind = "nflog"
    rulesets = ()

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self._path = path
        self._libpcap = libpcap()
        self.damage = ""
        self.detail: dict[str, Any] = {"group": 0, "sequence": False}
        self.links: dict[int, str] = {}
        self.lost: list[Any] = []
        self.remarks: list[str] = []
        complaint = ctypes.create_string_buffer(_ERROR_BYTES)
        try:
            if descriptor is None:
                descriptor = os.dup(0) if path == "-" else open_to_read(path)
            file = libc.fdopen(descriptor, b"rb")
        except ValueError:  # a NUL byte
            raise RecordingError(f"cannot open {path!r}: that is not a file name") from None
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {strerror(error)}") from None
        self._handle = self._libpcap.pcap_fopen_offline_with_tstamp_precision(
            file, _NANOSECONDS, complaint
        )
        if not self._handle:
            libc.fclose(file)
            fact = complaint.value.decode("utf-8", "backslashreplace")
            raise RecordingError(f"cannot read {path}: {fact}")
        kind = self._libpcap.pcap_datalink(self._handle)
        if kind != _NFLOG:
            name = self._libpcap.pcap_datalink_val_to_name(kind)
            self.__exit__()
            raise RecordingError(
                f"{path} holds packets of type {name.decode() if name else kind}, not NFLOG; capture with:"
                " tcpdump -i nflog:0 -w FILE"
            )
        self.snaplen = int(self._libpcap.pcap_snapshot(self._handle))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle:
            self._libpcap.pcap_close(self._handle)
            self._handle = None

    def __iter__(self) -> Iterator[Captured]:
        header = ctypes.POINTER(PacketHeader)()
        data = ctypes.c_void_p()
        while (
            status := self._libpcap.pcap_next_ex(
                self._handle, ctypes.byref(header), ctypes.byref(data)
            )
        ) == 1:
            one = header.contents
            time_ns = one.seconds * 1_000_000_000 + one.fraction
            if not 0 <= time_ns < _END_OF_TIME:
                self.damage = f"a packet says that it is of {one.seconds} s after 1970"
                return
            message = ctypes.string_at(data, one.captured) if one.captured else b""
            yield Captured(
                time_ns,
                _HEADER.pack(_HEADER.size + len(message), NFULNL_MSG_PACKET, 0, 0, 0) + message,
                one.captured >= one.length,
            )
        if status == -1:  # PCAP_ERROR; -2 is the end
            said = self._libpcap.pcap_geterr(self._handle)
            self.damage = said.decode("utf-8", "backslashreplace").strip()
