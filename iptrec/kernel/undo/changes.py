"""What a recorder has changed, and how it is undone: to be written down before each change (`lists`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from iptrec.errors import HostError
from iptrec.kernel.drops import monitor
from iptrec.kernel.drops.monitor import Asking, Borrowed, Monitor
from iptrec.kernel.legacy import logger
from iptrec.kernel.legacy import raw as legacy_raw
from iptrec.kernel.nft import raw as nft_raw
from iptrec.kernel.nft import table as nft_table
from iptrec.kernel.undo import flushed
from iptrec.names import COMMENT, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iptrec.names import Backend, Family


class RawTables(Protocol):
    """What undoing needs of a backend: the modules `legacy.raw` and `nft.raw`."""

    def made(self, family: Family) -> list[str]:
        """Return what inserting our rules will bring into being."""

    def remove(
        self, family: Family, comment: str, put_back: Sequence[str], made: Iterable[str]
    ) -> list[str]:
        """Take out our rules, put lines back; return those that stay out."""

    def staying_out(self, family: Family, comment: str, lines: Iterable[str]) -> list[str]:
        """Return the lines that `remove` would leave out now."""

    def append(self, family: Family, lines: Sequence[str]) -> list[str]:
        """Put lines behind the rules that are there; return those that the kernel refuses."""

    def readable(self, lines: Iterable[str]) -> list[str]:
        """Return lines for humans."""

    def understood(self, line: str) -> bool:
        """Return whether a line of a list can be put back."""


RAW_TABLES: Final[dict[Backend, RawTables]] = {"legacy": legacy_raw, "nft": nft_raw}


@dataclass(slots=True)
class RawTable:
    """What becomes of one raw table.

    ``ours``: our rules are in it, or about to be. ``out``: lines that --flush took out, to be put back;
    ``kept``: those that are not, as somebody replaced their chains. ``made``: what of it recorders made.
    """

    backend: Backend
    family: Family
    ours: bool = False
    out: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)

    def undo(self, comment: str) -> None:
        """Take our rules out, and put back what --flush took out; again: nothing."""
        if self.ours:
            self.kept += self._there.remove(self.family, comment, self.out, self.made)
            self.ours, self.out = False, []

    def give_up(self, comment: str) -> None:
        """Before our rules are inserted anew: what somebody replaced is not to be put back any more."""
        kept = self._there.staying_out(self.family, comment, self.out)
        self.kept += kept
        self.out = [one for one in self.out if one not in kept]

    def restore(self) -> None:
        """Put what was kept behind the rules that are there now; keep what is refused. Raises `HostError`."""
        if self.kept:
            self.kept = self._there.append(self.family, self.kept)

    @property
    def readable(self) -> list[str]:
        """What was kept, for humans."""
        return self._there.readable(self.kept)

    @property
    def plausible(self) -> bool:
        """Whether the types are what they should be."""
        lists = self.out, self.kept, self.made
        return (
            self.backend in RAW_TABLES
            and self.family in FAMILIES
            and isinstance(self.ours, bool)
            and all(isinstance(one, list) for one in lists)
            and all(isinstance(line, str) for one in lists for line in one)
            and all(self._there.understood(line) for line in [*self.out, *self.kept])
        )

    @property
    def _there(self) -> RawTables:
        return RAW_TABLES[self.backend]


@dataclass(slots=True)
class Changes:
    """What a recorder has changed, or is about to change.

    ``netns``, ``cookie``: see `netns.inode` and `netns.cookie`; ``output``: the recording. ``raw``: the raw
    tables, in the order of changing them. ``table``: there is one of our own in nf_tables. ``loggers``: for
    a family the logger that was set before. ``monitor``: how the host's drop monitor is to be put back.
    """

    comment: str
    netns: int
    output: str
    cookie: int = 0
    raw: list[RawTable] = field(default_factory=list)
    table: bool = False
    loggers: dict[Family, str] = field(default_factory=dict)
    monitor: Borrowed | None = None

    def of(self, backend: Backend, family: Family) -> RawTable:
        """What becomes of a raw table."""
        for one in self.raw:
            if (one.backend, one.family) == (backend, family):
                return one
        self.raw.append(RawTable(backend, family))
        return self.raw[-1]

    def undo(self, asking: Asking | None = None) -> None:
        """Undo what is still ours, in the current namespace. Raises `IptrecError` or OSError.

        ``asking``: a socket of `monitor.asking`, of who may not have one any more.
        """
        for one in self.raw:
            one.undo(self.comment)
        if self.table:
            nft_table.remove(self.comment)
            self.table = False
        for family in list(self.loggers):
            logger.Switched(family, self.loggers[family]).undo()
            del self.loggers[family]
        self.give_back(asking)

    def give_back(self, asking: Asking | None = None) -> None:
        """Put the drop monitor back, which is there once for all namespaces; again: nothing."""
        if self.monitor is not None:
            with contextlib.ExitStack() as own:
                opened = asking or own.enter_context(monitor.asking())
                Monitor(opened).give_back(self.monitor)
            self.monitor = None

    def restore(self) -> None:
        """Put what was kept behind the rules that are there now. Raises `HostError`."""
        for one in self.raw:
            one.restore()
        for family, backend, lines in self.out[:1]:
            raise HostError(
                f"the kernel refuses {len(lines)} rule{'s' * (len(lines) > 1)} of the"
                f" {flushed.of_table(family, backend)}, such as `{lines[0]}`: make the chains and sets that"
                " they name, then run iptrec cleanup --restore again, or --discard"
            )

    @property
    def out(self) -> list[tuple[Family, Backend, list[str]]]:
        """The rules of the user that --flush took out and nobody put back, for humans."""
        return [(one.family, one.backend, one.readable) for one in self.raw if one.kept]

    @property
    def place(self) -> tuple[int, int]:
        """The namespace."""
        return self.netns, self.cookie

    @classmethod
    def of_json(cls, found: Any) -> Self | None:  # noqa: ANN401 - JSON
        """What was written down as a dictionary; None where that is not plausible. Raises TypeError."""
        raw = [RawTable(**one) for one in found.get("raw", ())]
        borrowed = found.get("monitor")
        borrowed = None if borrowed is None else Borrowed.of_json(borrowed)
        made = cls(**{**found, "raw": raw, "monitor": borrowed})
        return made if made.plausible else None

    @property
    def plausible(self) -> bool:
        """Whether the types are what they should be."""
        return (
            isinstance(self.comment, str)
            and self.comment.startswith(COMMENT)
            and isinstance(self.netns, int)
            and isinstance(self.cookie, int)
            and isinstance(self.output, str)
            and isinstance(self.table, bool)
            and all(one.plausible for one in self.raw)
            and isinstance(self.loggers, dict)
            and set(self.loggers) <= {*FAMILIES}
            and all(isinstance(name, str) for name in self.loggers.values())
        )
