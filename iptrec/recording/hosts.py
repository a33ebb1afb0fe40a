"""Several recordings that are read as one: which host each namespace is of, and what is that host's alone.

Numbers of namespaces, streams, chunks and snapshots are no two recordings'. What the kernel numbers by itself
(interfaces, connections, packets, processors, clocks) is each host's own: what puts packets together, and what
explains them, takes the recording of their namespace (`of_namespace`), which knows of no other host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.recording.rows import (
        Chunk,
        Facts,
        Loss,
        Namespace,
        Recording,
        Snapshot,
        Stream,
    )


@dataclass(frozen=True, slots=True)
class Host:
    """One of several recordings.

    ``name``: of its host; where two hosts call themselves the same, with that of the file. Two recordings of
    one host have the same. ``file``: the name of the file that it is or was. ``recording``: its rows alone.
    ``running``: whether it is still recorded; None where that cannot be told.
    """

    name: str
    file: str
    recording: Recording
    running: bool | None


class Alone:
    """The recording of one of several hosts, none of whose packets is another one's; it still has its name."""

    def __init__(self, host: Host) -> None:
        self.hosts = [host]
        self._rows = host.recording

    @property
    def facts(self) -> Facts:
        """See `rows.Recording`; so are the others."""
        return self._rows.facts

    @property
    def namespaces(self) -> Sequence[Namespace]:
        """The host's."""
        return self._rows.namespaces

    @property
    def streams(self) -> Sequence[Stream]:
        """The host's."""
        return self._rows.streams

    @property
    def losses(self) -> Sequence[Loss]:
        """The host's."""
        return self._rows.losses

    def snapshots(self, *kinds: str) -> Iterable[Snapshot]:
        """The host's."""
        return self._rows.snapshots(*kinds)

    def newest_snapshot(self) -> int:
        """The host's."""
        return self._rows.newest_snapshot()

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """The host's."""
        return self._rows.chunks(stream, after)


def hosts(recording: Recording) -> Sequence[Host]:
    """Those that are read as one, in the order of their packets; none of a recording that is read alone."""
    found: Sequence[Host] = getattr(recording, "hosts", ())
    return found


def parts(recording: Recording) -> Sequence[Recording]:
    """The recordings that are read as one, or the one alone."""
    return [one.recording for one in hosts(recording)] or [recording]


def host_of(recording: Recording, namespace: int) -> Host | None:
    """Whose a namespace is; None of a recording that is read alone."""
    for one in hosts(recording):
        if any(namespace == each.id for each in one.recording.namespaces):
            return one
    return None


def of_namespace(recording: Recording, namespace: int) -> Recording:
    """The recording that a namespace is of, alone."""
    host = host_of(recording, namespace)
    return recording if host is None else host.recording


def name_of(recording: Recording, namespace: int) -> str | None:
    """The name of the host that a namespace is of; None of a recording that is read alone."""
    host = host_of(recording, namespace)
    return None if host is None else host.name
