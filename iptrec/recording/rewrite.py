"""A recording made of another one's rows, under the same numbers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

from iptrec.errors import RecordingError
from iptrec.recording.home import described
from iptrec.recording.packing import pack
from iptrec.recording.schema import APPLICATION_ID, FORMAT, MERGED, SCHEMAS
from iptrec.recording.zstd import Packer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.files import Draft
    from iptrec.recording.rows import (
        Chunk,
        Facts,
        Loss,
        Namespace,
        Recording,
        Snapshot,
        Stream,
    )
    from iptrec.recording.several import Several

_HEAD: Final = "BEGIN; PRAGMA application_id = {}; PRAGMA user_version = {}; {}"
_LEVEL: Final = 3


class Rewrite:
    """A new recording in a draft; a context manager. It is whole once `close` was called."""

    def __init__(self, draft: Draft, level: int = _LEVEL, *, merged: bool = False) -> None:
        """``level``: of zstd, for chunks and contents. ``merged``: there may be several recordings in it."""
        self._format = MERGED if merged else FORMAT
        self._path = draft.place.path
        with self._translating():
            self._made = draft.connect()
            for statement in ("journal_mode = OFF", "locking_mode = EXCLUSIVE"):
                self._made.execute(f"PRAGMA {statement}")
            head = _HEAD.format(APPLICATION_ID, self._format, SCHEMAS[self._format])
            self._made.executescript(head)
        self._packer = Packer(level)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def copy(self, recording: Recording) -> None:
        """All rows of a recording."""
        self.facts(recording.facts)
        for namespace in recording.namespaces:
            self.namespace(namespace)
        for stream in recording.streams:
            self.stream(stream)
        for snapshot in recording.snapshots():
            self.snapshot(snapshot)
        for chunk in recording.chunks():
            self.chunk(chunk)
        for loss in recording.losses:
            self.loss(loss)
        self.close()

    def merge(self, several: Several) -> None:
        """All rows of several recordings; one that grows is told to have been taken while recording."""
        for number, (part, host) in enumerate(zip(several.parts, several.hosts, strict=True), 1):
            self.facts(part.taken(host.running), number, part.file)
            for namespace in part.namespaces:
                self.namespace(namespace, number)
            for stream in part.streams:
                self.stream(stream)
            for snapshot in part.snapshots():
                self.snapshot(snapshot)
            for chunk in part.chunks():
                self.chunk(chunk)
        for loss in several.losses:
            self.loss(loss)
        self.close()

    def facts(self, facts: Facts, number: int = 1, file: str = "") -> None:
        """The row about the recording; of one of several its number from 1, and the name of its file."""
        row: dict[str, Any] = asdict(facts)
        for name in ("command", "families", "interfaces"):
            row[name] = json.dumps(row[name])
        merged = {"file": file} if self._format == MERGED else {}
        self._insert("recording", {"id": number, **merged, **row})

    def namespace(self, one: Namespace, recording: int = 1) -> None:
        """A namespace; of one of several recordings with its number."""
        merged = {"recording": recording} if self._format == MERGED else {}
        self._insert("namespace", asdict(one) | merged)

    def stream(self, one: Stream) -> None:
        """A stream, of any kind."""
        self._insert("stream", asdict(one) | {"detail": json.dumps(one.detail)})

    def snapshot(self, one: Snapshot) -> None:
        """A snapshot, of any kind."""
        row = asdict(one)
        content = row.pop("content")
        digest = hashlib.sha256(content).hexdigest()
        with self._translating():
            known = self._made.execute("SELECT 1 FROM blob WHERE sha256 = ?", [digest]).fetchone()
        if not known:
            data = self._packer.pack(content)
            self._insert(
                "blob", {"sha256": digest, "encoding": "zstd", "size": len(content), "data": data}
            )
        self._insert("snapshot", row | {"blob": digest})

    def chunk(self, one: Chunk) -> None:
        """Datagrams of a stream."""
        raw = pack(one.received_ns, one.lengths, [one.data], one.notes)
        self._insert(
            "chunk",
            {
                "id": one.id, "stream": one.stream, "first_ns": int(one.received_ns[0]),
                "last_ns": int(one.received_ns[-1]), "datagrams": len(one.lengths),
                "noted": one.notes is not None, "encoding": "zstd", "size": len(raw),
                "data": self._packer.pack(raw),
            },
        )  # fmt: skip

    def loss(self, one: Loss) -> None:
        """A loss."""
        self._insert("loss", asdict(one))

    def close(self) -> None:
        """All of it is there."""
        with self._translating():
            self._made.execute("COMMIT")

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        values = [
            one.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if isinstance(one, str)
            else one
            for one in row.values()
        ]
        words = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608
        with self._translating():
            self._made.execute(words, values)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            told = described(error, self._path)
            raise RecordingError(f"cannot write {self._path}: {told}; no file is left") from None
