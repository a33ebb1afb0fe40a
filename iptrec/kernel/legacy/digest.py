"""A table of legacy iptables as the kernel holds it: enough to see, quickly, whether it changed.

The kernel copies a whole table out in one call (net/ipv4/netfilter/ip_tables.c, get_entries), without any
lock of ours: no iptables command has to wait. What differs between two looks at the same rules
are their counters, and these are left out.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

import numpy as np

from iptrec.errors import HostError, strerror
from iptrec.kernel import host
from iptrec.libc import libc

if TYPE_CHECKING:
    from iptrec.names import I64, U8, Family


# include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h
_GET_INFO, _GET_ENTRIES = 64, 65
_GET_REVISION: Final = {"match": 66, "target": 67}
_EXTENSION: Final = 29  # XT_EXTENSION_MAXNAMELEN, and u8 revision
_NAME: Final = 32  # XT_TABLE_MAXNAMELEN
_INFO: Final = (
    84  # struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
)
_HEAD: Final = 40  # struct ipt_get_entries: name, size, aligned to 8
_COUNTERS: Final = 16
_TRIES: Final = 10
_NAMES: Final = {
    "ipv4": Path("/proc/thread-self/net/ip_tables_names"),
    "ipv6": Path("/proc/thread-self/net/ip6_tables_names"),
}
_MODULES: Final = {"ipv4": "ip_tables", "ipv6": "ip6_tables"}
COMMENT: Final = re.compile(rb"iptrec:[0-9a-f-]{36}(?=\0)")  # of our rules, as kernels hold it


class _Layout(NamedTuple):
    """Where struct ipt_entry and ip6t_entry have next_offset (u16) and their counters."""

    address_family: int
    level: int
    next_offset: int
    counters: int


_LAYOUTS: Final = {
    "ipv4": _Layout(socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    "ipv6": _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}


def loaded(family: Family) -> list[str] | None:
    """The tables that are loaded; None where the kernel does not say (a namespace of the user's own)."""
    try:
        return host.read(_NAMES[family]).split()
    except OSError:
        return None


class Taken(NamedTuple):
    """What the kernel gave of a table: struct ipt_getinfo, and its entries."""

    info: bytes
    raw: U8


class Copy(NamedTuple):
    """A table as it was copied out of the kernel, counters 0.

    ``digest``: of its rules and policies. ``info``, ``entries``: struct ipt_getinfo and struct ipt_get_entries.
    """

    digest: bytes
    info: bytes
    entries: bytes


def _asked(table: str, info: bytes) -> bytearray:
    """The head of struct ipt_get_entries for a table: its name, and the size of its entries."""
    return bytearray(table.encode().ljust(_NAME, b"\0") + info[-4:].ljust(_HEAD - _NAME, b"\0"))


@dataclass(slots=True)
class _Seen:
    """The last look at a table: its info, where its entries begin, and the digest."""

    info: bytes
    entries: I64
    digest: bytes


class Tables:
    """The tables of one family in the current network namespace; a context manager.

    Raises `HostError` where the kernel does not let us look (no CAP_NET_ADMIN).
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._layout = _LAYOUTS[family]
        self._seen: dict[str, _Seen] = {}
        try:
            self._socket = socket.socket(
                self._layout.address_family,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                socket.IPPROTO_RAW,
            )
        except OSError as error:
            raise HostError(f"cannot look at the {family} tables: {strerror(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def loaded(self) -> list[str] | None:
        """The tables that are loaded; see `loaded`."""
        return loaded(self._family)

    def knows(self, kind: Literal["match", "target"], name: str) -> bool:
        """Whether the kernel has a match or target, revision 0; it loads the module if it can.

        Nobody answers before ip_tables is there (ENOPROTOOPT): it is loaded, as the first iptables would.
        """
        try:
            try:
                self._ask_for(kind, name)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT or not host.modprobe(_MODULES[self._family]):
                    raise
                self._ask_for(kind, name)
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.ENOENT):
                return False
            raise self._refused(name, error) from None
        return True

    def _ask_for(self, kind: Literal["match", "target"], name: str) -> None:
        buffer = bytearray(_EXTENSION + 1)
        buffer[: len(name)] = name.encode()
        self._get(_GET_REVISION[kind], buffer)

    def unchanged_in_size(self, table: str) -> bool:
        """Whether a table has the shape that it had at the last `digest`: cheap, but not proof."""
        seen = self._seen.get(table)
        return seen is not None and self._info(table) == seen.info

    def digest(self, table: str) -> bytes:
        """A hash of the table's rules and policies, without counters. Asking for a table loads it."""
        return self._remember(table, *self._entries(table))

    def taken(self, table: str) -> Taken:
        """The whole table, at once; `copy` makes of it what can be kept."""
        return Taken(*self._entries(table))

    def copy(self, table: str, taken: Taken) -> Copy:
        """A copy of the table as it was taken, with its digest."""
        digest = self._remember(table, *taken)
        return Copy(digest, taken.info, bytes(_asked(table, taken.info)) + taken.raw.tobytes())

    def ours(self, table: str) -> list[str]:
        """The comments of recorders' rules in the table, one for each rule (xt_comment keeps their text)."""
        return [one.decode() for one in COMMENT.findall(self._entries(table)[1].tobytes())]

    def entries(self, table: str) -> int:
        """How many entries there are: a rule is one, and each chain and the table have some of their own."""
        return int.from_bytes(self._info(table)[-8:-4], "little")

    def _entries(self, table: str) -> tuple[bytes, U8]:
        """The table's info, and its entries."""
        for _ in range(_TRIES):
            info = self._info(table)
            buffer = _asked(table, info) + bytes(int.from_bytes(info[-4:], "little"))
            try:
                self._get(_GET_ENTRIES, buffer)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # replaced by one of another size meanwhile
                    continue
                raise self._refused(table, error) from None
            return info, np.frombuffer(buffer, np.uint8, offset=_HEAD)
        raise HostError(f"the {self._family} table {table} changes all the time; try again later")

    def _remember(self, table: str, info: bytes, raw: U8) -> bytes:
        seen = self._seen.get(table)
        alike = seen is not None and self._fits(raw, seen.entries)
        entries = seen.entries if seen is not None and alike else self._walk(raw)
        raw[(entries[:, None] + self._layout.counters + np.arange(_COUNTERS)).ravel()] = 0
        digest = hashlib.blake2b(raw.data, digest_size=16).digest()
        self._seen[table] = _Seen(info, entries, digest)
        return digest

    def _walk(self, raw: U8) -> I64:
        """Where each entry begins."""
        steps = raw[: len(raw) & ~1].view("<u2")
        at, entries = 0, []
        while at + self._layout.next_offset + 2 <= len(raw):
            entries.append(at)
            step = int(steps[(at + self._layout.next_offset) >> 1])
            if step == 0:
                break
            at += step
        return np.array(entries, np.int64)

    def _fits(self, raw: U8, entries: I64) -> bool:
        """Whether the entries lie where those of the last look lay."""
        if not len(entries) or int(entries[-1]) + self._layout.counters + _COUNTERS > len(raw):
            return False
        steps = raw[: len(raw) & ~1].view("<u2")[(entries + self._layout.next_offset) >> 1]
        return bool((np.diff(entries, append=len(raw)) == steps).all())

    def _info(self, table: str) -> bytes:
        buffer = bytearray(_INFO)
        buffer[: len(table)] = table.encode()
        try:
            self._get(_GET_INFO, buffer)
        except OSError as error:
            raise self._refused(table, error) from None
        return bytes(buffer)

    def _get(self, option: int, buffer: bytearray) -> None:
        length = ctypes.c_uint32(len(buffer))
        pointer = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        if libc.getsockopt(
            self._socket.fileno(), self._layout.level, option, pointer, ctypes.byref(length)
        ):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _refused(self, table: str, error: OSError) -> HostError:
        return HostError(f"cannot look at the {self._family} table {table}: {strerror(error)}")
