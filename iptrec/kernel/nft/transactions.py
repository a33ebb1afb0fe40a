"""Asks nf_tables for objects, and changes them: everything that a batch says, or nothing.

include/uapi/linux/netfilter/nf_tables.h; batches as in net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

from iptrec.errors import HostError, strerror
from iptrec.kernel import netlink
from iptrec.names import NFT_FAMILIES

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.kernel.netlink import Message

SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES, the upper byte of a message's kind
NEW_TABLE, GET_TABLE, DELETE_TABLE = 0, 1, 2  # NFT_MSG_
NEW_CHAIN, GET_CHAIN, DELETE_CHAIN = 3, 4, 5
NEW_RULE, GET_RULE, DELETE_RULE = 6, 7, 8
NEW_SET, GET_SET, NEW_ELEMENTS, GET_ELEMENTS = 9, 10, 12, 13
NEW_GENERATION, GET_GENERATION = 15, 16
NEW_OBJECT, GET_OBJECT = 18, 19
Holder = Literal["ipv4", "ipv6", "inet", "bridge"]  # of a table
FAMILIES: Final[dict[Holder, int]] = {
    "ipv4": NFT_FAMILIES["ip"],
    "ipv6": NFT_FAMILIES["ip6"],
    "inet": NFT_FAMILIES["inet"],
    "bridge": NFT_FAMILIES["bridge"],
}
ALWAYS_CHANGES: Final = "the ruleset of nf_tables changes all the time; try again later"
TRIES: Final = 5
UNSPECIFIED: Final = 0  # AF_UNSPEC

_GENERATION_ID: Final = 1  # NFTA_GEN_ID
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_
_BATCH_GENERATION: Final = 1  # NFNL_BATCH_GENID
_ANSWER_S: Final = 5.0
_ANSWER_BYTES: Final = 1024  # of memory, however short it is
_SPARE: Final = 65536

Values = list[tuple[int, str | bytes]]


class Request(NamedTuple):
    """One message of a batch: NFT_MSG_ and NLM_F_ of it, and its attributes; texts are names.

    ``holder``: the family of its table, None: that of the batch.
    """

    kind: int
    flags: int
    values: Values
    holder: Holder | None = None


class ChangedError(Exception):
    """Somebody changed the ruleset since it was looked at."""


def tables_there() -> bool:
    """Whether there are tables in the current namespace; False where nf_tables cannot be asked."""
    try:
        with _opened() as asking:
            asking.send(_message(GET_TABLE, UNSPECIFIED, netlink.REQUEST | netlink.DUMP))
            return _first(asking).kind == SUBSYSTEM | NEW_TABLE
    except HostError:
        return False


def generation() -> int:
    """The number of the ruleset; each change counts it up. Raises `HostError`."""
    for kind, value in netlink.attributes(_ask(GET_GENERATION, UNSPECIFIED)):
        if kind == _GENERATION_ID and len(value) == 4:  # noqa: PLR2004 - a u32
            return int.from_bytes(value, "big")
    raise HostError("nf_tables does not tell the generation of its ruleset; Linux 4.6 does")


def there(kind: int, family: Holder, names: Values) -> bool:
    """Whether an object exists. Raises `HostError`."""
    try:
        _ask(kind, FAMILIES[family], names)
    except FileNotFoundError:
        return False
    return True


def dumped(kind: int, family: int, values: Values) -> list[dict[int, bytes]] | None:
    """The attributes of each object of a kind, none where their table is not there; None: they always change.

    Raises `HostError` where nf_tables cannot be asked.
    """
    found = answers(kind, family, values)
    return None if found is None else list(map(netlink.netfilter_attributes, found))


def answers(
    kind: int, family: int, values: Values, most: int | None = None
) -> list[Message] | None:
    """The messages of a dump, see `dumped`; no more than ``most``."""
    request = _message(kind, family, netlink.REQUEST | netlink.DUMP, values)
    for _ in range(TRIES):
        if (found := _dumped(request, most)) is not None:
            return found
    return None


def _dumped(request: bytes, most: int | None) -> list[Message] | None:
    """The answers to one dump; None where something changed meanwhile."""
    found: list[Message] = []
    with _opened() as asking:
        asking.send(request)
        while True:
            for one in netlink.messages(_received(asking)):
                if one.flags & netlink.INTERRUPTED:
                    asking.close()  # with the rest of the answer
                    return None
                if one.kind == netlink.DONE or one.code == errno.ENOENT:  # no such table
                    return found
                if one.code:
                    raise _refused(one.code)
                if len(found) == most:
                    asking.close()
                    return found
                found.append(one)


def _ask(kind: int, family: int, values: Values | tuple[()] = ()) -> bytes:
    """The attributes of an object. Raises FileNotFoundError where there is no such object."""
    with _opened() as asking:
        asking.send(_message(kind, family, netlink.REQUEST, values))
        answer = _first(asking)
    if answer.code == errno.ENOENT:
        raise FileNotFoundError(answer.code, os.strerror(answer.code))
    if answer.code:
        raise _refused(answer.code)
    return answer.body[4:]


def batch(
    family: Holder,
    requests: Sequence[Request],
    generation: int | None = None,
    *,
    dry: bool = False,
) -> dict[int, int]:
    """Do everything that is asked for, or nothing; the errno of each request that the kernel refused.

    ``generation``: the ruleset is still that one; `ChangedError` if it is not. ``dry``: only try: the kernel
    forgets a batch without an end (net/netfilter/nfnetlink.c), as it does for nft --check. Raises `HostError`.
    """
    if not requests:
        return {}
    checked: Values = []
    if generation is not None:
        checked.append((_BATCH_GENERATION, struct.pack("!I", generation)))
    text = _end(_BATCH_BEGIN, checked)
    for number, (kind, flags, values, holder) in enumerate(requests, 1):
        # Answered are the last one, and before it those that are refused.
        asked = flags | netlink.REQUEST | (netlink.ACK if number == len(requests) else 0)
        text += _message(kind, FAMILIES[holder or family], asked, values, sequence=number)
    if not dry:
        text += _end(_BATCH_END, ())
    with _opened() as asking:
        netlink.short_errors(asking)
        netlink.ask_for_room_to_send(asking, len(text) + _SPARE)
        netlink.ask_for_room(asking, len(requests) * _ANSWER_BYTES + _SPARE)
        _sent(asking, text)
        return _answers(asking, len(requests))


def _answers(asking: socket.socket, last: int) -> dict[int, int]:
    """The answers to a batch: the place of what failed -> errno."""
    failed: dict[int, int] = {}
    while True:
        answer = _first(asking)
        if answer.code == errno.ERESTART:
            raise ChangedError
        if answer.sequence == 0:  # about the batch itself
            raise _refused(answer.code)
        if answer.code:
            failed[answer.sequence - 1] = answer.code
        if answer.sequence == last:
            return failed


def _refused(code: int) -> HostError:
    return HostError(f"nf_tables does not answer: {os.strerror(code)}; it needs root")


class Line:
    """A socket to ask by, again and again: within ``with`` the thread asks by no other one.

    To close one takes until all is cleared away that a commit has left (nft_rcv_nl_event, which waits for RCU).
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        _held.line = self
        return self

    def __exit__(self, *_: object) -> None:
        _held.line = None

    @contextlib.contextmanager
    def used(self) -> Iterator[socket.socket]:
        """It, for one question; another one next time where not all of the answer was taken."""
        opened, self._socket = self._socket or _new(), None
        try:
            yield opened
        except BaseException:
            opened.close()
            raise
        if opened.fileno() >= 0:
            self._socket = opened

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()


class _Held(threading.local):
    line: Line | None = None


_held: Final = _Held()


def _new() -> socket.socket:
    opened = netlink.connected()
    opened.settimeout(_ANSWER_S)
    return opened


def _opened() -> contextlib.AbstractContextManager[socket.socket]:
    return _new() if _held.line is None else _held.line.used()


def _sent(asking: socket.socket, text: bytes) -> None:
    try:
        asking.send(text)
    except OSError as error:
        raise HostError(
            f"nf_tables does not take {len(text):,} bytes at once: {strerror(error)}; raise net.core.wmem_max"
        ) from None


def _first(asking: socket.socket) -> Message:
    """The first message of the next answer."""
    return next(netlink.messages(_received(asking)))


def _received(asking: socket.socket) -> bytes:
    try:
        return asking.recv(netlink.LARGEST)
    except OSError as error:
        raise HostError(f"nf_tables does not answer: {strerror(error)}") from None


def _message(
    kind: int,
    family: int,
    flags: int,
    values: Iterable[tuple[int, str | bytes]] = (),
    *,
    sequence: int = 0,
) -> bytes:
    body = netlink.netfilter_body(family, _named(values))
    return netlink.message(SUBSYSTEM | kind, flags, body, sequence=sequence)


def _end(kind: int, values: Iterable[tuple[int, str | bytes]]) -> bytes:
    """One of the two ends of a batch; it names the subsystem that the batch is for."""
    body = netlink.netfilter_body(UNSPECIFIED, _named(values), resource=SUBSYSTEM >> 8)
    return netlink.message(kind, netlink.REQUEST, body)


def _named(values: Iterable[tuple[int, str | bytes]]) -> list[tuple[int, bytes]]:
    """Attributes whose texts are strings of C."""
    return [
        (kind, one if isinstance(one, bytes) else one.encode("utf-8", "surrogateescape") + b"\0")
        for kind, one in values
    ]
