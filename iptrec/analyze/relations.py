"""How traversals belong together: the same packet again, and packets that come of packets.

A looped-back packet makes two traversals, a TEE copy one of its own, REJECT's answer as well; a tunnel's
packet holds another one; an ICMP error quotes one. Each relation names an earlier traversal, is found
by keys (`identity`), and is told only where the events bear it out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.analyze.grammar import HOOKS
from iptrec.analyze.identity import datagram_keys, flow_keys, inner_keys, packet_keys
from iptrec.analyze.traversal import Related

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.analyze.traversal import RelationKind
    from iptrec.analyze.window import Window

    _Column = npt.NDArray[Any]

_REMEMBERED: Final = 12  # windows
_INPUT, _OUTPUT, _POSTROUTING = map(HOOKS.index, ("INPUT", "OUTPUT", "POSTROUTING"))
_MOST_PIECES: Final = 64  # an IPv4 packet has 65,535 bytes at most


class Relations:
    """Follows the windows of one stream, in order, and answers for the latest."""

    def __init__(self) -> None:
        self._pages: deque[dict[str, _Column]] = deque(maxlen=_REMEMBERED)
        self._column: dict[str, _Column] = {}
        self._index: dict[str, _Index] = {}
        self._before = 0

    def turn(self, window: Window) -> None:
        """Go on to the next window."""
        self._pages.append(_page(window))
        self._column = {
            name: np.concatenate([page[name] for page in self._pages]) for name in self._pages[0]
        }
        self._before = len(self._column["number"]) - window.decided
        self._index = {}

    def of(self, position: int, header: dict[str, Any]) -> tuple[Related, ...]:
        """What the traversal at this position of the window has to do with earlier ones.

        ``header``: its packet's, as `decode.packet.header` gives it.
        """
        this = self._before + position
        found: dict[RelationKind, int | None] = {}
        hook = self._column["hook"][this]
        if hook == _OUTPUT:
            found["copy"] = self._copied(this)
            found["answer-of-reject"] = self._rejected(this, header)
        elif hook == _POSTROUTING:
            found["copy"] = self._latest("sent_key", self._column["key"][this], this)
        else:
            found["looped-back"] = self._looped(this)
        if found.get("answer-of-reject") is not None:
            pass  # that it quotes it goes without saying
        elif self._column["quotes"][this]:
            found["error-about"] = self._quoted(this)
        elif self._column["inner"][this]:
            found["carries"] = self._latest("key", self._column["inner"][this], this)
        found["carried-by"] = self._outside(this)
        pieces = self._pieces(this) if hook == _INPUT else []
        return tuple(
            Related(kind, int(self._column["number"][one]))
            for kind, one in [*(("reassembled", piece) for piece in pieces), *found.items()]
            if one is not None
        )

    def decider_before(self, position: int, time_ns: int) -> int | None:
        """The place that decided the last packet of the same flow that was seen before a time."""
        column = self._column
        this = self._before + position
        early = int(np.searchsorted(column["time"], time_ns))
        one = self._latest("flow", column["flow"][this], min(this, early))
        return None if one is None or column["decider"][one] < 0 else int(column["decider"][one])

    def _pieces(self, this: int) -> list[int]:
        """The fragments that the packet was put together from."""
        found: list[int] = []
        key = self._column["datagram"][this]
        one = self._latest("piece_of", key, this) if key else None
        while one is not None and len(found) < _MOST_PIECES:
            found.append(one)
            one = self._latest("piece_of", key, one)
        return found[::-1]

    def _looped(self, this: int) -> int | None:
        """The traversal with the same key that left by the interface that this one came in by."""
        column = self._column
        one = self._latest("key", column["key"][this], this)
        if one is None or not column["outdev"][one]:
            return None
        return one if column["outdev"][one] == column["indev"][this] else None

    def _copied(self, this: int) -> int | None:
        """The traversal in the midst of whose TEE rule this one took place."""
        column = self._column
        one = self._latest("copied", np.True_, this)
        if one is None or one < self._before or column["ended"][one] < column["begun"][this]:
            return None
        flows = column["flow"][one], column["last_flow"][one]
        return one if column["flow"][this] in flows else None

    def _rejected(self, this: int, header: dict[str, Any]) -> int | None:
        """The rejected traversal that this one answers: its flow turned round by a RST, or quoted."""
        column = self._column
        if column["quotes"][this]:
            flow = column["inner_flow"][this]
        elif "RST" in header.get("flags", ""):
            flow = column["back"][this]
        else:
            return None
        return self._latest("rejected_flow", flow, this)

    def _quoted(self, this: int) -> int | None:
        """The packet itself, else the last one of its flow."""
        column = self._column
        one = self._latest("key", column["inner"][this], this)
        for flow in ("last_flow", "flow"):
            if one is None:
                one = self._latest(flow, column["inner_flow"][this], this)
        return one

    def _outside(self, this: int) -> int | None:
        column = self._column
        one = self._latest("inner", column["key"][this], this)
        return one if one is not None and not column["quotes"][one] else None

    def _latest(self, name: str, value: Any, before: int) -> int | None:  # noqa: ANN401 - numpy's scalar
        """The last traversal before another one with this value in a column."""
        if name not in self._index:
            self._index[name] = _Index(self._column[name])
        return self._index[name].latest(value, before)


class _Index:
    """Finds values of a column."""

    def __init__(self, column: _Column) -> None:
        self._order = np.argsort(column, kind="stable")
        self._sorted = column[self._order]

    def latest(self, value: Any, before: int) -> int | None:  # noqa: ANN401 - numpy's scalar
        """The last row before another one that has this value."""
        start = np.searchsorted(self._sorted, value, side="left")
        stop = np.searchsorted(self._sorted, value, side="right")
        at = start + np.searchsorted(self._order[start:stop], before)
        return int(self._order[at - 1]) if at > start else None


def _page(window: Window) -> dict[str, _Column]:
    """What is remembered of a window's decided traversals; columns of shape (n,)."""
    assembly, events, decided = window.assembly, window.events, window.decided
    begun = assembly.rows[assembly.first[:decided]]
    ended = assembly.rows[assembly.first[:decided] + assembly.count[:decided] - 1]
    first, last = events.take(begun), events.take(ended)
    inner, inner_flow, quotes = inner_keys(last)
    datagram, fragment = datagram_keys(first)
    key, last_flow = packet_keys(first), flow_keys(last)
    outcome = assembly.outcome[:decided]
    decider = np.array(
        [-1 if one.decider is None else one.way[one.decider] for one in assembly.outcomes], np.int64
    )
    rejected = np.array([one.verdict == "REJECT" for one in assembly.outcomes], np.bool_)
    copied = np.array([_has_tee(window, one.way) for one in assembly.outcomes], np.bool_)
    return {
        "number": window.number + np.arange(decided),
        "time": np.maximum.accumulate(first.received_ns) if decided else first.received_ns,
        "decider": decider[outcome],
        "begun": begun,
        "ended": ended,
        "hook": first.hook.astype(np.int64),
        "indev": first.indev,
        "outdev": last.outdev,
        "key": key,
        "sent_key": np.where(last.hook == _POSTROUTING, key, np.uint64(0)),
        "datagram": datagram,
        "piece_of": np.where(fragment, datagram, np.uint64(0)),
        "flow": flow_keys(first),
        "last_flow": last_flow,
        "back": flow_keys(first, back=True),
        "inner": inner,
        "inner_flow": inner_flow,
        "quotes": quotes,
        "rejected_flow": np.where(rejected[outcome], last_flow, np.uint64(0)),
        "copied": copied[outcome],
    }


def _has_tee(window: Window, way: tuple[int, ...]) -> bool:
    return any(window.rulebook.places[one].target == "TEE" for one in way)
