"""Who holds a socket: a user, a process, a control group with its container, out of the snapshot "owners"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode import containers, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a packet's socket; None for what is not known, or not the same of all that share it.

    ``container``: its id or name. ``pod``: its UID. Both are those that ``cgroup`` names.
    """

    uid: int | None = None
    pid: int | None = None
    comm: str | None = None
    cgroup: str | None = None
    container: str | None = None
    pod: str | None = None


NOBODY: Final = Owner()


def in_group(path: str | None, uid: int, pid: int | None, comm: str | None) -> Owner:
    """The owner in a control group, with the container and pod that its path names."""
    container, pod = (path and one(path) for one in (containers.container, containers.pod))
    return Owner(uid, pid, comm, path, container, pod)


def shared(owners: Sequence[Owner]) -> Owner:
    """What is the same of several."""
    return Owner(
        *(_alone({getattr(one, name) for one in owners}) for name in Owner.__dataclass_fields__)
    )


class Holders:
    """What the snapshot says: of each inode the processes, of each control group its path."""

    def __init__(self, content: bytes) -> None:
        self._processes: dict[int, list[tuple[int, str, str]]] = {}
        processes, self._paths = snapshots.owners(content)
        for process, inodes in processes:
            for inode in inodes:
                self._processes.setdefault(inode, []).append(process)

    def of(self, socket: Mapping[str, Any]) -> Owner:
        """Who holds a socket, as `decode.sockets.rows` tells it."""
        processes = self._processes.get(socket["inode"], [])
        own = self._paths.get(socket["cgroup"])
        path = _of_container(own, [text for _, _, text in processes]) or own
        if path is None:
            path = _alone({one for _, _, text in processes for _, one in _in_text(text)})
        pid = _alone({pid for pid, _, _ in processes})
        return in_group(path, socket["uid"], pid, _alone({comm for _, comm, _ in processes}))


def _alone(values: set[Any]) -> Any:  # noqa: ANN401 - whatever they are
    return values.pop() if len(values) == 1 else None


def _of_container(own: str | None, texts: list[str]) -> str | None:
    """The path that names a container: the socket's ``own``, or that of the one that its processes are in.

    Of version 2 theirs counts only where the socket's is not known: it may have been given to them. But where
    version 1 makes containers, the socket's is the root, or a daemon's.
    """
    if own is not None and containers.container(own):
        return own
    unknown = own in (None, "/")
    lines = (line for text in texts for line in _in_text(text))
    paths = {path for version, path in lines if unknown or version == 1}
    named = {path: name for path in paths if (name := containers.container(path))}
    return min(named) if len({*named.values()}) == 1 else None


def _in_text(text: str) -> Iterator[tuple[int, str]]:
    """Version and path in /proc/PID/cgroup: a line a hierarchy, NUMBER:CONTROLLERS:PATH; version 2 is 0."""
    for line in filter(None, text.split("\n")):  # a path may hold what else ends lines to Python
        yield 2 if line.startswith("0:") else 1, line.split(":", 2)[-1]
