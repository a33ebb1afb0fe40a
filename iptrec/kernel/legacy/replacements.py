"""When tables of legacy iptables were replaced: the programs, attached, and what they tell.

The kernel tells nobody of changes, but programs of ours see them (`replacement_program`): a table that was
not replaced is as it was, however often somebody used the lock.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.btf import Btf
from iptrec.kernel.bpf.programs import Programs
from iptrec.kernel.bpf.ring import Ring, since_the_epoch
from iptrec.kernel.legacy import replacement_program as program

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    import numpy as np

    from iptrec.names import Family

_RING_BYTES: Final = 1 << 18
_TABLES: Final = 64  # names that are kept apart, which a process chooses
_KEPT: Final = program.SLOTS * 3 // 4  # the others may be written while these are read
_TIMES: Final = 4 * program.SLOTS
_FAMILIES: Final[dict[int, Family]] = {0: "ipv4", 41: "ipv6"}  # SOL_IP, SOL_IPV6
_ADVICE: Final = {
    errno.EPERM: "it needs CAP_BPF and CAP_PERFMON of the host itself, not of a container",
}


class Replaced(NamedTuple):
    """A table was replaced between two times (epoch, ns): before the old rules held, afterwards the new."""

    after_ns: int
    time_ns: int


@dataclass(slots=True)
class _UnderWay:
    """One replacement: since when, and which it was of its table's, from 1."""

    since_ns: int
    number: int


@dataclass(slots=True)
class History:
    """The replacements of a table that nobody has taken note of yet.

    ``begun``: how many there ever were. ``under_way``: by the numbers of processes. ``ended``: in
    order; of many those between the first and the last are left out.
    """

    begun: int = 0
    under_way: dict[int, _UnderWay] = field(default_factory=dict)
    ended: list[Replaced] = field(default_factory=list)
    _pages: dict[int, int] = field(default_factory=dict)  # of counters; which replacement took them
    _all_known: bool = False  # whether there are no others, that were taken before

    @property
    def quiet(self) -> bool:
        """Whether there is none, and none is under way."""
        return not (self.ended or self.under_way)

    def begins(self, now_ns: int) -> Replaced:
        """One that is under way, as one that ends now."""
        return Replaced(min(self._since(), default=now_ns), now_ns)

    def begin(self, process: int, time_ns: int, page: int | None) -> None:
        """A process has taken a page: it begins, or has come further with many rules; None: maybe here."""
        if process not in self.under_way:
            self.begun += 1
            self.under_way[process] = _UnderWay(time_ns, self.begun)
        one = self.under_way[process]
        one.since_ns = time_ns
        if page is not None:
            self._pages[page] = one.number

    def end(self, process: int, time_ns: int, page: int | None) -> None:
        """A process gives a page back: of the rules before, or, where it is refused, one that it took itself.

        What is given back after the first page is of the same replacement; other pages are not the table's.
        """
        taken = None if page is None else self._pages.pop(page, None)
        elsewhere = taken is None and page is not None and self._all_known
        if process not in self.under_way or elsewhere:
            return
        if taken != self.under_way[process].number:
            # Of several the first one began first, and ended not after the first that has ended.
            self._add(Replaced(min(self._since()), time_ns))
            self._all_known |= taken is None and page is not None
        del self.under_way[process]

    def settled(self, begun: int) -> list[Replaced] | None:
        """Take note of all, where ``begun`` is their number; None where more began, or one is under way."""
        if self.under_way or self.begun != begun:
            return None
        found, self.ended = self.ended, []
        return found

    def lose(self, since_ns: int, now_ns: int) -> None:
        """Nobody knows what there was between two times."""
        self.begun += 1
        self.under_way.clear()
        self._pages.clear()
        self._all_known = False
        self._add(Replaced(since_ns, now_ns))
        self._add(Replaced(since_ns, now_ns))

    def _since(self) -> list[int]:
        return [one.since_ns for one in self.under_way.values()]

    def _add(self, one: Replaced) -> None:
        self.ended.append(one)
        del self.ended[1:-1]


class Replacements(Programs):
    """Replacements of tables of one network namespace; a context manager.

    Raises `HostError` with the reason where it does not work: the kernel is asked by trying.
    """

    def __init__(self, netns: int) -> None:
        self._netns = netns
        self._tables: dict[tuple[Family, str], History] = {}
        self._told = 0  # of what was lost
        self._marked = 0
        self._read_ns = time.time_ns()
        self._times: OrderedDict[int, int] = OrderedDict()
        self._timing = threading.Lock()
        super().__init__(_ADVICE)

    def _make(self) -> None:
        types = Btf.of_kernel()
        program.require_way(types)
        kept = self._kept
        self._ring = kept(bpf.new_map(bpf.RINGBUF, entries=_RING_BYTES))
        notes, self._notes = self._noted(program.NOTES)
        self._records = Ring(self._ring, _RING_BYTES, program.RECORD)
        maps = program.Maps(self._ring, notes)
        name, licence = b"iptrec_replaced", program.LICENCE
        self._filter = kept(bpf.socket_filter(program.counting(maps), licence, b"iptrec_counted"))
        for code, typedef in (
            (program.given_back(types, maps, self._netns), program.GIVEN_BACK),
            (program.taken(types, maps, self._netns), program.TAKEN),
        ):
            loaded = kept(bpf.tracing(code, licence, types.number(typedef), name))
            kept(bpf.attached(loaded))

    def fileno(self) -> int:
        """For poll: ready once a replacement has ended."""
        return self._ring

    def count(self, opened: socket.socket) -> None:
        """Count the messages that come into a socket from now on."""
        bpf.filtered(opened, self._filter)

    def marks(self) -> list[tuple[int, int]]:
        """Of each replacement that began since the last call how many messages were there, and when (epoch)."""
        begun, places = self.begun, program.PLACES // 8
        first = max(self._marked, begun - _KEPT)
        self._marked = begun
        found = []
        for one in range(first, begun):
            at = places + 2 * (one % program.SLOTS)
            # A message is counted a moment before it is there; other processors may have one each.
            there = self._notes[at + 1] - (os.cpu_count() or 1) + 1
            found.append((there, self._epoch(self._notes[at])))
        return found

    @property
    def begun(self) -> int:
        """How many replacements of tables began up to now."""
        return self._notes[program.BEGUN // 8]

    @property
    def astray(self) -> bool:
        """Whether a table was replaced in a way that is not followed, by a 32-bit program or io_uring."""
        return self._notes[program.STRANGE // 8] > 0

    def of(self, family: Family, table: str) -> History:
        """What is known of a table; to be called by one thread only, as is `read`."""
        return self._tables.setdefault((family, table), History())

    def read(self) -> None:
        """Take what the kernel has told."""
        now = time.time_ns()
        for one in self._rows():
            process, time_ns = int(one["process"]), self._epoch(int(one["time"]))
            table = bytes(one["table"])
            told = process, time_ns, int(one["page"]) if table else None
            for history in self._named(_FAMILIES[int(one["level"])], table):
                (history.begin if one["begins"] else history.end)(*told)
        lost = self._notes[program.LOST // 8]
        if lost != self._told:
            self._told = lost
            for history in self._tables.values():
                history.lose(self._read_ns, time.time_ns())
        self._read_ns = now

    def _rows(self) -> Iterator[np.void]:
        """All records, those included that wait behind one that another processor is just writing."""
        while not self._records.empty:
            yield from self._records.rows().view(program.LAYOUT)[:, 0]

    def _named(self, family: Family, name: bytes) -> list[History]:
        """The table; where its name could not be read, all of the family."""
        table = name.decode("latin-1")
        if table and ((family, table) in self._tables or len(self._tables) < _TABLES):
            return [self.of(family, table)]
        return [] if table else [one for (of, _), one in self._tables.items() if of == family]

    def _epoch(self, time_ns: int) -> int:
        """The same moment always is the same, though it is asked for by two threads."""
        with self._timing:
            if time_ns not in self._times:
                self._times[time_ns] = time_ns + since_the_epoch()
                if len(self._times) > _TIMES:
                    self._times.popitem(last=False)
            return self._times[time_ns]
