"""The directory of a lake: what is in it, and how a recording's files get there.

Every file is written in a draft beside the tables and gets its name when it is whole. A recording has come
in when its row in `recordings` is there, which is the last of its files to come and the first to go: files
of a recording without one were left by an export that was interrupted, and the next one takes them away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from iptrec import descriptors
from iptrec.errors import RecordingError, UsageError
from iptrec.files import DraftDirectory, Place
from iptrec.lake import tables
from iptrec.lake.event_rows import EventRows
from iptrec.lake.files import Files
from iptrec.lake.layouts import LAST, layouts, schema_of
from iptrec.lake.rows import Rows, name
from iptrec.lake.whole import all_there, fits, is_broken, recording_of
from iptrec.views.days import day
from iptrec.views.published import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.answers.packets import Packets
    from iptrec.lake.answer import Ask
    from iptrec.recording.rows import Facts, Recording
    from iptrec.views.events import Schema

_DRAFT: Final = re.compile(r"\.iptrec-[0-9a-f]{16}")
_OTHERS: Final = ("host=", "date=")  # directories of `export parquet -o`, which has another order
_SEARCH: Final = 0o111


def is_lake(path: Path) -> bool:
    """Whether recordings have come in there."""
    return any((path / LAST).glob("dt=*/host=*/*.parquet"))


def _require(path: Path) -> None:
    """Raise `UsageError` where no lake is."""
    if not path.exists():
        raise UsageError(f"{path}: No such file or directory")
    if not is_lake(path):
        raise UsageError(
            f"{path} is not a lake: it has no recordings; see iptrec export parquet --help"
        )


def require_ours(path: Path) -> None:
    """Raise `UsageError` for a lake of events of another schema."""
    found = schema_of({one.name for one in path.iterdir()})
    if found not in (None, OURS):
        raise UsageError(
            f"{path} is a lake of schema {found}; iptrec lake asks those of schema {OURS}: see docs/lake.md"
        )


def require_format(path: Path, found: object) -> None:
    """Raise `UsageError` for another format of a lake than that of this iptrec."""
    if found != tables.FORMAT:
        raise UsageError(
            f"{path} is a lake of format {found}, this iptrec knows format {tables.FORMAT}"
        )


def require_known(path: Path, ask: Ask) -> None:
    """Raise `UsageError` where one of the recordings came in by an iptrec with another format."""
    for (found,) in ask("SELECT DISTINCT format FROM recordings").rows:
        require_format(path, found)


def _files(path: Path) -> dict[str, list[Path]]:
    found = {table: sorted((path / table).glob("dt=*/host=*/*.parquet")) for table in tables.NAMED}
    come = {recording_of(one.name) for one in found[LAST]}
    kept = {
        table: [one for one in paths if recording_of(one.name) in come]
        for table, paths in found.items()
    }
    return kept | {"rules": sorted((path / "rules").glob("*.parquet"))}


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other export is at work there meanwhile. Raises `RecordingError` where one is."""
    with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@dataclass(frozen=True, slots=True)
class AtRest:
    """A lake while it is read. ``files``: those of each table, below ``path``. ``aside``: for temporary files.

    ``link``: another name of its directory, for engines that take a path for a pattern, or NAME=VALUE above the
    lake for a column.
    """

    path: Path
    aside: Path
    files: dict[str, list[Path]]

    @property
    def link(self) -> Path:
        """There are no such names in it."""
        return self.aside / "lake"

    def told(self, error: Exception) -> RecordingError:
        """What an engine says of a file."""
        said = _first_line(error).replace(str(self.link), str(self.path))
        return RecordingError(said if said.startswith(f"{self.path}") else f"{self.path}: {said}")


@contextlib.contextmanager
def at_rest(path: Path) -> Iterator[AtRest]:
    """Rules, and the files of the recordings that have come in; an export waits meanwhile.

    Raises `UsageError` where no lake is.
    """
    _require(path)
    require_ours(path)
    with (
        _locked(path / LAST, fcntl.LOCK_SH),
        tempfile.TemporaryDirectory(prefix="iptrec-") as aside,
    ):
        files = {
            table: [one.relative_to(path) for one in some] for table, some in _files(path).items()
        }
        found = AtRest(path, Path(aside), files)
        found.link.symlink_to(path.absolute())
        yield found


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise RecordingError(
                f"{path}: another iptrec export is at work there; try again when it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)


class Lake:
    """A lake that is written to; a context manager.

    ``mode``: of its files, instead of 0600. ``schema``: of its events; None: our own. Raises `UsageError` for a
    directory of something else, `RecordingError` where others can change it or another export is at work,
    OSError.
    """

    def __init__(self, path: Path, mode: int | None = None, schema: Schema | None = None) -> None:
        self.path = path
        self._schema = schema
        self._layouts = layouts(schema)
        self._mode = mode
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._make()
            self._place = Place(self.path / "draft")
            stack.callback(self._place.close)
            self._place.require_safe()
            self._root = descriptors.path_to(self._place.directory, self.path)
            stack.enter_context(alone(self.path))
            self._check()
            self._begin()
            self._files = self._found()
            self._known_rows = self._known(self._files)
            self._broken: set[str] = set()  # files of rules
            self._rules = self._rule_ids()
            self._take_away()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has(self, facts: Facts, fingerprint: str) -> bool:
        """Whether this very recording has come in, written by this iptrec, and is still there whole."""
        own = name(facts)
        row, paths = self._known_rows.get(own), self._files.get(own, [])
        return (
            row is not None
            and row["fingerprint"] == fingerprint
            and all_there(paths)
            and fits(self._root, paths, row, self._layouts, self._rules)
        )

    def has_whole(self, facts: Facts) -> bool:
        """Whether a recording that is cut off, or still grows, has come in with its end already."""
        found = self._known_rows.get(name(facts))
        return found is not None and found["closed"] == 1 and not facts.closed

    def add(self, recording: Recording, packets: Packets, fingerprint: str) -> None:
        """Let a recording come in; what an earlier state of it had goes."""
        facts = recording.facts
        own = name(facts)
        rows: Rows | EventRows = (
            Rows(recording, packets, own)
            if self._schema is None
            else EventRows(recording, packets, own, self._schema)
        )
        with DraftDirectory(self.path / "draft", mode=self._mode) as draft:
            with Files(draft, own, facts.host, day(facts.started_ns), self._layouts) as files:
                files.fill(rows.batches())
                files.recording(rows.itself(fingerprint))
                if new := rows.rules.keys() - self._rules:
                    called = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()[:32]
                    files.rules(rows.contents(self._rules), called)
            draft.settle()
            self._replace(draft, own, files.written)
        self._rules |= new
        self._files[own] = [one for one in files.written if not one.startswith("rules/")]
        self._known_rows |= self._known([own])

    def _replace(self, draft: DraftDirectory, own: str, written: list[str]) -> None:
        old = self._files.get(own, [])
        self._require_led([*old, *written])
        with self._place.acting(), self._changing():
            self._unlink(one for one in old if one.startswith(LAST))
            for one in sorted(written, key=lambda path: path.startswith(LAST)):
                if one.startswith(LAST):
                    self._unlink((self._broken | set(old)) - set(written))
                self._move(draft, one)
        self._broken.clear()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Who asks the lake is waited for, and waits."""
        there = (self._root / LAST).is_dir()
        with _locked(self._root / LAST, fcntl.LOCK_EX) if there else contextlib.nullcontext():
            yield

    def _move(self, draft: DraftDirectory, path: str) -> None:
        for folder in [*Path(path).parents][-2::-1]:
            status = (draft.path / folder).stat()
            with self._at(folder) as place:
                _make_directory(place, stat.S_IMODE(status.st_mode))
        with self._at(path) as place, place.acting():
            (draft.path / path).rename(
                descriptors.path_to(place.directory, place.path.parent) / place.name
            )

    def _unlink(self, paths: Iterable[str]) -> None:
        for one in paths:
            with contextlib.suppress(FileNotFoundError), self._at(one) as place:
                place.unlink(place.name)
            with contextlib.suppress(OSError):  # others' files are there, too
                for folder in [*Path(one).parents][:2]:
                    with self._at(folder) as place, place.acting():
                        os.rmdir(place.name, dir_fd=place.directory)

    def _require_led(self, paths: Iterable[str]) -> None:
        """Raise `RecordingError` before anything is changed, where others lead root elsewhere."""
        for folder in {Path(one).parent for one in paths}:
            with contextlib.suppress(FileNotFoundError), self._at(folder / "*"):
                pass

    @contextlib.contextmanager
    def _at(self, path: str | Path) -> Iterator[Place]:
        """A name in the lake, whose directory is held open.

        Raises `RecordingError` where others lead root elsewhere, as they can where they may add names; OSError.
        """
        with contextlib.closing(Place(self.path / path)) as place:
            place.require_safe()
            yield place

    def _make(self) -> None:
        """The directory, where none is."""
        with contextlib.closing(Place(Path(os.path.abspath(self.path)))) as place:  # noqa: PTH100 - no links
            _make_directory(place, self._searched(self._mode))

    def _check(self) -> None:
        """Raise `UsageError` where something else than a lake is, or one of another schema."""
        wanted = OURS if self._schema is None else self._schema.name
        found = schema_of({one.name for one in self._root.iterdir()}) or wanted
        if found != wanted:
            raise UsageError(
                f"{self.path} is a lake of schema {found}; --schema {wanted} takes a directory of its own"
            )
        for one in self._root.iterdir():
            if one.name in self._layouts:
                inside = [below.name for below in one.iterdir()]
                if any(below.startswith(_OTHERS) for below in inside):
                    raise UsageError(
                        f"{self.path} is what export parquet -o made of one recording; name another directory"
                    )
            elif not _DRAFT.fullmatch(one.name):
                raise UsageError(
                    f"{self.path} holds {one.name}, which is not of a lake; name an empty or a new directory"
                )

    @staticmethod
    def _searched(mode: int | None) -> int | None:
        """A directory's, whose files have this mode."""
        return None if mode is None else mode | (mode >> 2 & _SEARCH)

    def _begin(self) -> None:
        """The directory by which the schema is known, even where no packet comes in; none leads elsewhere."""
        if self._schema is not None:
            with self._at(self._schema.table) as place:
                _make_directory(place, self._searched(self._mode))
        self._require_led(f"{table}/*" for table in self._layouts)

    def _found(self) -> dict[str, list[str]]:
        """The files of each recording, whether it has come in or not."""
        found: dict[str, list[str]] = {}
        for table in self._layouts.keys() - {"rules"}:
            for path in (self._root / table).glob("dt=*/host=*/*.parquet"):
                if own := recording_of(path.name):
                    found.setdefault(own, []).append(str(path.relative_to(self._root)))
        return found

    def _known(self, recordings: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is to be known of each of them that has come in, as far as that can be read.

        Raises `UsageError` for another format.
        """
        known: dict[str, dict[str, Any]] = {}
        columns = ["fingerprint", "closed", "format", "packets", "steps", "losses"]
        for own in recordings:
            for path in (one for one in self._files[own] if one.startswith(LAST)):
                if (rows := self._read(path, columns)) is not None:
                    row = rows[0] if len(rows) == 1 else {}
                    require_format(self.path, row.get("format"))
                    known[own] = row
        return known

    def _rule_ids(self) -> set[str]:
        found: set[str] = set()
        for path in (self._root / "rules").glob("*.parquet"):
            rows = self._read(f"rules/{path.name}", ["rule_id"])
            if rows is None:
                self._broken.add(f"rules/{path.name}")
            found.update(row["rule_id"] for row in rows or ())
        return found

    def _read(self, path: str, columns: list[str]) -> list[dict[str, Any]] | None:
        """The rows of a small file; None: it is broken, and to be written again."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional

        try:
            rows: list[dict[str, Any]] = pq.ParquetFile(self._root / path).read(columns).to_pylist()
        except (OSError, ValueError) as error:
            if not is_broken(error):
                raise
            return None
        return rows

    def _take_away(self) -> None:
        """What exports left that were interrupted."""
        for one in self._root.iterdir():
            if _DRAFT.fullmatch(one.name):
                self._place.remove_tree(one.name)
        with self._place.acting(), self._changing():
            for own, paths in [*self._files.items()]:
                if not any(one.startswith(LAST) for one in paths):
                    self._unlink(set(self._files.pop(own)))


def _make_directory(place: Place, mode: int | None) -> None:
    """The directory of that name, where none is. ``mode``: instead of 0700."""
    if place.status(place.name) is not None:
        return
    with contextlib.suppress(FileExistsError):
        descriptor = place.make_directory(place.name)
        try:
            with place.acting():
                if mode is not None:
                    os.fchmod(descriptor, mode)
                if place.owner is not None:
                    os.fchown(descriptor, place.owner.uid, place.owner.gid)
        finally:
            os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
