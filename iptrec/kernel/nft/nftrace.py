"""The sockets that nf_tables tells its traces to, and the changes of its ruleset.

Multicast groups of nfnetlink (include/uapi/linux/netfilter/nfnetlink.h): any number may listen. Traces have
no sequence numbers, but the socket counts what found no room in it (net/netlink/af_netlink.c,
netlink_overrun): so losses are known to the event here, too; where the ruleset changes just then, the number of
a ruleset that was not received either counts as an event.

Two sockets do not tell what came first. So the traces' own is told the number of each new ruleset as well
(NFT_MSG_NEWGEN), and a filter keeps from it what else the kernel tells of changes, however much that is.
"""

from __future__ import annotations

import contextlib
import errno
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, strerror
from iptrec.kernel import batches, host, netlink
from iptrec.kernel.batches import RECEIVE_BUFFER, Overrun
from iptrec.kernel.bpf.tap import NOTED_AT, RING_BYTES, Tap, Tapped, Untapped
from iptrec.kernel.netlink import Listener
from iptrec.kernel.nft import cursor, switches
from iptrec.kernel.nft.numbers import NEWGEN, Numbers, number

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from iptrec.kernel.batches import Batch, Slots
    from iptrec.kernel.bpf import bpf

GROUP: Final = 9  # NFNLGRP_NFTRACE
CHANGES: Final = 7  # NFNLGRP_NFTABLES
_TRACE: Final = 0x0A11  # NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_
_LAST_OF_RULES: Final = 0x0A08  # NFT_MSG_DELRULE
# Classic BPF: the kind of a message is in the host's byte order, which a load of two bytes swaps.
_KIND: Final = (0x28, 0, 0, 4)
_TRACES_AND_NUMBERS: Final = (
    _KIND,
    (0x15, 1, 0, int.from_bytes(_TRACE.to_bytes(2, "little"))),
    (0x15, 0, 1, int.from_bytes(NEWGEN.to_bytes(2, "little"))),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)
_LARGEST: Final = 1088  # a message with three names of 255 bytes
_LARGEST_TAPPED: Final = 448  # and with names as they are, and all headers
_LARGEST_CHANGE: Final = 1 << 17
_CHANGES_BUFFER: Final = 64 << 20  # a large ruleset that is loaded at once


class NftraceSocket(Tapped):
    """Listens to the traces of the current network namespace, and to the numbers of its rulesets.

    ``receive_buffer``: what the kernel granted. ``ring_bytes``: of the tap. Raises `HostError` without
    rights or nf_tables.
    """

    def __init__(
        self, *, receive_buffer: int = RECEIVE_BUFFER, ring_bytes: int = RING_BYTES
    ) -> None:
        with contextlib.ExitStack() as opened:
            self._leaving = False
            self._numbers = Numbers()
            opened.callback(self._numbers.close)
            self._slots = slots = batches.Slots(_LARGEST, "nf_tables' traces")
            opened.callback(slots.close)
            # Before anything comes in: all of it is counted.
            attach = partial(self._attach, opened, slots, ring_bytes)
            self._socket = opened.enter_context(_listening(GROUP, CHANGES, attach=attach))
            self.receive_buffer = netlink.ask_for_room(self._socket, receive_buffer)
            self._told = netlink.drops(self._socket)
            self._opened = opened.pop_all()

    def _attach(
        self, closing: contextlib.ExitStack, slots: Slots, ring_bytes: int, opened: socket.socket
    ) -> None:
        try:
            tap = Tap(
                opened, slots, (_TRACE, NEWGEN), largest=_LARGEST_TAPPED, others=False,
                ruleset=_ruleset, ring_bytes=ring_bytes,
            )  # fmt: skip
            self._source = closing.enter_context(tap)
        except HostError as error:
            self._source = Untapped(opened, slots, str(error))
            netlink.attach(opened, _TRACES_AND_NUMBERS)
            self._numbers.switches = switches.attached(opened, _TRACE, NEWGEN)

    def receive(self) -> Batch | None:
        """What is there now; None if nothing is. Raises `Overrun` with the number of events dropped.

        Where some of these events may have met a newer ruleset than the one that was told of last, numbers of
        rulesets are put among them (`Numbers`).
        """
        try:
            batch = self._source.receive()
        except Overrun:
            raise Overrun(self.unseen()) from None
        finally:
            if self._slots.overran:
                self._numbers.switches = None  # what was lost was counted
        if batch is None and self._leaving:
            self._leaving = False
            return self._numbers.in_the_end(noted=not self.untapped)
        return None if batch is None else self._numbers.among(batch)

    def forget(self) -> None:
        """Receive what is there for nobody."""
        try:
            while (batch := self.receive()) and len(batch.lengths) >= batches.SLOTS:
                pass
        except Overrun:
            pass
        self._numbers.begin()

    def tell_again(self) -> None:
        """Put the number of the ruleset before the next events: they are in another file."""
        self._numbers.begin()

    def stop(self) -> None:
        """Leave the groups: what is in the socket can still be received, then the number that holds."""
        self._leaving = True
        for group in (GROUP, CHANGES):
            netlink.leave(self._socket, group)

    def unseen(self) -> int:
        """Events that were dropped since the last call."""
        now = netlink.drops(self._socket)
        before, self._told = self._told, now
        return (now - before) % 2**32


class ChangeSocket(Listener):
    """Listens to changes of nf_tables' ruleset; a context manager.

    ``rules_ns``: when it was told for the last time of tables, chains or rules (monotonic), not of sets alone.
    ``generation``: the last number of a ruleset that was told.
    """

    def __init__(self) -> None:
        opened = _listening(CHANGES)
        netlink.ask_for_room(opened, _CHANGES_BUFFER)
        super().__init__(opened, _LARGEST_CHANGE)
        self.rules_ns = self.generation = 0

    def receive(self) -> bytes | None:
        """See `Listener`."""
        datagram = super().receive()
        if datagram is not None:
            kind = next(netlink.messages(datagram)).kind
            if kind <= _LAST_OF_RULES:
                self.rules_ns = time.monotonic_ns()
            self.generation = generation_of(datagram) or self.generation
        return datagram


def generation_of(datagram: bytes) -> int | None:
    """The number of a new ruleset that is told; None where something else is."""
    return number(datagram) if next(netlink.messages(datagram)).kind == NEWGEN else None


def waiting(changes: ChangeSocket) -> Iterator[netlink.Message | None]:
    """All messages that wait; None in the place of those for which there was no room. Raises OSError."""
    while True:
        try:
            datagram = changes.receive()
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
            continue
        if datagram is None:
            return
        yield from netlink.messages(datagram)


def _ruleset() -> bpf.Code:
    """What lets a tap note which ruleset is in force. Raises `HostError` and LookupError."""
    return [*cursor.read(cursor.where(), NOTED_AT)]


def listener() -> str | None:
    """Somebody who listens to the traces of the current namespace (/proc/net/netlink: one socket a line)."""
    try:
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        _, protocol, port, groups, *_ = line.split()
        if int(protocol) == netlink.NETFILTER and int(groups, 16) >> (GROUP - 1) & 1:
            return host.socket_owner(int(port)) or f"netlink port {port}"
    return None


def _listening(
    *groups: int, attach: Callable[[socket.socket], None] = lambda _: None
) -> socket.socket:
    opened = netlink.connected()
    try:
        attach(opened)
        for group in groups:
            netlink.join(opened, group)
    except OSError as error:
        opened.close()
        raise HostError(
            f"cannot listen to nf_tables: {strerror(error)}; it needs root or CAP_NET_ADMIN, and a kernel"
            " with nf_tables"
        ) from None
    return opened
