"""The members of one named set between two listings, by what the kernel told of its elements.

The listing before tells the first of them, the one after must tell the last: else nothing is known of what was
in between. An element with a timeout is told once, and ends in silence:
what is left of its time is told with it. Of an interval that is where it begins: its end goes with it.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from iptrec.decode import nft_changes, nft_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.decode.nft_elements import Element, Told
    from iptrec.decode.nft_keys import Part, Span
    from iptrec.decode.rulesets.nft_sets import NftSet

_MOST_STATES: Final = 64  # that may have been a packet's
_MOST_BOUNDS: Final = 4096  # that are looked at for one packet
_SECOND_NS, _MS_NS = 1_000_000_000, 1_000_000
_TICK_NS: Final = 10_000_000  # a jiffy, at most


class CannotFollowError(Exception):
    """What was told is not all, or does not come to what was listed."""


class Bound(NamedTuple):
    """Where an interval of a set begins, or the one before has ended; of both the former counts."""

    at: int
    begins: bool


# Of an element; in a set of single intervals, else for each part what it reaches from and to.
Key = Bound | tuple[nft_keys.Span, ...]


class Until(NamedTuple):
    """An element ends after the one time, not after the other (epoch, ns)."""

    after_ns: int
    by_ns: int

    def there(self, time_ns: tuple[int, int]) -> bool | None:
        """Whether it had not ended between two times; None: it may have."""
        if time_ns[1] < self.after_ns:
            return True
        return False if time_ns[0] > self.by_ns else None


_FOR_EVER: Final = Until(1 << 63, 1 << 63)
_GONE: Final = Until(-1, -1)


class Commit(NamedTuple):
    """What a transaction did to a set, and when: after a time, not after another one (epoch, ns)."""

    after_ns: int
    by_ns: int
    told: Sequence[Told]


@dataclass(slots=True)
class _State:
    """While the messages are read: whether the set is there, and how many were read.

    ``begun``: when the interval ends whose end must be told next, in a set of those that may end in silence.
    """

    exists: bool
    read: int = 0
    begun: Until | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A set after each of some transactions; the 0th is what was listed before them.

    ``expiring``: members may end in silence. ``begin``: those of the listing, ``changed``: what became of
    some of them, each after so many messages. ``cleared``: after which messages it was empty; ``read``: how
    many each transaction ends with.
    """

    types: tuple[str, ...]
    interval: bool
    expiring: bool
    begin: Mapping[Key, Until]
    changed: dict[Key, list[tuple[int, Until]]] = field(default_factory=dict)
    cleared: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=lambda: [0])
    bounds: list[int] = field(default_factory=list)
    ranges: list[tuple[Span, ...]] = field(default_factory=list)  # members that are not one value

    @classmethod
    def of(
        cls,
        begin: NftSet | None,
        end: NftSet | None,
        commits: Iterable[Commit],
        carried: Mapping[Key, Until],
    ) -> Self:
        """Replay transactions on a listing. Raises `CannotFollowError`.

        ``begin``, ``end``: None where it is not listed. ``carried``: when elements end, better than listed.
        """
        both = [one for one in (begin, end) if one is not None]
        kinds = {(one.types, one.interval) for one in both}
        if len(kinds) != 1 or any(one.changing for one in both):
            raise CannotFollowError
        ((types, interval),) = kinds
        expiring = any(one.expiring for one in both)
        if not types or not nft_keys.SIZES.keys() >= {*types}:
            raise CannotFollowError
        points = interval and len(types) == 1
        if points and nft_keys.is_name(types[0]):
            raise CannotFollowError
        found = cls(types, points, expiring, _better(listed(begin), carried))
        found._replay(commits, exists=begin is not None, whole=interval)
        found._index()
        found._check(end)
        return found

    @property
    def size(self) -> int:
        """How many changes and transactions it has."""
        return len(self.read) + sum(map(len, self.changed.values()))

    def carried(self) -> dict[Key, Until]:
        """When those that may still be there in the end will end, if they do."""
        return {key: until for key, until in self._last() if until != _FOR_EVER}

    def has(
        self, own: Sequence[Part | None], states: tuple[int, int], time_ns: tuple[int, int]
    ) -> bool | None:
        """Whether a packet was in it, whichever of its states it met, between two times."""
        first, last = states
        if last - first > _MOST_STATES or len(own) != len(self.types):
            return None
        found = {self._in(own, state, time_ns) for state in range(first, last + 1)}
        if self._cleared_in(first, last):
            found.add(False)
        return found.pop() if len(found) == 1 else None

    def _cleared_in(self, first: int, last: int) -> bool:
        """Whether a set was made anew between two states.

        Then packets may find it empty: some types get the elements of a transaction a moment after it is in
        force (nft_set_commit_update).
        """
        at = bisect.bisect_left(self.cleared, self.read[first])
        return at < len(self.cleared) and self.cleared[at] < self.read[last]

    def _replay(self, commits: Iterable[Commit], *, exists: bool, whole: bool) -> None:
        state = _State(exists)
        for commit in commits:
            for told in commit.told:
                self._take(told, commit, state, whole=whole)
                state.read += 1
            self.read.append(state.read)
            if state.begun is not None:
                raise CannotFollowError

    def _take(self, told: Told, commit: Commit, state: _State, *, whole: bool) -> None:
        """``whole``: the set is one of intervals, of whatever kind."""
        match told.kind:
            case nft_changes.NEW_RULE:
                raise CannotFollowError
            case nft_changes.DELETE_SET:
                state.exists = False
                self.cleared.append(state.read)
            case nft_changes.NEW_SET:
                if told.interval != whole or told.key_size != nft_keys.size(self.types):
                    raise CannotFollowError
                if not state.exists:
                    self.cleared.append(state.read)
                state.exists = True
            case _:
                for one in told.elements:
                    self._change(one, told.kind, commit, state)

    def _change(self, one: Element, kind: int, commit: Commit, state: _State) -> None:
        try:
            key = self._key(one)
        except (ValueError, LookupError):
            raise CannotFollowError from None
        until = _GONE
        if kind == nft_changes.NEW_ELEMENTS:
            until = _until(one, commit)
            if self._latest(key).there((commit.after_ns, commit.by_ns)) is None:
                # It ended just then: whether it was kept or came anew, or ended all the same.
                until = until._replace(after_ns=_GONE.after_ns)
            if self.expiring and isinstance(key, Bound):
                until = _paired(key, until, state)
        self.changed.setdefault(key, []).append((state.read, until))

    def _latest(self, key: Key) -> Until:
        """When an element ends, by what was read so far."""
        if changes := self.changed.get(key):
            return changes[-1][1]
        return self.begin.get(key, _GONE)

    def _key(self, one: Element) -> Key:
        low = nft_keys.of_kernel(one.key, self.types)
        if self.interval:
            if isinstance(low[0], str) or one.upto is not None:
                raise ValueError(one)
            return Bound(low[0], not one.ends)
        high = low if one.upto is None else nft_keys.of_kernel(one.upto, self.types)
        return tuple(zip(low, high, strict=True))

    def _index(self) -> None:
        keys = {**self.begin, **self.changed}
        self.bounds.extend(sorted({one.at for one in keys if isinstance(one, Bound)}))
        self.ranges.extend(
            one
            for one in keys
            if not isinstance(one, Bound) and any(low != high for low, high in one)
        )

    def _last(self) -> Iterator[tuple[Key, Until]]:
        """Those that were there in the end, or may have been."""
        last = len(self.read) - 1
        for key in {**self.begin, **self.changed}:
            if (until := self._until(key, last)) != _GONE:
                yield key, until

    def _check(self, end: NftSet | None) -> None:
        """Raise `CannotFollowError` where other members are listed in the end."""
        replayed, wanted = dict(self._last()), listed(end)
        begun, ended = (0, 0) if end is None else end.listed_ns
        for key in replayed.keys() | wanted.keys():
            until = replayed.get(key, _GONE)
            agrees = until.by_ns >= begun if key in wanted else until.after_ns <= ended
            if not (agrees or _tells_nothing(key, replayed) or _tells_nothing(key, wanted)):
                raise CannotFollowError

    def _until(self, key: Key, state: int) -> Until:
        """When an element ends that is there in a state; `_GONE` if it is not."""
        read = self.read[state]
        at = bisect.bisect_left(self.cleared, read)
        cleared = self.cleared[at - 1] if at else -1
        changes = self.changed.get(key, ())
        number = bisect.bisect_left(changes, read, key=lambda one: one[0])
        if number:
            when, until = changes[number - 1]
            return until if when > cleared else _GONE
        return self.begin.get(key, _GONE) if cleared < 0 else _GONE

    def _in(self, own: Sequence[Part | None], state: int, time_ns: tuple[int, int]) -> bool | None:
        if self.interval:
            return self._within(own[0], state, time_ns)
        found = {self._until(key, state).there(time_ns) for key in self._reaching(own)}
        if None in own:
            return None if found - {False} else False
        return True if True in found else None if None in found else False

    def _within(self, own: Part | None, state: int, time_ns: tuple[int, int]) -> bool | None:
        if not isinstance(own, int):
            return None
        at = bisect.bisect_right(self.bounds, own)
        for bound in reversed(self.bounds[max(at - _MOST_BOUNDS, 0) : at]):
            for begins in (True, False):
                there = self._until(Bound(bound, begins), state).there(time_ns)
                if there is not False:
                    return begins if there else None
        return None if at > _MOST_BOUNDS else False

    def _reaching(self, own: Sequence[Part | None]) -> Iterator[Key]:
        """The elements that a packet may be in, as far as it is known."""
        known = [one for one in own if one is not None]
        if len(known) == len(own):
            yield tuple((one, one) for one in known)
            some: Iterable[Key] = self.ranges
        else:
            some = {**self.begin, **self.changed}
        for key in some:
            if not isinstance(key, Bound) and all(map(_fits, own, key)):
                yield key


@dataclass(frozen=True, slots=True)
class Replayed:
    """A set in those of its states that a packet may have met, from the first to the last of two."""

    history: History
    states: tuple[int, int]

    def has(self, own: Sequence[Part | None], time_ns: tuple[int, int]) -> bool | None:
        """See `History.has`."""
        return self.history.has(own, self.states, time_ns)


def listed(one: NftSet | None) -> Mapping[Key, Until]:
    """The members of a listing. Raises `CannotFollowError` where they are not understood."""
    if one is None:
        return {}
    if listed not in one.cache:
        one.cache[listed] = _listed(one)
    found: Mapping[Key, Until] | None = one.cache[listed]
    if found is None:
        raise CannotFollowError
    return found


def _listed(one: NftSet) -> Mapping[Key, Until] | None:
    found: dict[Key, Until] = {}
    for member in one.members:
        try:
            key = nft_keys.of_listing(member.key, one.types)
        except (ValueError, LookupError, TypeError):
            return None
        until = _FOR_EVER
        if member.expires_s is not None:
            after, by = (at + member.expires_s * _SECOND_NS for at in one.listed_ns)
            until = Until(after - _SECOND_NS, by + 2 * _SECOND_NS)
        if not (one.interval and len(one.types) == 1):
            found[key] = until
            continue
        ((low, high),) = key
        if isinstance(low, str) or isinstance(high, str):
            return None
        found[Bound(low, begins=True)] = until
        if high + 1 < 1 << 8 * nft_keys.size(one.types):
            found[Bound(high + 1, begins=False)] = until
    return found


def _better(listed: Mapping[Key, Until], carried: Mapping[Key, Until]) -> Mapping[Key, Until]:
    """Members that were listed, with what was told before of when they end."""
    found = {}
    for key in listed.keys() & carried.keys():
        after = max(listed[key].after_ns, carried[key].after_ns)
        by = min(listed[key].by_ns, carried[key].by_ns)
        if after <= by:
            found[key] = Until(after, by)
    return {**listed, **found} if found else listed


def _until(one: Element, commit: Commit) -> Until:
    """When an element ends that was told; the kernel reckons in jiffies."""
    if one.expires_ms is None:
        return _FOR_EVER
    left = one.expires_ms * _MS_NS
    return Until(commit.after_ns + left - _TICK_NS, commit.by_ns + left + _TICK_NS)


def _paired(key: Bound, until: Until, state: _State) -> Until:
    """When a bound goes that was told: the end of an interval with the interval, which is told just before it.

    Raises `CannotFollowError` where only one of the two is told: nobody knows which one it belongs to.
    """
    if key.at == 0 and not key.begins:
        return until
    if key.begins != (state.begun is None):
        raise CannotFollowError
    begun, state.begun = state.begun, until if key.begins else None
    return begun or until


def _tells_nothing(key: Key, among: Mapping[Key, Until]) -> bool:
    """Whether an interval ends where another one begins, or before all."""
    if not isinstance(key, Bound) or key.begins:
        return False
    return key.at == 0 or Bound(key.at, begins=True) in among


def _fits(own: Part | None, span: Span) -> bool:
    low, high = span
    if own is None:
        return True
    if isinstance(own, str) or isinstance(low, str) or isinstance(high, str):
        return own == low
    return low <= own <= high
