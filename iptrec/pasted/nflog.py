"""A datagram of nflog as the kernel would have sent it (linux/netfilter/nfnetlink_log.h).

`decode.nflog` reads it. Numbers of attributes are big endian, the header of netlink little endian.
"""

from __future__ import annotations

import struct
from typing import Final

from iptrec.decode.nflog import NFULNL_MSG_PACKET

_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr
_PACKET_HDR, _MARK = 1, 2
_INDEV, _OUTDEV, _PHYSINDEV, _PHYSOUTDEV = 4, 5, 6, 7
_PAYLOAD, _PREFIX, _UID = 9, 10, 11
_GID, _HWTYPE, _HWHEADER, _HWLEN = 14, 15, 16, 17
_ETHERNET: Final = 1  # ARPHRD_ETHER
_ETHERTYPES: Final = {2: 0x0800, 10: 0x86DD}
_ETHERNET_BYTES: Final = 14


def datagram(
    prefix: bytes,
    family: int,
    payload: bytes,
    *,
    hook: int | None,
    indev: int = 0,
    outdev: int = 0,
    physindev: int = 0,
    physoutdev: int = 0,
    mark: int = 0,
    uid: int | None = None,
    gid: int | None = None,
    link: bytes = b"",
) -> bytes:
    """One event: a message of netlink with its header.

    ``prefix``: the kernel's, without its NUL. ``family``: AF_INET or AF_INET6. ``payload``: the packet from
    its IP header on. ``hook``: by NF_INET_* number, None where it is not known. Indexes, the mark: 0 for none.
    ``link``: the header of the link layer.
    """
    attributes = [] if hook is None else [
        _attribute(_PACKET_HDR, struct.pack("!HBx", _ETHERTYPES[family], hook))
    ]  # fmt: skip
    attributes.append(_attribute(_PREFIX, prefix + b"\0"))
    numbers = (
        (_INDEV, indev or None), (_OUTDEV, outdev or None), (_PHYSINDEV, physindev or None),
        (_PHYSOUTDEV, physoutdev or None), (_MARK, mark or None), (_UID, uid), (_GID, gid),
    )  # fmt: skip
    attributes += [
        _attribute(one, struct.pack("!I", value)) for one, value in numbers if value is not None
    ]
    if link:
        if len(link) == _ETHERNET_BYTES:
            attributes.append(_attribute(_HWTYPE, struct.pack("!H", _ETHERNET)))
        attributes.append(_attribute(_HWHEADER, link))
        attributes.append(_attribute(_HWLEN, struct.pack("!H", len(link))))
    attributes.append(_attribute(_PAYLOAD, payload))
    body = struct.pack("!BBH", family, 0, 0) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), NFULNL_MSG_PACKET, 0, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    head = struct.pack("<HH", 4 + len(value), kind)
    return head + value + bytes(-len(value) % 4)
