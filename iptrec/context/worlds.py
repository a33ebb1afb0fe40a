"""Routes, settings, interfaces, groups and IPsec's policies as they may all have been at one moment."""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING, Final, TypeVar

from iptrec.context.devices import Devices
from iptrec.context.policies import NONE, Policies, over_time
from iptrec.context.routes import Routes
from iptrec.context.world import World
from iptrec.decode import snapshots
from iptrec.decode.groups import groups

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Mapping, Sequence

    from iptrec.context.interfaces import Interfaces
    from iptrec.context.routing import Tables
    from iptrec.context.world import Device
    from iptrec.recording.rows import Recording

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address
    Files = Mapping[str, str]

T = TypeVar("T")

_MOST: Final = 16  # at one moment
_DECIMAL: Final = re.compile(r"-?[0-9]{1,18}")
_REMEMBERED: Final = 1000
_NO_GROUPS: Final[Mapping[str, str]] = {}


class Worlds:
    """What one namespace of a recording tells of them."""

    def __init__(self, recording: Recording, namespace: int, interfaces: Interfaces) -> None:
        self._recording = recording
        self._namespace = namespace
        self._routes = Routes(recording, namespace, interfaces)
        self._devices = Devices(recording, namespace)
        self._made: dict[tuple[object, ...], World] = {}

    @functools.cached_property
    def _settings(self) -> list[tuple[int, Files]]:
        return self._files("sysctls")

    @functools.cached_property
    def _groups(self) -> list[tuple[int, Files]]:
        return self._files("groups")

    @functools.cached_property
    def _policies(self) -> list[tuple[int, Policies]]:
        return over_time(self._recording, self._namespace)

    def _files(self, kind: str) -> list[tuple[int, Files]]:
        """Each list and its time; the same object for what has not changed."""
        found: list[tuple[int, Files]] = []
        for one in self._recording.snapshots(kind):
            if one.namespace == self._namespace:
                files = snapshots.counters(one.content)
                same = found and found[-1][1] == files
                found.append((one.time_ns, found[-1][1] if same else files))
        return found

    @property
    def known(self) -> bool:
        """Whether anything was recorded of routes and settings."""
        return self._routes.known and bool(self._settings)

    def at(self, time_ns: tuple[int, int]) -> tuple[list[World], bool]:
        """All that may have been between two times (epoch), and whether there was nothing else.

        None of them where too little was recorded, or too many may have been.
        """
        tables, sure = self._routes.tables(time_ns)
        settings, settled = around(self._settings, time_ns)
        joined, _ = around(self._groups, time_ns)
        policies, _ = around(self._policies, time_ns)
        joined, policies = joined or [_NO_GROUPS], policies or [NONE]
        possible = len(tables) * len(settings) * len(joined) * len(policies)
        if not settings or possible > _MOST:
            return [], False
        devices = self._devices.at(time_ns)
        every = itertools.product(tables, settings, joined, policies)
        return [self._world(devices, *one) for one in every], sure and settled

    def _world(
        self,
        devices: Mapping[int, Device],
        tables: Tables,
        files: Files,
        groups_: Files,
        policies: Policies,
    ) -> World:
        key = id(devices), tables, id(files), id(groups_), policies
        if key not in self._made:
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
            every = [files for _, files in self._settings]
            self._made[key] = World(
                tables,
                functools.partial(_number, files, every),
                devices,
                functools.partial(_joined, groups(groups_)),
                policies,
            )
        return self._made[key]


def around(known: Sequence[tuple[int, T]], time_ns: tuple[int, int]) -> tuple[list[T], bool]:
    """The last list before and the first one after two times; whether there are both.

    What the first list of all tells may have been so before it.
    """
    before = [files for time, files in known if time <= time_ns[0]]
    after = [files for time, files in known if time >= time_ns[1]]
    found = (before[-1:] or [files for _, files in known[:1]]) + after[:1]
    alike = len(found) == 2 and found[0] == found[1]  # noqa: PLR2004
    return found[:1] if alike else found, bool(before and after)


def _number(files: Files, every: Sequence[Files], path: str) -> int | None:
    """A setting; of an interface that was not there in one list what another one tells."""
    for one in (files, *every):
        if path in one:
            return int(one[path]) if _DECIMAL.fullmatch(one[path]) else None
    return None


def _joined(known: Mapping[tuple[str, int], frozenset[IP]], name: str, group: IP) -> bool | None:
    """Whether an interface takes packets for a group; None where its groups are not told."""
    found = known.get((name, group.version))
    return None if found is None else group in found
