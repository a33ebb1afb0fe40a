"""Arrival stamps: while a socket with SO_TIMESTAMP is open, the kernel stamps each packet as it arrives.

net/core/sock.c (sock_enable_timestamp) and net/core/dev.c (net_enable_timestamp): the switch is the
host's, not the namespace's, and works a moment later. NFULA_TIMESTAMP is then the arrival in all of a packet's
events in PREROUTING, INPUT and FORWARD, and so tells equal packets apart.
"""

from __future__ import annotations

import socket
from typing import Final

_SO_TIMESTAMP: Final = 29


def stamping() -> socket.socket:
    """A socket that is never used; packets are stamped until it is closed."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return opened
