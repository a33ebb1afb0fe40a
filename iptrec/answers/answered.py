"""What this host answered about its packets: errors of ICMP, and RSTs to those who asked for a connection.

The kernel sends them where it discards a packet, and they pass OUTPUT as others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from iptrec.names import I64
    from iptrec.packets.relations import Relations
    from iptrec.packets.window import Window

_PREROUTING, _OUTPUT = HOOKS.index("PREROUTING"), HOOKS.index("OUTPUT")
RST: Final = "RST"
_QUOTED: Final = ("src", "dst", "proto", "sport", "dport", "id", "length")
_PORTED: Final = "sport"
# What NAT makes of them is not seen of a packet that ends in PREROUTING.
_TO: Final = frozenset(["dst", "dport"])
_SYNS: Final = ("SYN", "SYN,ECE,CWR")  # RFC 3168
_AT_ONCE_NS: Final = 2_000_000


class Answer(NamedTuple):
    """``name``: of the error, as `decode.packet.header` gives it, or RST. ``number``: the packet's.

    ``otherwise``: what else it may be about: what is quoted of a copy is quoted of the packet as well.
    """

    name: str
    number: int
    otherwise: str = ""

    @property
    def sure(self) -> bool:
        """Whether it is about the packet."""
        return not self.otherwise


class Answers:
    """What was answered about the packets of a window; each is looked at when it is asked for.

    ``positions``: of those that there may be an answer about.
    """

    def __init__(self, window: Window, relations: Relations) -> None:
        self._window = window
        self._headers = _Headers(window)
        self._errors: dict[int, int] = {}
        self._late: dict[int, int] = {}
        errors = np.flatnonzero(relations.errors())
        if len(errors):
            self._find(errors, relations)
        self._resets = {asked: reset for reset, asked in reversed(relations.resets())}
        self.positions = [*self._late, *self._errors, *self._resets]

    def _find(self, errors: I64, relations: Relations) -> None:
        """What the errors at some positions may be about."""
        about = relations.columns()["error-about"][errors] - self._window.number
        # Of what nf_tables dumps too little is quoted to find it: it may be the one before.
        about = np.where(about < 0, errors - 1, about)
        copies = relations.columns()["copy"]
        copied = np.flatnonzero(copies)
        self._copied = {*copied.tolist(), *(copies[copied] - self._window.number).tolist()}
        self._either = relations.either()
        late = relations.late()
        self._unsure = set(late.packet[~late.sure].tolist())
        self._late = dict(zip(late.packet.tolist(), late.error.tolist(), strict=True))
        known = set(self._late.values())
        for asked, error in zip(about.tolist(), errors.tolist(), strict=True):
            if asked >= 0 and error not in known:
                self._errors.setdefault(asked, error)

    def of(self, position: int) -> Answer | None:
        """The answer about the packet at a position."""
        window = self._window
        late, error = self._late.get(position), self._errors.get(position)
        reset = self._resets.get(position)
        for one, found in ((late, True), (error, False)):
            if one is None or not self._quotes(one, position, found=found):
                continue
            header = self._headers.sent(one)
            if header is not None and header.get("name"):
                name = str(header["name"]).rpartition("/")[2]
                return Answer(name, window.number + one, self._otherwise(position, one))
        if reset is not None and _refuses(self._headers.sent(reset), self._headers.of(position)):
            return Answer(RST, window.number + reset)
        return None

    def _otherwise(self, position: int, error: int) -> str:
        if position in self._copied:
            return "a copy"
        doubtful = position in self._unsure and self._late[position] == error
        doubtful |= bool(self._either[error])
        return "another packet" if doubtful else ""

    def _quotes(self, position: int, asked: int, *, found: bool) -> bool:
        """Whether an error is about a packet, by all that it quotes of it, and sent to where it came from.

        ``found``: by all of that. Of nf_tables' traces it is not much: then it must follow at once.
        """
        window, headers = self._window, self._headers
        error, first, last = headers.of(position), headers.of(asked), headers.of(asked, -1)
        quoted = error.get("inner", {})
        told = [name for name in _QUOTED if quoted.get(name) is not None]
        differing = {name for name in told if quoted[name] not in (first.get(name), last.get(name))}
        if error.get("dst") != first.get("src") or differing - _TO:
            return False
        if differing and int(window.events.hook[window.assembly.events(asked)[-1]]) != _PREROUTING:
            return False
        if (
            found
            or quoted.get("id")
            or ("src" in told and (_PORTED not in first or _PORTED in told))
        ):
            return True
        rows = [int(window.assembly.events(one)[at]) for one, at in ((asked, -1), (position, 0))]
        before, after = window.moment_ns[rows].tolist()
        return bool(0 <= after - before <= _AT_ONCE_NS)


class _Headers:
    """Of the packets of a window; each is read once, as an answer and what it is about."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._known: dict[int, dict[str, Any]] = {}

    def of(self, position: int, at: int = 0) -> dict[str, Any]:
        """The headers of a packet at one of its events."""
        row = int(self._window.assembly.events(position)[at])
        if row not in self._known:
            self._known[row] = self._window.events.header(row)
        return self._known[row]

    def sent(self, position: int) -> dict[str, Any] | None:
        """Those of what this host itself sent, as it began."""
        row = int(self._window.assembly.events(position)[0])
        return self.of(position) if int(self._window.events.hook[row]) == _OUTPUT else None


def _refuses(reset: dict[str, Any] | None, asked: dict[str, Any]) -> bool:
    """Whether it is the kernel's own to a SYN that no socket took (tcp_v4_send_reset)."""
    if reset is None or asked.get("flags") not in _SYNS or reset.get("seq") != 0:
        return False
    return bool(reset.get("ack") == (asked.get("seq", 0) + 1) % 2**32)
