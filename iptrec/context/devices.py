"""What is told of interfaces over time: their MTU, their group, and which of them belong to a VRF."""

from __future__ import annotations

import heapq
import operator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.context.datagrams import datagrams
from iptrec.context.world import Device
from iptrec.decode import snapshots
from iptrec.decode.rtnetlink import LAYOUTS, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iptrec.recording.rows import Recording

_SLACK_NS: Final = 50_000_000  # what the kernel tells is received a moment later
_REMEMBERED: Final = 64
_EVER: Final = int(np.iinfo(np.int64).min)


class Devices:
    """The interfaces of one namespace of a recording, by their indexes."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._over_time: dict[int, list[tuple[int, Device]]] = {}
        self._made: dict[tuple[Device, ...], Mapping[int, Device]] = {}
        for time_ns, row in told(recording, namespace):
            device = _device(row)
            known = self._over_time.setdefault(int(row["index"]), [])
            if not known or known[-1][1] != device:
                known.append((time_ns, device))
        self._changing = [index for index, known in self._over_time.items() if len(known) > 1]
        self._first = {index: known[0][1] for index, known in self._over_time.items()}

    def at(self, time_ns: tuple[int, int]) -> Mapping[int, Device]:
        """Those of between two times (epoch); of one that changed meanwhile MTU and group are not told.

        Mostly the same object for the same.
        """
        if len(self._made) >= _REMEMBERED:
            self._made.clear()
        now = {index: _then(self._over_time[index], time_ns) for index in self._changing}
        return self._made.setdefault(tuple(now.values()), self._first | now if now else self._first)


def _then(known: list[tuple[int, Device]], time_ns: tuple[int, int]) -> Device:
    first, last = time_ns[0] - _SLACK_NS, time_ns[1] + _SLACK_NS
    before = [one for since, one in known if since <= first] or [known[0][1]]
    meanwhile = [one for since, one in known if first < since <= last]
    possible = {before[-1], *meanwhile}
    if len(possible) == 1:
        return before[-1]
    return Device(
        before[-1].name,
        vrf=any(one.vrf for one in possible),
        bridge=any(one.bridge for one in possible),
    )


def told(recording: Recording, namespace: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What is told of interfaces, and when, in the order of time."""
    both = _listed(recording, namespace), _changes(recording, namespace)
    return heapq.merge(*both, key=operator.itemgetter(0))


def _listed(recording: Recording, namespace: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What the lists tell; what is in the first one was there before."""
    lists = (one for one in recording.snapshots("links") if one.namespace == namespace)
    for number, one in enumerate(lists):
        for row in snapshots.described_links(one.content, one.media):
            yield one.time_ns if number else _EVER, row


def _changes(recording: Recording, namespace: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What the kernel told of interfaces that came or changed."""
    for time_ns, datagram in datagrams(recording, "rtnetlink", namespace):
        for row in rows(LAYOUTS["links"], datagram):
            if "name" in row:
                yield time_ns, row


def kinds(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """What an interface is, and what the one is whose port it is; None where that is not told."""
    info = row.get("linkinfo")
    return (info.get("kind"), info.get("slave_kind")) if isinstance(info, dict) else (None, None)


def _device(row: Mapping[str, Any]) -> Device:
    mtu, group = (one if isinstance(one := row.get(key), int) else None for key in ("mtu", "group"))
    name = str(row["name"]).encode("utf-8", "backslashreplace").decode()  # of a stranger
    return Device(name, mtu, "vrf" in kinds(row), group, kinds(row)[0] == "bridge")
