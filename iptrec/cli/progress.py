"""How far a command is through a recording: a bar on the terminal once it takes more than a second."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.progress import Progress

    from iptrec.recording.reader import Reader
    from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Recording, Snapshot, Stream
    from iptrec.recording.several import Several

_PATIENCE_S: Final = 1.0


@contextlib.contextmanager
def watched(reader: Reader | Several, title: str, *, quiet: bool = False) -> Iterator[Recording]:
    """The recording, with a bar on stderr that moves as its chunks are read; no bar in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield reader
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    from iptrec.recording.several import Several

    bar = Progress(
        "{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    bar.add_task(title, total=reader.datagrams)
    try:
        heard = _counter(bar)
        if isinstance(reader, Several):
            reader.hear(heard)
            yield reader
        else:
            yield _Watched(reader, heard)
    finally:
        bar.stop()


def _counter(bar: Progress) -> Callable[[Chunk], None]:
    """Is told of each chunk, and moves the bar; nobody sees it before it takes long."""
    begun = time.monotonic()

    def heard(chunk: Chunk) -> None:
        bar.advance(bar.task_ids[0], len(chunk.lengths))
        if time.monotonic() > begun + _PATIENCE_S:
            bar.start()

    return heard


class _Watched:
    """A recording whose chunks are told of as they are read."""

    def __init__(self, reader: Reader, heard: Callable[[Chunk], None]) -> None:
        self._reader, self._heard = reader, heard

    @property
    def facts(self) -> Facts:
        return self._reader.facts

    @property
    def namespaces(self) -> Sequence[Namespace]:
        return self._reader.namespaces

    @property
    def streams(self) -> Sequence[Stream]:
        return self._reader.streams

    @property
    def losses(self) -> Sequence[Loss]:
        return self._reader.losses

    def snapshots(self, *kinds: str) -> Iterable[Snapshot]:
        return self._reader.snapshots(*kinds)

    def newest_snapshot(self) -> int:
        return self._reader.newest_snapshot()

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        for chunk in self._reader.chunks(stream, after):
            yield chunk
            self._heard(chunk)
