"""What this host answered about its packets: errors of ICMP, and RSTs to those who asked for a connection.

The kernel sends them where it discards a packet, and they pass OUTPUT as others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.decode import packet as packets
from iptrec.names import HOOKS

if TYPE_CHECKING:
    from iptrec.packets.relations import Relations
    from iptrec.packets.window import Window

_OUTPUT: Final = HOOKS.index("OUTPUT")
RST: Final = "RST"


class Answer(NamedTuple):
    """``name``: of the error, as `decode.packet.header` gives it, or RST. ``number``: the packet's."""

    name: str
    number: int


def answers(window: Window, relations: Relations) -> dict[int, Answer]:
    """Position of a packet in the window -> what this host sent about it."""
    found: dict[int, Answer] = {}
    about = relations.columns()["error-about"]
    for position in np.flatnonzero(about >= window.number).tolist():
        header = _sent(window, position)
        if header is not None and header.get("name"):
            name = str(header["name"]).rpartition("/")[2]
            answer = Answer(name, window.number + position)
            found.setdefault(int(about[position]) - window.number, answer)
    for position, asked in relations.resets():
        if _refuses(_sent(window, position), _header(window, asked)):
            found.setdefault(asked, Answer(RST, window.number + position))
    return found


def _refuses(reset: dict[str, Any] | None, asked: dict[str, Any]) -> bool:
    """Whether it is the kernel's own to a SYN that no socket took (tcp_v4_send_reset)."""
    if reset is None or asked.get("flags") != "SYN" or reset.get("seq") != 0:
        return False
    return bool(reset.get("ack") == (asked.get("seq", 0) + 1) % 2**32)


def _sent(window: Window, position: int) -> dict[str, Any] | None:
    """The headers of what this host itself sent."""
    row = int(window.assembly.events(position)[0])
    return _header(window, position) if int(window.events.hook[row]) == _OUTPUT else None


def _header(window: Window, position: int) -> dict[str, Any]:
    events, row = window.events, int(window.assembly.events(position)[0])
    return packets.header(events.packet(row), events.address_family(row), int(events.protocol[row]))
