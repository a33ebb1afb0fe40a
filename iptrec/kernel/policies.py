"""IPsec's policies of the current network namespace: they drop packets behind PREROUTING, and behind INPUT.

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
_GET_POLICY, _GET_DEFAULT = 0x15, 0x28  # XFRM_MSG_
_DEFAULT: Final = bytes(4)  # struct xfrm_userpolicy_default
_LIMIT: Final = 4 << 20  # bytes: 15,000 policies
_PATIENCE_S: Final = 1
_SOCKETS: Final = Path("/proc/thread-self/net/netlink")


def dumps() -> bytes:
    """The snapshot "policies": what becomes of packets that none fits, where the kernel tells that; the list.

    Nobody is asked where the kernel's part that answers is not loaded: asking would load it.
    """
    if not _is_loaded():
        refused = struct.pack("=i", -errno.EPROTONOSUPPORT)
        return netlink.message(netlink.ERROR, 0, refused, sequence=1)
    return _default() + dump(_XFRM, _GET_POLICY, b"", _LIMIT)


def _is_loaded() -> bool:
    """Whether the kernel has a socket of its own of that protocol."""
    with contextlib.suppress(OSError):
        lines = _SOCKETS.read_text().splitlines()
        return any(line.split()[1:3] == [str(_XFRM), "0"] for line in lines)
    return False


def _default() -> bytes:
    """From Linux 5.14 on."""
    with contextlib.suppress(OSError), netlink.connected(_XFRM) as asking:
        asking.settimeout(_PATIENCE_S)
        asking.send(netlink.message(_GET_DEFAULT, netlink.REQUEST, _DEFAULT, sequence=1))
        answer = asking.recv(netlink.LARGEST)
        if any(one.kind == _GET_DEFAULT for one in netlink.messages(answer)):
            return answer
    return b""
