"""The socket that TRACE events come out of: nfnetlink_log, group 0.

Messages as in include/uapi/linux/netfilter/nfnetlink_log.h. TRACE sets the queue threshold to 1, so
each event is a datagram; `recvmmsg` fetches hundreds in one call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from iptrec.errors import HostError
from iptrec.kernel import host

GROUP: Final = 0
RECEIVE_BUFFER: Final = 512 << 20
SLOTS: Final = 512
_ATTRIBUTES_ROOM: Final = 1024  # what a message holds beside the packet

_NETLINK_NETFILTER: Final = 12
_NFULNL_MSG_CONFIG: Final = 4 << 8 | 1
_REQUEST_ACK: Final = 5
_CFG_CMD, _CFG_MODE, _CFG_FLAGS = 1, 2, 6
_CMD_BIND: Final = 1
_COPY_PACKET: Final = 2
_F_SEQ, _F_CONNTRACK = 1, 4
_NFULA_SEQ: Final = 12
_SO_RCVBUFFORCE: Final = 33
_MSG_TRUNC: Final = 0x20

_MMSGHDR = np.dtype(
    {
        "names": ["iov", "iovlen", "flags", "len"],
        "formats": ["u8", "u8", "i4", "u4"],
        "offsets": [16, 24, 48, 56],
        "itemsize": 64,
    }
)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Batch:
    """Datagrams of one call: received together at ``received_ns`` (epoch)."""

    received_ns: int
    lengths: npt.NDArray[np.uint32]
    data: bytes
    lost: int  # events missing before or among these, by their sequence numbers
    truncated: int  # datagrams longer than a slot


class Overrun(Exception):  # noqa: N818 - not an error: a fact about the stream
    """ENOBUFS: the kernel dropped events; the next batch says how many."""


class NflogSocket:
    """Bound to group 0 of the current network namespace; a context manager."""

    def __init__(self, *, snaplen: int, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self.conntrack = False
        self._expected = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._configure(snaplen, receive_buffer)
        except BaseException:
            self._socket.close()
            raise
        self.receive_buffer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._slot = -(-(snaplen + _ATTRIBUTES_ROOM) // 64) * 64
        self._buffer = np.zeros(SLOTS * self._slot, np.uint8)
        self._view = memoryview(self._buffer.data)
        vectors = np.zeros((SLOTS, 2), "u8")
        vectors[:, 0] = self._buffer.ctypes.data + np.arange(SLOTS) * self._slot
        vectors[:, 1] = self._slot
        self._vectors = vectors
        self._messages = np.zeros(SLOTS, _MMSGHDR)
        self._messages["iov"] = vectors.ctypes.data + np.arange(SLOTS) * 16
        self._messages["iovlen"] = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def receive(self) -> Batch | None:
        """What is there now, at most `SLOTS` datagrams; None if nothing is. Raises `Overrun`."""
        count = _libc.recvmmsg(
            self.fileno(),
            ctypes.c_void_p(self._messages.ctypes.data),
            SLOTS,
            socket.MSG_DONTWAIT,
            None,
        )
        if count < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return None
            if number == errno.ENOBUFS:
                raise Overrun
            raise HostError(f"cannot read nflog group {GROUP}: {os.strerror(number)}")
        now = time.time_ns()
        lengths = self._messages["len"][:count].copy()
        ends = (np.arange(count) * self._slot + lengths).tolist()
        view, slot = self._view, self._slot
        data = b"".join([view[i * slot : end] for i, end in enumerate(ends)])
        truncated = int(np.count_nonzero(self._messages["flags"][:count] & _MSG_TRUNC))
        last = _sequence(view[(count - 1) * slot : ends[-1]])
        lost = 0
        if last is not None:
            lost = (last + 1 - self._expected - count) % 2**32
            self._expected = (last + 1) % 2**32
        return Batch(now, lengths, data, lost, truncated)

    def _configure(self, snaplen: int, receive_buffer: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:  # not root of the host: as much as rmem_max grants
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        code = self._request(_CFG_CMD, struct.pack("=B", _CMD_BIND))
        if code in (errno.EPERM, errno.EBUSY) and (holder := _holder()):
            raise HostError(
                f"nflog group {GROUP}, which TRACE uses, is taken by {holder}: stop that program first"
            )
        if code == errno.EPERM:
            raise HostError("listening to nflog needs root or CAP_NET_ADMIN: run iptrec with sudo")
        _require(code, "bind to nflog group 0 (is the module nfnetlink_log there?)")
        _require(
            self._request(_CFG_MODE, struct.pack("!IBx", snaplen, _COPY_PACKET)), "set the snaplen"
        )
        both = self._request(_CFG_FLAGS, struct.pack("!H", _F_SEQ | _F_CONNTRACK))
        self.conntrack = both == 0
        if both:
            _require(self._request(_CFG_FLAGS, struct.pack("!H", _F_SEQ)), "number the events")

    def _request(self, kind: int, value: bytes) -> int:
        """Send one configuration attribute; the errno of the answer."""
        attribute = struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, GROUP) + attribute
        self._socket.send(
            struct.pack("=IHHII", 16 + len(body), _NFULNL_MSG_CONFIG, _REQUEST_ACK, kind, 0) + body
        )
        answer = self._socket.recv(4096)
        return -int(struct.unpack_from("=i", answer, 16)[0])


def _sequence(message: memoryview) -> int | None:
    """NFULA_SEQ of a message (big endian, counts the events that the instance built)."""
    at = 20
    while at + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        if kind & 0x3FFF == _NFULA_SEQ and at + 8 <= len(message):
            return int(struct.unpack_from("!I", message, at + 4)[0])
        at += max(size + 3 & ~3, 4)
    return None


def _holder() -> str | None:
    """Who listens to the group: /proc/net/netfilter/nfnetlink_log names the netlink port."""
    try:
        lines = Path("/proc/thread-self/net/netfilter/nfnetlink_log").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        group, port, *_ = line.split()
        if int(group) == GROUP:
            return host.socket_owner(int(port)) or f"netlink port {port}"
    return None


def _require(code: int, purpose: str) -> None:
    if code:
        raise HostError(f"the kernel refuses to {purpose}: {os.strerror(code)}")
