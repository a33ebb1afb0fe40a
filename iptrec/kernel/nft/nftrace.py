"""The sockets that nf_tables tells its traces to, and the changes of its ruleset.

Multicast groups of nfnetlink (include/uapi/linux/netfilter/nfnetlink.h): any number may listen. Traces have
no sequence numbers, but the socket counts what found no room in it (net/netlink/af_netlink.c,
netlink_overrun): so losses are known to the event here, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from iptrec.errors import HostError, strerror
from iptrec.kernel import batches, host, netlink
from iptrec.kernel.batches import RECEIVE_BUFFER, Overrun
from iptrec.kernel.netlink import Listener

if TYPE_CHECKING:
    import socket

    from iptrec.kernel.batches import Batch

GROUP: Final = 9  # NFNLGRP_NFTRACE
CHANGES: Final = 7  # NFNLGRP_NFTABLES
_LARGEST: Final = 1088  # a message with three names of 255 bytes
_LARGEST_CHANGE: Final = 1 << 17
_CHANGES_BUFFER: Final = 64 << 20  # a large ruleset that is loaded at once


class NftraceSocket:
    """Listens to the traces of the current network namespace; a context manager.

    ``receive_buffer``: what the kernel granted. Raises `HostError` without rights or nf_tables.
    """

    def __init__(self, *, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self._socket = _listening(GROUP)
        try:
            self.receive_buffer = netlink.ask_for_room(self._socket, receive_buffer)
            self._slots = batches.Slots(_LARGEST, "nf_tables' traces")
        except BaseException:
            self._socket.close()
            raise
        self._told = netlink.drops(self._socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._slots.close()

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def receive(self) -> Batch | None:
        """What is there now; None if nothing is. Raises `Overrun` with the number of events dropped."""
        try:
            return self._slots.receive(self.fileno())
        except Overrun:
            raise Overrun(self.unseen()) from None

    def stop(self) -> None:
        """Leave the group: what is in the socket can still be received, nothing follows."""
        netlink.leave(self._socket, GROUP)

    def unseen(self) -> int:
        """Events that were dropped since the last call."""
        now = netlink.drops(self._socket)
        before, self._told = self._told, now
        return (now - before) % 2**32


class ChangeSocket(Listener):
    """Listens to changes of nf_tables' ruleset; a context manager."""

    def __init__(self) -> None:
        opened = _listening(CHANGES)
        netlink.ask_for_room(opened, _CHANGES_BUFFER)
        super().__init__(opened, _LARGEST_CHANGE)


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


def _listening(group: int) -> socket.socket:
    opened = netlink.connected()
    try:
        netlink.join(opened, group)
    except OSError as error:
        opened.close()
        raise HostError(
            f"cannot listen to nf_tables: {strerror(error)}; it needs root or CAP_NET_ADMIN, and a kernel"
            " with nf_tables"
        ) from None
    return opened
