"""IPsec's policies of the current network namespace: they drop packets behind PREROUTING, and behind INPUT.

Of its states the number is asked for alone: they hold keys.

include/uapi/linux/xfrm.h; only who has CAP_NET_ADMIN may list them.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from pathlib import Path
from typing import Final

from iptrec.kernel import netlink
from iptrec.kernel.dumps import dump

_XFRM: Final = 6  # NETLINK_XFRM
_GET_POLICY = 0x15  # XFRM_MSG_
# XFRM_MSG_: what is asked for, what the answer is; each asks by four bytes that are 0
_DEFAULT, _STATES = (0x28, 0x28), (0x23, 0x22)  # GETDEFAULT; GETSADINFO, NEWSADINFO
_LIMIT: Final = 4 << 20  # bytes: 15,000 policies
_PATIENCE_S: Final = 1
_SOCKETS: Final = Path("/proc/thread-self/net/netlink")
_PF_KEY: Final = Path("/proc/thread-self/net/pfkey")  # the other way to make states and policies


def dumps() -> bytes:
    """The snapshot "policies": what becomes of packets that none fits, how many states there are; the list.

    Nobody is asked where the kernel's part that answers is not loaded: asking would load it.
    """
    if not _is_loaded():
        code = errno.EOPNOTSUPP if _PF_KEY.exists() else errno.EPROTONOSUPPORT
        return netlink.message(netlink.ERROR, 0, struct.pack("=i", -code), sequence=1)
    return _told(*_DEFAULT) + _told(*_STATES) + dump(_XFRM, _GET_POLICY, b"", _LIMIT)


def _is_loaded() -> bool:
    """Whether the kernel has a socket of its own of that protocol."""
    with contextlib.suppress(OSError):
        lines = _SOCKETS.read_text().splitlines()
        return any(line.split()[1:3] == [str(_XFRM), "0"] for line in lines)
    return False


def _told(kind: int, answered: int) -> bytes:
    """What the kernel tells, or nothing: of defaults from Linux 5.14 on, and to who may ask."""
    with contextlib.suppress(OSError), netlink.connected(_XFRM) as asking:
        asking.settimeout(_PATIENCE_S)
        asking.send(netlink.message(kind, netlink.REQUEST, bytes(4), sequence=1))
        answer = asking.recv(netlink.LARGEST)
        if any(one.kind == answered for one in netlink.messages(answer)):
            return answer
    return b""
