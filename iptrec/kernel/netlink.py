"""Netlink: sockets, multicast groups, messages and their attributes.

man 7 netlink; include/uapi/linux/netlink.h and linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from iptrec.errors import HostError, strerror

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROUTE, NETFILTER = 0, 12  # NETLINK_
REQUEST, ACK, DUMP = 1, 4, 0x300  # NLM_F_
NONREC, CREATE, APPEND = 0x100, 0x400, 0x800
INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR
ERROR, DONE = 2, 3  # NLMSG_; an error whose errno is 0 acknowledges
_NETFILTER_HEAD: Final = 4  # struct nfgenmsg
NETFILTER_HEAD: Final = 20  # struct nlmsghdr and struct nfgenmsg
LARGEST: Final = 65536  # an answer; dumps come in pieces of at most 32 KiB

_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _CAP_ACK = 270, 1, 2, 10
_SO_ATTACH_FILTER: Final = 26
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_SO_MEMINFO: Final = 55  # nine u32 (linux/sock_diag.h); the last counts what found no room
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_CODE: Final = struct.Struct("=i")
_TYPE: Final = 0x3FFF  # of an attribute, without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def connected(protocol: int = NETFILTER, port: int = 0) -> socket.socket:
    """A socket to the kernel: nobody else can send to it. Raises `HostError` without nfnetlink.

    ``port``: of its own, where nobody has it.
    """
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise HostError(f"this kernel has no nfnetlink: {strerror(error)}") from error
    try:
        opened.bind((port, 0))
    except OSError:
        opened.bind((0, 0))  # without a port of its own a socket is not sent what others cause
    opened.connect((0, 0))
    return opened


def attach(opened: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Let only those messages in that a program of classic BPF passes (struct sock_filter).

    It takes a message whole or not at all: what it cuts off may be gone for all others that listen, for the
    kernel broadcasts one buffer (do_one_broadcast, net/netlink/af_netlink.c).
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    whole = struct.pack("@HP", len(program), ctypes.addressof(code))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, whole)


def join(opened: socket.socket, group: int) -> None:
    """Listen to a multicast group. Raises OSError."""
    opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)


def leave(opened: socket.socket, group: int) -> None:
    """What is in the socket can still be received, nothing follows."""
    opened.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)


def ask_for_room(opened: socket.socket, receive_buffer: int) -> int:
    """Ask for a receive buffer; what was granted, in the kernel's own bookkeeping (twice what is asked)."""
    _set_room(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer)
    return opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def ask_for_room_to_send(opened: socket.socket, send_buffer: int) -> None:
    """Ask for room for a message that goes in one piece."""
    _set_room(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, send_buffer)


def _set_room(opened: socket.socket, forced: int, option: int, size: int) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:  # not root of the host: as much as net.core.rmem_max or wmem_max grants
        opened.setsockopt(socket.SOL_SOCKET, option, size)


def short_errors(opened: socket.socket) -> None:
    """Let errors come without what was sent."""
    opened.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)


def drops(opened: socket.socket) -> int:
    """How many datagrams found no room in a socket since it was opened, modulo 2^32."""
    values = opened.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    return int(struct.unpack("=9I", values)[8])


class Listener:
    """A socket that is told of something, one datagram at a time; a context manager.

    ``largest``: bytes of the longest datagram.
    """

    def __init__(self, opened: socket.socket, largest: int) -> None:
        opened.setblocking(False)
        self._socket = opened
        self._largest = largest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """The next datagram; None if there is none. Raises OSError (ENOBUFS) where some were lost."""
        try:
            return self._socket.recv(self._largest)
        except BlockingIOError:
            return None


class Message(NamedTuple):
    """One message of a datagram; ``body``: what follows its header."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    @property
    def code(self) -> int:
        """The errno of an error; 0 for an acknowledgement, and for what is not an error."""
        return -int(_CODE.unpack_from(self.body)[0]) if self.kind == ERROR else 0


def message(kind: int, flags: int, body: bytes, *, sequence: int = 0) -> bytes:
    """One message."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def whole(told: Message) -> bytes:
    """A message as it came, and what aligns the next one."""
    found = message(told.kind, told.flags, told.body)
    return found + bytes(-len(found) % 4)


def netfilter_body(
    family: int, attributes: Iterable[tuple[int, bytes]] = (), *, resource: int = 0
) -> bytes:
    """The body of a message of nfnetlink: struct nfgenmsg, and attributes."""
    return struct.pack("!BBH", family, 0, resource) + packed(attributes)


def netfilter_attributes(told: Message) -> dict[int, bytes]:
    """What a message of nfnetlink says, behind struct nfgenmsg."""
    return dict(attributes(told.body[_NETFILTER_HEAD:]))


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of a datagram."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, at)
        yield Message(kind, flags, sequence, datagram[at + _HEADER.size : at + size])
        at += max(size + 3 & ~3, _HEADER.size)


def packed(values: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes, of their numbers and values."""
    return b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
        for kind, value in values
    )


def attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind & _TYPE, body[at + _ATTRIBUTE.size : at + size]
        at += max(size + 3 & ~3, _ATTRIBUTE.size)


def number(value: bytes) -> int:
    """What an attribute that is a number of some size has, in the byte order of the host."""
    return int.from_bytes(value, sys.byteorder)


def attribute(datagram: memoryview, wanted: int) -> bytes | None:
    """The value of an attribute of a datagram's first message of nfnetlink, None if it has none."""
    at = NETFILTER_HEAD
    while at + _ATTRIBUTE.size <= len(datagram):
        size, kind = _ATTRIBUTE.unpack_from(datagram, at)
        if kind & _TYPE == wanted:
            return bytes(datagram[at + _ATTRIBUTE.size : at + size])
        at += max(size + 3 & ~3, _ATTRIBUTE.size)
    return None
