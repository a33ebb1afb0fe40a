"""The rulesets of a recording, and the place of each event in the one that was in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from iptrec.analyze.grammar import Grammar
from iptrec.decode import prefix as prefixes
from iptrec.decode import ruleset
from iptrec.decode.rule import Ruleset

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from iptrec.analyze.grammar import Place
    from iptrec.decode.nflog import NflogEvents
    from iptrec.recording.rows import Snapshot

    Family = Literal["ipv4", "ipv6"]

_KINDS: Final[dict[Family, str]] = {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}
_HOOKS = 8  # places are coded densely; nflog's hook is 0..4
_AF_INET6 = 10
_ETH_P_IPV6 = 0x86DD


class Rulebook:
    """Resolves events to `Place` numbers; equal places get the same number, over all batches.

    ``places[i]`` is judged by ``grammars[i]``, whose family is ``families[i]``.
    """

    def __init__(self, snapshots: Iterable[Snapshot], own_comment: str | None) -> None:
        self.places: list[Place] = []
        self.grammars: list[Grammar] = []
        self.families: list[Family] = []
        self._known: dict[tuple[bytes, Family, int, int], int] = {}
        self._interned: dict[tuple[int, Place], int] = {}
        self._times: dict[Family, list[int]] = {"ipv4": [], "ipv6": []}
        self._epochs: dict[Family, list[Grammar]] = {"ipv4": [], "ipv6": []}
        ordered = sorted(snapshots, key=lambda snapshot: (snapshot.time_ns, snapshot.id))
        for family, kind in _KINDS.items():
            for snapshot in ordered:
                if snapshot.kind == kind:
                    self._times[family].append(snapshot.time_ns)
                    self._epochs[family].append(
                        Grammar(ruleset.parse(snapshot.content), own_comment)
                    )
            if not self._epochs[family]:
                self._times[family].append(0)
                self._epochs[family].append(Grammar(Ruleset(), own_comment))

    def resolve(self, events: NflogEvents) -> npt.NDArray[np.int32]:
        """The place of each event, shape (n,); -1 where it carries no prefix of a trace."""
        v6 = (events.family == _AF_INET6) | (events.protocol == _ETH_P_IPV6)
        epoch = np.where(v6, self._epoch("ipv6", events), self._epoch("ipv4", events))
        hook = np.minimum(events.hook, _HOOKS - 1).astype(np.int64)
        code = ((events.prefix.astype(np.int64) + 1) * _HOOKS + hook) * 2 + v6
        code = code * (max(len(times) for times in self._times.values()) + 1) + epoch
        _, example, inverse = np.unique(code, return_index=True, return_inverse=True)
        table = np.array(
            [
                self._number(
                    events.prefixes[int(events.prefix[row])] if events.prefix[row] >= 0 else b"",
                    "ipv6" if v6[row] else "ipv4",
                    int(hook[row]),
                    int(epoch[row]),
                )
                for row in example
            ],
            np.int32,
        )
        return table[inverse] if len(table) else np.zeros(0, np.int32)

    def _epoch(self, family: Family, events: NflogEvents) -> npt.NDArray[np.int64]:
        """Which ruleset was in force: the last taken before, the first for what precedes it."""
        taken = np.searchsorted(np.array(self._times[family]), events.received_ns, side="right")
        return np.maximum(taken - 1, 0).astype(np.int64)

    def _number(self, raw: bytes, family: Family, hook: int, epoch: int) -> int:
        key = (raw, family, hook, epoch)
        if key not in self._known:
            parsed = prefixes.parse(raw)
            self._known[key] = -1 if parsed is None else self._intern(parsed, family, hook, epoch)
        return self._known[key]

    def _intern(self, parsed: prefixes.Prefix, family: Family, hook: int, epoch: int) -> int:
        # A ruleset that was taken later may be the one that explains the event.
        candidates = self._epochs[family][epoch:] or self._epochs[family][-1:]
        grammar = next(
            (one for one in candidates if one.place(parsed, hook).explained), candidates[0]
        )
        place = grammar.place(parsed, hook)
        number = self._interned.setdefault((id(grammar), place), len(self.places))
        if number == len(self.places):
            self.places.append(place)
            self.grammars.append(grammar)
            self.families.append(family)
        return number
