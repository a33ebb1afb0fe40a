"""The socket that TRACE events come out of: nfnetlink_log, group 0.

Messages as in include/uapi/linux/netfilter/nfnetlink_log.h, behaviour as in
net/netfilter/nfnetlink_log.c. TRACE sets the queue threshold to 1, so each event is a datagram;
`recvmmsg` fetches hundreds in one call. ``-j NFLOG`` without --nflog-group logs to the same group: its
events come too, and with our own threshold of 1 they are a datagram each as well.
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
_NLMSG_ERROR: Final = 2  # also an acknowledgement, with errno 0
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH, _CFG_FLAGS = 1, 2, 5, 6
_CMD_BIND, _CMD_UNBIND = 1, 2
_COPY_PACKET: Final = 2
_F_SEQ, _F_CONNTRACK = 1, 4
_NFULA_SEQ: Final = 12
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55  # nine u32 (linux/sock_diag.h); the last counts what found no room
_MSG_TRUNC: Final = 0x20
_ANSWER_S: Final = 5.0

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
    """Bound to group 0 of the current network namespace; a context manager.

    ``receive_buffer``: what the kernel granted, in its own bookkeeping's bytes (twice what is asked
    for); ``conntrack``: whether events carry NFULA_CT. Raises `HostError`: the group is taken (by
    whom), no rights, no nfnetlink_log (``modprobe``: after trying to load it).
    """

    def __init__(
        self, *, snaplen: int, receive_buffer: int = RECEIVE_BUFFER, modprobe: bool = False
    ) -> None:
        self._expected = 0  # the next event's sequence number
        self._gaps = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        except OSError as error:
            raise HostError(f"this kernel has no nfnetlink: {error.strerror}") from None
        try:
            self._socket.bind((0, 0))
            self._ask_for_room(receive_buffer)
            self.conntrack = self._configure(snaplen, modprobe=modprobe)
            self._drops_before = self._drops()
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
        self._pieces = vectors.copy()  # the same slots, as long as what is in them
        self._gathered = os.memfd_create("iptrec-datagrams")
        self._messages = np.zeros(SLOTS, _MMSGHDR)
        self._messages["iov"] = vectors.ctypes.data + np.arange(SLOTS) * 16
        self._messages["iovlen"] = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        os.close(self._gathered)

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
        data = self._gather(lengths)
        truncated = int(np.count_nonzero(self._messages["flags"][:count] & _MSG_TRUNC))
        last = _sequence(memoryview(data)[-int(lengths[-1]) :])
        lost = 0
        if last is not None:
            lost = (last + 1 - self._expected - count) % 2**32
            self._expected = (last + 1) % 2**32
            self._gaps += lost
        return Batch(now, lengths, data, lost, truncated)

    def _gather(self, lengths: npt.NDArray[np.uint32]) -> bytes:
        """The first slots' datagrams back to back.

        The kernel does it in one call, in a fifth of the time that joining slices takes, unless
        the limit of a file's size (RLIMIT_FSIZE, which counts for files in memory too) forbids it.
        """
        count, size = len(lengths), int(lengths.sum())
        self._pieces[:count, 1] = lengths
        pieces = ctypes.c_void_p(self._pieces.ctypes.data)
        if _libc.pwritev(self._gathered, pieces, count, ctypes.c_long(0)) == size:
            return os.pread(self._gathered, size, 0)
        starts = (np.arange(count) * self._slot).tolist()
        view = self._view
        return b"".join([view[at : at + n] for at, n in zip(starts, lengths.tolist(), strict=True)])

    def stop(self) -> None:
        """Let go of the group: what is in the socket can still be received, nothing follows."""
        self._send([(_CFG_CMD, struct.pack("=B", _CMD_UNBIND))], flags=_NLM_F_REQUEST)

    def unseen(self) -> int:
        """Events that were dropped and that no gap has shown: nothing was received after them."""
        return max(0, (self._drops() - self._drops_before) % 2**32 - self._gaps)

    def _drops(self) -> int:
        values = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        return int(struct.unpack("=9I", values)[8])

    def _ask_for_room(self, receive_buffer: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:  # not root of the host: as much as net.core.rmem_max grants
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    def _configure(self, snaplen: int, *, modprobe: bool) -> bool:
        """Bind and set everything in one message; whether conntrack's part is granted.

        The kernel looks at the flags first: refused ones leave the group unbound.
        """
        code = self._bind(snaplen, _F_SEQ | _F_CONNTRACK)
        if code == errno.EINVAL and modprobe and host.modprobe("nfnetlink_log"):
            code = self._bind(snaplen, _F_SEQ | _F_CONNTRACK)  # EINVAL: nobody knew the message
        conntrack = code != errno.EOPNOTSUPP
        if not conntrack:
            code = self._bind(snaplen, _F_SEQ)
        if code in (errno.EPERM, errno.EBUSY) and (by := holder()):
            raise HostError(
                f"nflog group {GROUP}, which TRACE uses, is taken by {by}: stop that program first"
            )
        if code == errno.EPERM:
            raise HostError("listening to nflog needs root or CAP_NET_ADMIN: run iptrec with sudo")
        if code:
            raise HostError(
                f"cannot bind nflog group {GROUP}: {os.strerror(code)}; if the kernel lacks it, on the"
                " host, run: modprobe nfnetlink_log"
            )
        return conntrack

    def _bind(self, snaplen: int, flags: int) -> int:
        """Ask for the group; the errno of the answer."""
        self._send(
            [
                (_CFG_CMD, struct.pack("=B", _CMD_BIND)),
                (_CFG_MODE, struct.pack("!IBx", snaplen, _COPY_PACKET)),
                (_CFG_QTHRESH, struct.pack("!I", 1)),
                (_CFG_FLAGS, struct.pack("!H", flags)),
            ],
            flags=_NLM_F_REQUEST | _NLM_F_ACK,
        )
        self._socket.settimeout(_ANSWER_S)
        while True:
            try:
                answer = self._socket.recv(65536)
            except TimeoutError:
                raise HostError(
                    f"no answer from nfnetlink_log within {_ANSWER_S:g} s; try again"
                ) from None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR:
                return -int(struct.unpack_from("=i", answer, 16)[0])
            # Somebody else's rule logs to this group; none of our rules is in place yet.
            number = _sequence(memoryview(answer))
            self._expected = 0 if number is None else (number + 1) % 2**32

    def _send(self, attributes: list[tuple[int, bytes]], *, flags: int) -> None:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, GROUP) + b"".join(
            struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
            for kind, value in attributes
        )
        self._socket.send(
            struct.pack("=IHHII", 16 + len(body), _NFULNL_MSG_CONFIG, flags, 0, 0) + body
        )


def _sequence(message: memoryview) -> int | None:
    """NFULA_SEQ of a message (big endian, counts the events that the instance built)."""
    at = 20
    while at + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        if kind & 0x3FFF == _NFULA_SEQ and at + 8 <= len(message):
            return int(struct.unpack_from("!I", message, at + 4)[0])
        at += max(size + 3 & ~3, 4)
    return None


def holder() -> str | None:
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
