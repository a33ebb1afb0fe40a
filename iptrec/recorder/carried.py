"""What the next file begins with (--rotate): the rules since its first event, as they were recorded.

They are not listed again: that takes a while, and rules that change meanwhile, or that have changed since that
event, would not be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.recording.writer import Blob

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from iptrec.recorder.backend import Evidence

# Packets may be under way in the old rules for a moment when the new ones are there.
_UNDER_WAY_NS: Final = 10_000_000
_MOST_BYTES: Final = 1 << 20  # told since the last listing: it counts for the size of the file, too


class Kept(NamedTuple):
    """A snapshot, as `Evidence.snapshot` takes it."""

    kind: str
    source: str
    content: Blob
    time_ns: int
    after_ns: int | None = None

    @classmethod
    def of(cls, kind: str, source: str, content: bytes, time_ns: int) -> Kept:
        """A snapshot of one moment."""
        return cls(kind, source, Blob.of(content), time_ns)

    def store(self, evidence: Evidence) -> None:
        """Keep it in the file that is written."""
        evidence.snapshot(
            self.kind, self.source, self.content, time_ns=self.time_ns, after_ns=self.after_ns
        )


class CarriedTables:
    """Of legacy iptables: how all tables were at first, and the last states of each since."""

    def __init__(self) -> None:
        self._first: list[Kept] = []
        self._states: dict[Hashable, list[Kept]] = {}

    def begin(self, one: Kept) -> None:
        """Keep a snapshot of the beginning, and store it again in each file."""
        self._first.append(one)

    def add(self, table: Hashable, one: Kept, since_ns: int) -> None:
        """Keep a table's new state; ``since_ns``: no event that comes next was logged before it (epoch)."""
        states = [*self._states.get(table, []), one]
        over = [at for at, state in enumerate(states) if state.time_ns < since_ns - _UNDER_WAY_NS]
        self._states[table] = states[over[-1] if over else 0 :]

    def store(self, evidence: Evidence) -> None:
        """Begin another file with them."""
        states = (one for some in self._states.values() for one in some)
        with evidence.writer.together():
            for one in (*self._first, *sorted(states, key=lambda one: one.time_ns)):
                one.store(evidence)


class _Commit(NamedTuple):
    """What told of a commit, and when it was received (epoch); ``generation``: of the ruleset that it made."""

    generation: int
    told: list[tuple[int, bytes]]


class CarriedRuleset:
    """Of nf_tables: its last listing of one moment, and all that was told of it since.

    What readers make of these is what they make of them in one file. ``whole``: whether it is all there is:
    nothing was lost, nor so much told that it is better listed again.
    """

    def __init__(self) -> None:
        self._commit: list[tuple[int, bytes]] = []  # that is being told
        self.forget()

    def forget(self) -> None:
        """Know nothing, until a listing comes."""
        self.whole = False
        self._generation = 0  # of the listing
        self._states: list[Kept] = []
        self._texts: list[Kept] = []  # of rules that no listing has
        self._before = 0  # how many of them are of files before this one
        self._commits: list[_Commit] = []
        self._bytes = 0

    def list(self, parts: Iterable[Kept], generation: int) -> None:
        """Keep a listing of one moment, and the number that the ruleset had."""
        self.whole, self._generation = True, generation
        self._states = [*parts]
        self._texts, self._before = self._texts[self._before :], 0
        self._commits = [one for one in self._commits if one.generation > generation]
        self._bytes = sum(len(one.content.data) for one in self._texts)
        self._bytes += sum(len(data) for one in self._commits for _, data in one.told)

    def add(self, parts: Iterable[Kept]) -> None:
        """Keep that the ruleset was another one, which nobody listed."""
        self._states += parts

    def tell(self, text: Kept) -> None:
        """Keep what rules say that no listing has."""
        self._texts.append(text)
        self._grow(len(text.content.data))

    def changed(self, received_ns: int, datagram: bytes, generation: int | None) -> None:
        """Keep what the kernel told; ``generation``: of the ruleset, where it told that a commit is over."""
        self._commit.append((received_ns, datagram))
        if generation is not None:
            told, self._commit = self._commit, []
            if generation > self._generation:
                self._commits.append(_Commit(generation, told))
                self._grow(sum(len(data) for _, data in told))

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes > _MOST_BYTES:
            self.forget()

    def store(self, evidence: Evidence, kind: str) -> None:
        """Begin another file with them; ``kind``: of the stream of changes."""
        self._before = len(self._texts)
        with evidence.writer.together():
            for one in sorted([*self._states, *self._texts], key=lambda one: one.time_ns):
                one.store(evidence)
        told = [one for commit in self._commits for one in commit.told]
        for received_ns, datagram in [*told, *self._commit]:
            lengths = np.array([len(datagram)], np.uint32)
            evidence.writer.append(evidence.streams.ids[kind], received_ns, lengths, datagram)
