"""A recording of one stream that somebody else traced: made in a draft, which is nothing before it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from iptrec.recording.kinds import SNAPSHOTS, STREAMS
from iptrec.recording.rewrite import Rewrite
from iptrec.recording.rows import Chunk, Loss, Namespace, Snapshot, Stream

if TYPE_CHECKING:
    from iptrec.files import Draft
    from iptrec.recording.rows import Facts

_CHUNK_BYTES: Final = 1 << 20
_ONLY: Final = 1  # the number of the namespace, and of the stream


class Imported:
    """What is appended goes into the draft; a context manager. `finish` makes it whole.

    All methods raise `RecordingError` where the file cannot be written.
    """

    def __init__(self, draft: Draft) -> None:
        self._rewrite = Rewrite(draft)
        self._chunks = self._snapshots = self._bytes = 0
        self._times: list[int] = []
        self._datagrams: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._rewrite.__exit__(*exception)

    def append(self, time_ns: int, datagram: bytes) -> None:
        """Add an event (epoch, ns)."""
        self._times.append(time_ns)
        self._datagrams.append(datagram)
        self._bytes += len(datagram)
        if self._bytes >= _CHUNK_BYTES:
            self._store()

    def add_loss(self, first_ns: int, last_ns: int, events: int | None, how: str) -> None:
        """Note a loss; see `rows.Loss`."""
        self._rewrite.loss(Loss(_ONLY, first_ns, last_ns, events, how))

    def add_snapshot(
        self, kind: str, time_ns: int, source: str, content: bytes, media: str = ""
    ) -> None:
        """Add a snapshot of a kind of `kinds.SNAPSHOTS`. ``media``: where it is not written as that kind is."""
        self._snapshots += 1
        media = media or SNAPSHOTS[kind].media
        self._rewrite.snapshot(
            Snapshot(self._snapshots, _ONLY, kind, time_ns, source, content, None, media)
        )

    def finish(self, facts: Facts, kind: str, detail: dict[str, Any]) -> None:
        """All of it is there; ``kind``: of the stream, of `kinds.STREAMS`."""
        self._store()
        self._rewrite.facts(facts)
        self._rewrite.namespace(Namespace(_ONLY, None, 0))
        self._rewrite.stream(Stream(_ONLY, _ONLY, STREAMS[kind].name, detail))
        self._rewrite.close()

    def _store(self) -> None:
        if not self._datagrams:
            return
        self._chunks += 1
        lengths = np.fromiter(map(len, self._datagrams), np.uint32, len(self._datagrams))
        times = np.array(self._times, np.int64)
        self._rewrite.chunk(Chunk(self._chunks, _ONLY, times, lengths, b"".join(self._datagrams)))
        self._times, self._datagrams, self._bytes = [], [], 0
