"""IPsec's policies out of XFRM's messages (include/uapi/linux/xfrm.h): struct xfrm_userpolicy_info, attributes.

Those that a socket has for itself are in the list, too.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.attributes import attributes, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW_POLICY, _DEFAULT = 0x13, 0x28  # XFRM_MSG_NEWPOLICY, _GETDEFAULT
_STATES, _COUNT = 0x22, 1  # XFRM_MSG_NEWSADINFO, XFRMA_SAD_CNT
_SELECTOR: Final = struct.Struct(">16s16sHHHH")
# Family, lengths of both prefixes, protocol, interface
_MORE: Final = struct.Struct("<HBBB3xi4x")
_REST_AT: Final = 152  # behind lifetimes
_REST: Final = struct.Struct("<IIBB")  # priority, index, direction, action
_SIZE: Final = 168
_TEMPLATES, _MARK, _IF_ID = 5, 21, 31  # XFRMA_
_TEMPLATE: Final = 64  # bytes of struct xfrm_user_tmpl
_SIZES: Final = {2: 4, 10: 16}  # bytes of an address
_DIRECTIONS: Final = ("in", "out", "fwd")
_ACTIONS: Final = ("allow", "block")


def rows(content: bytes) -> Iterator[dict[str, Any]]:
    """Each policy as field -> value; first one for each direction in which packets that none fits are dropped.

    ``default``: whether it is one of these. ``socket``: whether it is a socket's own. ``templates``: how many
    transformations it asks for.
    """
    for message in messages(content):
        if message.kind == _DEFAULT and len(message.body) >= len(_DIRECTIONS):
            for direction, at in (("in", 0), ("fwd", 1), ("out", 2)):
                if message.body[at] == 1:  # XFRM_USERPOLICY_BLOCK
                    yield {"default": True, "direction": direction, "action": "block"}
        elif message.kind == _NEW_POLICY and len(message.body) >= _SIZE:
            yield from _policy(message.body)


def states(content: bytes) -> int | None:
    """How many states there were; None where the kernel did not tell."""
    for message in messages(content):
        if message.kind == _STATES:
            count = dict(attributes(message.body[4:])).get(_COUNT, b"")
            return int.from_bytes(count[:4], "little") if len(count) >= 4 else None  # noqa: PLR2004
    return None


def _policy(body: bytes) -> Iterator[dict[str, Any]]:
    dst, src, dport, dport_mask, sport, sport_mask = _SELECTOR.unpack_from(body)
    family, dst_len, src_len, protocol, link = _MORE.unpack_from(body, _SELECTOR.size)
    priority, index, direction, action = _REST.unpack_from(body, _REST_AT)
    size = _SIZES.get(family)
    if size is None or max(dst_len, src_len) > size * 8 or action >= len(_ACTIONS):
        return
    told = dict(attributes(body[_SIZE:]))
    mark = told.get(_MARK, b"").ljust(8, b"\0")
    yield {
        "default": False, "direction": _DIRECTIONS[direction % 3], "socket": direction >= len(_DIRECTIONS),
        "action": _ACTIONS[action], "priority": priority, "index": index, "family": family,
        "src": _network(src[:size], src_len), "dst": _network(dst[:size], dst_len), "protocol": protocol,
        "sport": sport, "sport_mask": sport_mask, "dport": dport, "dport_mask": dport_mask, "link": link,
        "mark": int.from_bytes(mark[:4], "little"), "mark_mask": int.from_bytes(mark[4:8], "little"),
        "if_id": int.from_bytes(told.get(_IF_ID, b"")[:4], "little"),
        "templates": len(told.get(_TEMPLATES, b"")) // _TEMPLATE,
    }  # fmt: skip


def _network(address: bytes, length: int) -> str:
    """The part of an address that counts."""
    return str(ipaddress.ip_network((address, length), strict=False))
