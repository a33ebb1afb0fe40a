"""What recorders have left behind that were killed together with their guardians, and how it goes away.

Our rules say by their comment whose they are, and are looked for in what the kernel holds. A recorder keeps its
list of changes locked, as do its guardian and the commands that these have started (`guardian`), and it
listens to the events of its namespace: what nobody holds is left over.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from iptrec.errors import HostError, located
from iptrec.kernel import netns
from iptrec.kernel.legacy import digest, nflog
from iptrec.kernel.nft import nftrace, raw
from iptrec.kernel.nft import table as nft_table
from iptrec.kernel.undo import lists
from iptrec.kernel.undo.changes import Changes
from iptrec.names import FAMILIES, Family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iptrec.names import Backend

_WAIT_S: Final = 10  # for commands of a recorder that was killed
_STEP_S: Final = 0.02
_AT_WORK: Final = "it, or a command that it started, is at work"
_UUID: Final = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True, slots=True)
class Leftover:
    """Of one recorder in one namespace.

    ``rules``: (family, backend) -> how many of its rules are there. ``table``: whether it has one of its own
    in nf_tables. ``changes``: its list, if that is there and can be read.
    ``in_use``: why it is not to be touched, None if it is left over. ``where``: the namespace, None if it is
    gone, or nobody knows which it was. ``unreadable``: its list, if that holds what nobody can read.
    """

    where: Path | None
    comment: str
    rules: dict[tuple[Family, Backend], int]
    changes: Changes | None
    in_use: str | None
    table: bool = False
    unreadable: Path | None = None


def find(where: Path | None = None) -> list[Leftover]:
    """What is there of recorders, running ones included, in all namespaces or in one."""
    seen = netns.namespaces() if where is None else {where.stat().st_ino: [where]}
    known: dict[str, tuple[Changes, bool]] = {}
    found: list[Leftover] = []
    for path, descriptor in lists.found():
        held = not _let_go(descriptor, seen)
        if not os.fstat(descriptor).st_nlink:
            continue  # who ended has undone everything
        if (changes := lists.read(descriptor)) is not None:
            known[changes.comment] = changes, held
        elif not held and where is None and _UUID.fullmatch(path.stem):
            found.append(_unreadable(path, descriptor))
    for inode, paths in seen.items():
        found += _seen_by(inode, paths, known)
    reported = {one.comment for one in found}
    for comment, (changes, held) in known.items():
        if comment not in reported and where is None and not held:  # its namespace is gone
            found.append(Leftover(None, comment, {}, changes, None))
    return found


def _let_go(descriptor: int, seen: dict[int, list[Path]]) -> bool:
    """Whether nobody holds a list any more. Where nobody listens to events, they end who hold it: waited for.

    These are a guardian, and commands of a recorder that was killed: what they do is still to come.
    """
    until = time.monotonic() + _WAIT_S
    while lists.held(descriptor):
        changes = lists.read(descriptor)
        paths = [] if changes is None else seen.get(changes.place[0], [])
        if not paths or _is_listened_to(paths[0]) or time.monotonic() > until:
            return False
        time.sleep(_STEP_S)
    return True


def _is_listened_to(path: Path) -> bool:
    try:
        with _entered(path):
            return _listening({"legacy", "nft"}) is not None
    except (HostError, OSError):
        return True  # nobody can tell


def _unreadable(path: Path, descriptor: int) -> Leftover:
    """A list that says nothing: nothing had been changed yet, or another version wrote it."""
    whole = b"\n" in os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    in_use = "look into it, then remove it" if whole else None
    unreadable = path if whole else None
    return Leftover(None, f"iptrec:{path.stem}", {}, None, in_use, unreadable=unreadable)


def _seen_by(
    inode: int, paths: list[Path], known: dict[str, tuple[Changes, bool]]
) -> list[Leftover]:
    """What is in a namespace; nothing if it cannot be entered."""
    for path in paths:
        try:
            with _entered(path):
                return list(_in_namespace(inode, path, known))
        except HostError:
            break
        except FileNotFoundError:  # that process has ended, others may be there
            continue
    return []


def _in_namespace(
    inode: int, path: Path, known: dict[str, tuple[Changes, bool]]
) -> Iterator[Leftover]:
    rules = _rules()
    tables = _tables()
    for comment in dict.fromkeys([*rules, *tables]):
        counts = rules.get(comment, {})
        backends = {backend for _, backend in counts}
        listening = _listening(backends | ({"nft"} if comment in tables else set()))
        changes, held = known.get(comment, (None, listening is not None))
        busy = (f"{listening} is recording" if listening else _AT_WORK) if held else None
        yield Leftover(path, comment, counts, changes, busy, comment in tables)
    here = inode, netns.cookie()
    for comment, (changes, held) in known.items():
        if changes.place == here and comment not in {*rules, *tables}:
            yield Leftover(path, comment, {}, changes, _AT_WORK if held else None)


def _listening(backends: set[Backend]) -> str | None:
    """Who listens to the events of one of these, in the current namespace."""
    return (nflog.holder() if "legacy" in backends else None) or (
        nftrace.listener() if "nft" in backends else None
    )


def _entered(path: Path) -> contextlib.AbstractContextManager[int]:
    """Into a namespace; it takes no right to stay where we are."""
    return netns.entered(None if path.stat().st_ino == netns.inode() else path)


def remove(
    leftover: Leftover, stayed_out: Literal["keep", "restore", "discard"] = "keep"
) -> Changes | None:
    """Take it away: rules, what --flush took out, loggers unless somebody uses them by now, the list.

    ``stayed_out``: what becomes of rules of the user that cannot go back to their place (`flushed.places`).
    They are kept in the list, put behind those that are there now, or discarded. Returned is what the list
    still keeps. Raises `HostError`.
    """
    changes = leftover.changes
    if leftover.where is not None:
        with _entered(leftover.where):
            if changes is None:
                changes = Changes(leftover.comment, 0, "", table=leftover.table)
            elif nflog.holder() is not None:
                changes.loggers.clear()
            for family, backend in leftover.rules:  # that are there, whatever the list says
                changes.of(backend, family).ours = True
            _undo(changes, restore=stayed_out == "restore")
        if changes.out and stayed_out != "discard":
            return changes
    elif changes is not None:
        changes.give_back()
    lists.forget(lists.path_of(leftover.comment))
    return None


def _undo(changes: Changes, *, restore: bool) -> None:
    try:
        changes.undo()
        if restore:
            changes.restore()
    except OSError as error:
        raise HostError(f"cannot undo {changes.comment}: {located(error)}") from None
    finally:
        lists.rewrite(changes)  # whatever of it succeeded is not to be done twice


def _rules() -> dict[str, dict[tuple[Family, Backend], int]]:
    """Our rules in the current namespace, by their comments. No table is loaded for it."""
    found: dict[str, dict[tuple[Family, Backend], int]] = {}
    for family, backend, comments in _in_raw_tables():
        for comment in comments:
            rules = found.setdefault(comment, {})
            rules[family, backend] = rules.get((family, backend), 0) + 1
    return found


def _in_raw_tables() -> Iterator[tuple[Family, Backend, list[str]]]:
    """The comments of recorders' rules in the raw tables that are there."""
    family: Family
    for family in FAMILIES:
        tables = digest.loaded(family)
        if tables is None or "raw" in tables:
            with contextlib.suppress(HostError), digest.Tables(family) as legacy:
                yield family, "legacy", legacy.ours("raw")
        with contextlib.suppress(HostError):
            yield family, "nft", raw.ours(family)


def _tables() -> list[str]:
    """The comments whose tables there are in nf_tables."""
    try:
        return nft_table.comments()
    except HostError:
        return []
