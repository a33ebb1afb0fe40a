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
_QUOTED: Final = ("src", "dst", "proto", "sport", "dport", "id", "length")
_PORTED: Final = "sport"
_AT_ONCE_NS: Final = 2_000_000
_NEAR: Final = 4  # packets before an error that it may be about


class Answer(NamedTuple):
    """``name``: of the error, as `decode.packet.header` gives it, or RST. ``number``: the packet's."""

    name: str
    number: int


def answers(window: Window, relations: Relations) -> dict[int, Answer]:
    """Position of a packet in the window -> what this host sent about it."""
    found: dict[int, Answer] = {}
    about = relations.columns()["error-about"]
    for position in np.flatnonzero(relations.errors()).tolist():
        header = _sent(window, position)
        likely = [int(about[position]) - window.number, *range(position - 1, position - _NEAR, -1)]
        asked = next((one for one in likely if one >= 0 and _quotes(window, position, one)), None)
        if header is not None and header.get("name") and asked is not None:
            name = str(header["name"]).rpartition("/")[2]
            found.setdefault(asked, Answer(name, window.number + position))
    for position, asked in relations.resets():
        if _refuses(_sent(window, position), _header(window, asked)):
            found.setdefault(asked, Answer(RST, window.number + position))
    return found


def _quotes(window: Window, position: int, asked: int) -> bool:
    """Whether an error is about a packet, by all that it quotes of it, and sent to where it came from.

    Of nf_tables' traces that is not much: then it must follow at once.
    """
    error, first = _header(window, position), _header(window, asked)
    last = _header(window, asked, -1)
    quoted = error.get("inner", {})
    told = [name for name in _QUOTED if quoted.get(name) is not None]
    if error.get("dst") != first.get("src") or any(
        quoted[name] not in (first.get(name), last.get(name)) for name in told
    ):
        return False
    if quoted.get("id") or ("src" in told and (_PORTED not in first or _PORTED in told)):
        return True
    rows = [int(window.assembly.events(one)[at]) for one, at in ((asked, -1), (position, 0))]
    before, after = window.moment_ns[rows].tolist()
    return bool(0 <= after - before <= _AT_ONCE_NS)


def _refuses(reset: dict[str, Any] | None, asked: dict[str, Any]) -> bool:
    """Whether it is the kernel's own to a SYN that no socket took (tcp_v4_send_reset)."""
    if reset is None or asked.get("flags") != "SYN" or reset.get("seq") != 0:
        return False
    return bool(reset.get("ack") == (asked.get("seq", 0) + 1) % 2**32)


def _sent(window: Window, position: int) -> dict[str, Any] | None:
    """The headers of what this host itself sent."""
    row = int(window.assembly.events(position)[0])
    return _header(window, position) if int(window.events.hook[row]) == _OUTPUT else None


def _header(window: Window, position: int, at: int = 0) -> dict[str, Any]:
    """The headers of a packet at one of its events."""
    events, row = window.events, int(window.assembly.events(position)[at])
    return packets.header(events.packet(row), events.address_family(row), int(events.protocol[row]))
