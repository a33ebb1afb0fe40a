"""The kernel's drop monitor (NET_DM): asked, set, started and stopped, and put back as it was.

net/core/drop_monitor.c, linux/net_dropmon.h; generic netlink, known in the initial network namespace alone.
There is one for the whole host, for one user at a time. It goes on until somebody stops it: that its user has
gone does not end it. Who starts it leaves a length of its queue there by which it is known whose it is: nobody
can set another one while it runs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import socket
import struct
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from iptrec.errors import HostError, TakenError, strerror
from iptrec.kernel import netlink, netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Asking = socket.socket

_GENERIC: Final = 16  # NETLINK_GENERIC; GENL_ID_CTRL is the same
_NAME: Final = b"NET_DM"
_VERSION: Final = 2
_GET_FAMILY: Final = 3  # CTRL_CMD_GETFAMILY, and CTRL_ATTR_...
_FAMILY_ID, _FAMILY_NAME, _MOST_ATTRIBUTE, _GROUPS = 1, 2, 5, 7
_GROUP_NAME, _GROUP_ID = 1, 2
_EVENTS: Final = b"events"
_CONFIG, _START, _STOP, _CONFIG_GET, _STATS_GET = 2, 3, 4, 6, 8  # NET_DM_CMD_
_MODE, _TRUNCATION, _QUEUE, _STATS, _SOFTWARE, _REASON = 1, 9, 11, 12, 20, 23  # NET_DM_ATTR_
_STATS_DROPPED: Final = 0
PACKETS: Final = 1  # NET_DM_ALERT_MODE_PACKET
_LEAST_QUEUE: Final = 1000  # of packets a processor, the kernel's own; and what tells whose it is
_INITIAL: Final = Path("/proc/1/ns/net")
_PATIENCE_S: Final = 10
_HEAD: Final = struct.Struct("=BBxx")  # struct genlmsghdr
_OF_SOFTWARE: Final = netlink.packed([(_SOFTWARE, b"")])
_BUSY: Final = (
    "somebody else uses the kernel's drop monitor, which is there once for all"
    " (dropwatch, or another recorder): stop that first"
)
_REFUSED: Final = "the drop monitor takes CAP_NET_ADMIN and CAP_SYS_ADMIN of the host itself"
_WORDS: Final = {errno.EBUSY: _BUSY, errno.EAGAIN: _BUSY, errno.EPERM: _REFUSED}
_MISSING: Final = (
    "the kernel's drop monitor (NET_DM) is not there; on the host, run: modprobe drop_monitor"
)


@dataclass(frozen=True, slots=True)
class Config:
    """How it is set: the mode of its alerts, bytes of each packet (0: all of them), packets of a queue."""

    mode: int
    truncation: int
    queue: int


@dataclass(frozen=True, slots=True)
class Borrowed:
    """How it was set before, and what it is set to by who borrowed it."""

    before: Config
    ours: Config

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> Self:
        """What `asdict` made of one. Raises TypeError or AttributeError for what is none."""
        made = cls(**{name: Config(**value) for name, value in found.items()})
        if not all(isinstance(one, int) for one in (*astuple(made.before), *astuple(made.ours))):
            raise TypeError
        return made


class _Family(NamedTuple):
    """Numbers that it has since it was loaded."""

    number: int
    group: int
    most: int


def asking() -> Asking:
    """A socket to ask it by, of the initial network namespace; of this one where nobody may go there.

    Raises `HostError` or OSError where there is no way back.
    """
    here = netns.inode()
    try:
        with netns.entered(_INITIAL):
            return netlink.connected(_GENERIC)
    except (HostError, OSError):
        if netns.inode() != here:  # whoever goes on would change what is of another namespace
            raise
    return netlink.connected(_GENERIC)


def listening(group: int, receive_buffer: int) -> socket.socket:
    """A socket that alerts come out of. Raises `HostError`."""
    opened = asking()
    try:
        netlink.join(opened, group)
    except OSError as error:
        opened.close()
        raise HostError(_WORDS.get(error.errno or 0) or strerror(error)) from None
    netlink.ask_for_room(opened, receive_buffer)
    opened.setblocking(False)
    return opened


class Monitor:
    """It, by a socket of `asking`. Raises `HostError` where it is not there; no module is loaded for it."""

    def __init__(self, opened: Asking) -> None:
        opened.settimeout(_PATIENCE_S)
        self._socket = opened
        # Who has the same socket may have been killed before it got its answer.
        self._sequence = itertools.count(1 + secrets.randbits(30))
        self._family = self._found()

    @property
    def group(self) -> int:
        """The multicast group of its alerts."""
        return self._family.group

    @property
    def tells_reasons(self) -> bool:
        """Whether alerts have reasons: from Linux 5.18 on."""
        return self._family.most >= _REASON

    def config(self) -> Config:
        """How it is set."""
        found = dict(netlink.attributes(self._ask(_CONFIG_GET)))
        return Config(*(netlink.number(found[one]) for one in (_MODE, _TRUNCATION, _QUEUE)))

    def unseen(self) -> int:
        """How many dropped packets found no room in its queues since it was loaded."""
        stats = dict(netlink.attributes(self._ask(_STATS_GET)))[_STATS]
        return netlink.number(dict(netlink.attributes(stats))[_STATS_DROPPED])

    def require_free(self) -> None:
        """Raise `TakenError` where somebody uses it: only then it cannot be set to what it is set to."""
        self._set(self.config())

    def borrow(self, truncation: int, expect: Callable[[Borrowed | None], None]) -> None:
        """Let it send an alert for each packet that is dropped.

        ``expect`` is called with what is to be put back, before anything is changed; with None where somebody
        else was faster. Raises `HostError`.
        """
        queue = _LEAST_QUEUE + 1 + secrets.randbelow(_LEAST_QUEUE)
        borrowed = Borrowed(self.config(), Config(PACKETS, truncation, queue))
        expect(borrowed)
        try:
            self._set(borrowed.ours)
            self._ask(_START, _OF_SOFTWARE)
        except HostError:
            with contextlib.suppress(HostError):
                self._set(borrowed.before)
            expect(None)
            raise

    def give_back(self, borrowed: Borrowed) -> None:
        """Stop it and set it as it was before, unless somebody else has set it meanwhile."""
        if self.config() == borrowed.ours:
            self._ask(_STOP, _OF_SOFTWARE)
            self._set(borrowed.before)

    def _set(self, config: Config) -> None:
        values = (
            (_MODE, struct.pack("=B", config.mode)),
            (_TRUNCATION, struct.pack("=I", config.truncation)),
            (_QUEUE, struct.pack("=I", config.queue)),
        )
        self._ask(_CONFIG, netlink.packed(values))

    def _ask(self, command: int, attributes: bytes = b"") -> bytes:
        """The attributes of an answer; none where it only acknowledges."""
        body = _HEAD.pack(command, _VERSION) + attributes
        try:
            answers = list(self._answers(self._family.number, netlink.ACK, body))
        except OSError as error:
            told = _WORDS.get(error.errno or 0)
            unknown = f"the kernel's drop monitor does not answer: {strerror(error)}"
            raise (TakenError if told == _BUSY else HostError)(told or unknown) from None
        return answers[0] if answers else b""

    def _answers(self, family: int, flags: int, body: bytes) -> Iterator[bytes]:
        """What is behind the head of each message of an answer. Raises OSError."""
        sequence = next(self._sequence)
        request = netlink.message(family, netlink.REQUEST | flags, body, sequence=sequence)
        self._socket.send(request)
        while True:
            for one in netlink.messages(self._socket.recv(netlink.LARGEST)):
                if one.sequence == sequence:
                    if one.code:
                        raise OSError(one.code, os.strerror(one.code))
                    if one.kind in (netlink.ERROR, netlink.DONE):
                        return
                    yield one.body[_HEAD.size :]

    def _found(self) -> _Family:
        """Look for it in the list of families: to ask for it by its name would load its module."""
        request = _HEAD.pack(_GET_FAMILY, 1)
        try:
            families = list(self._answers(_GENERIC, netlink.DUMP, request))
            for one in map(dict, map(netlink.attributes, families)):
                if _text(one[_FAMILY_NAME]) == _NAME:
                    return _Family(
                        netlink.number(one[_FAMILY_ID]),
                        _group(one[_GROUPS]),
                        netlink.number(one[_MOST_ATTRIBUTE]),
                    )
        except OSError as error:
            told = strerror(error)
            raise HostError(f"the families of generic netlink cannot be listed: {told}") from None
        except LookupError as error:
            raise HostError(f"a family of generic netlink lacks {error}") from None
        raise HostError(_MISSING)


def _group(groups: bytes) -> int:
    """The number of the group that alerts are sent to."""
    for _, group in netlink.attributes(groups):
        found = dict(netlink.attributes(group))
        if _text(found[_GROUP_NAME]) == _EVENTS:
            return netlink.number(found[_GROUP_ID])
    raise LookupError(_EVENTS)


def _text(value: bytes) -> bytes:
    return value.partition(b"\0")[0]
