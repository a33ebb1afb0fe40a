"""A whole recording, redacted: every table and column of the file."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.errors import UsageError
from iptrec.recording.hosts import hosts, parts
from iptrec.recording.rows import REMARKS
from iptrec.redact.events import Events
from iptrec.redact.filters import filter_words
from iptrec.redact.maps import Redaction, UntrueError, surveyed
from iptrec.redact.snapshots import Snapshots
from iptrec.redact.words import Words

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Recording, Snapshot, Stream
    from iptrec.redact.key import Key
    from iptrec.redact.maps import Maps
    from iptrec.redact.nft_messages import SetName

NOBODY: Final = "redacted"
# Those of which something has to be known before anything is mapped.
_LEARNED: Final = ("nftables", "rtnetlink")
_FIRST: Final = ("nft", "nft-missed")
_REASON: Final = re.compile(r"[A-Za-z0-9-]{1,20}")
_WORD: Final = re.compile(r"[A-Za-z0-9_ .:/-]*")


class _Changes:
    """What is done to datagrams and contents, by kind."""

    def __init__(self, maps: Maps, types: dict[SetName, Sequence[str]]) -> None:
        self.maps = maps
        self.snapshots = Snapshots(maps, types)
        network = self.snapshots.network
        self.events = events = Events(maps, network)
        self.streams: Mapping[str, Callable[[bytes], bytes]] = {
            "nflog": events.nflog,
            "nftrace": events.nftrace,
            "nftables": self.snapshots.nft_messages,
            "drops": events.drop,
            "senders": events.sender,
            "conntrack": network.conntrack,
            "sockets": network.sockets,
            "route-answers": network.rtnetlink,
            "rtnetlink": network.rtnetlink,
        }


@dataclass(frozen=True, slots=True)
class Redacted:
    """A recording in the place of another one, which is read as this is.

    Rows come as `recording.rows` has them. ``maps``: what stands for what.
    """

    source: Recording
    maps: Redaction
    changes: _Changes

    def facts(self) -> list[tuple[str, Facts]]:
        """The rows about it, each with a name for its file: without host, command line and names.

        There is one, but of recordings that are read as one. Of these each host has another name, so that their
        order stays.
        """
        several = [one.recording.facts for one in hosts(self.source)]
        if not several:
            return [("", self._facts(self.source.facts, NOBODY))]
        named = {
            host: number
            for number, host in enumerate(dict.fromkeys(one.host for one in several), 1)
        }
        return [
            (f"{number:04}.db", self._facts(one, f"{NOBODY}-{named[one.host]:04}"))
            for number, one in enumerate(several, 1)
        ]

    def _facts(self, facts: Facts, host: str) -> Facts:
        return replace(
            facts,
            host=host,
            stop_reason=facts.stop_reason and self._reason(facts.stop_reason),
            command=("iptrec", NOBODY),
            filter=None if facts.filter is None else filter_words(self.maps, facts.filter),
            interfaces=tuple(map(self.maps.name, facts.interfaces)),
        )

    def _reason(self, text: str) -> str:
        """A word of ours."""
        return text if _REASON.fullmatch(text) else NOBODY

    def namespaces(self) -> Iterator[tuple[Namespace, int]]:
        """Without the names that users gave; each with the number from 1 of its row of `facts`."""
        for number, recording in enumerate(parts(self.source), 1):
            for one in recording.namespaces:
                yield replace(one, name=one.name and self.maps.name(one.name)), number

    def streams(self) -> Iterator[Stream]:
        """Those that are understood."""
        for one in self.source.streams:
            if one.kind not in self.changes.streams:
                self.maps.removed(f"streams of the kind {one.kind}")
                continue
            yield replace(one, detail=self._detail(one.detail))

    def snapshots(self) -> Iterator[Snapshot]:
        """Those that are understood."""
        for one in self.source.snapshots():
            content = self.changes.snapshots(one)
            if content is not None:
                yield replace(one, content=content, source=self.changes.snapshots.source(one))

    def chunks(self) -> Iterator[Chunk]:
        """Datagrams of streams that are understood."""
        kinds = {one.id: one.kind for one in self.source.streams}
        if "nftrace" in kinds.values():
            events = self.changes.events
            self._learn({"nflog": events.learn, "drops": events.learn_dropped})
        for chunk in self.source.chunks():
            change = self.changes.streams.get(kinds[chunk.stream])
            if change is None:
                continue
            datagrams = [
                _changed(self.maps, kinds[chunk.stream], change, one)
                for _, one in chunk.datagrams()
            ]
            lengths = np.fromiter(map(len, datagrams), np.uint32, len(datagrams))
            yield replace(chunk, lengths=lengths, data=b"".join(datagrams))

    def losses(self) -> Iterator[Loss]:
        """Of streams that are understood."""
        known = {one.id for one in self.source.streams if one.kind in self.changes.streams}
        return (one for one in self.source.losses if one.stream in known)

    def _learn(self, looks: Mapping[str, Callable[[bytes], bytes | None]]) -> None:
        """Several streams tell of the same packets, and nf_tables of the least of each."""
        for stream in self.source.streams:
            if stream.kind in looks:
                for chunk in self.source.chunks(stream.id):
                    for _, datagram in chunk.datagrams():
                        _changed(self.maps, stream.kind, looks[stream.kind], datagram)

    def _detail(self, detail: Any) -> Any:  # noqa: ANN401 - JSON
        """Numbers, and words of ours: addresses and names in errors are mapped."""
        if isinstance(detail, dict):
            if REMARKS in detail:  # with other words and numbers they would not be true
                self.maps.removed("remarks of iptrec import")
                detail = {key: one for key, one in detail.items() if key != REMARKS}
            return {key: self._detail(one) for key, one in detail.items() if _WORD.fullmatch(key)}
        if isinstance(detail, list):
            return [self._detail(one) for one in detail]
        if isinstance(detail, str):
            return self.maps.prose(detail) if " " in detail else self._word(detail)
        return detail

    def _word(self, text: str) -> str:
        return text if _WORD.fullmatch(text) and not Words(self.maps).has_address(text) else NOBODY


def _changed(
    maps: Maps, kind: str, change: Callable[[bytes], bytes | None], datagram: bytes
) -> bytes:
    """A datagram of a stranger's may be anything: nothing is left of what cannot be read."""
    try:
        return change(datagram) or b""
    except UntrueError as error:
        raise UsageError(f"cannot redact the stream {kind}: {error} would not stay true") from None
    except (ArithmeticError, LookupError, struct.error, ValueError, RecursionError):
        maps.removed(f"messages of the stream {kind} that cannot be read")
        return b""


def redacted(source: Recording, key: Key, keeps: Collection[str]) -> Redacted:
    """Read all that ranges and networks are in, then have the maps.

    Raises `UsageError` with a rule that would not be true of the addresses in the place of others.
    """
    types: dict[SetName, Sequence[str]] = {}
    addresses, survey = surveyed(key, keeps)
    learned = _Changes(survey, types)
    for kinds in (_FIRST, ()):
        for one in source.snapshots(*kinds):
            learned.snapshots(one)
    for stream in source.streams:
        if stream.kind in _LEARNED:
            for chunk in source.chunks(stream.id):
                for _, datagram in chunk.datagrams():
                    _changed(survey, stream.kind, learned.streams[stream.kind], datagram)
    maps = Redaction(key, addresses, keeps, always=_always(source))
    return Redacted(source, maps, _Changes(maps, types))


def _always(source: Recording) -> set[str]:
    """Names that stay: those of our own rules."""
    return {f"iptrec:{one.facts.uuid}" for one in parts(source)}
