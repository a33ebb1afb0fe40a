"""``iptrec export parquet LAKE/ A.db B.db``: many recordings into one directory."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, IptrecError, RecordingError, UsageError, located

if TYPE_CHECKING:
    from iptrec.api import Recording
    from iptrec.lake.directory import Lake
    from iptrec.views.events import Schema


def put(
    lake: str,
    chosen: which.Chosen,
    schema: Schema | None,
    *,
    force: bool,
    mode: str,
    jobs: int,
    quiet: bool,
) -> int:
    """Put the recordings, the words of ``chosen``, into a lake. Raises `UsageError` where none is meant.

    One that cannot be read keeps no other out. What is wrong with it is told in the end.
    """
    from iptrec.cli import complain
    from iptrec.cli.output import mode_of
    from iptrec.lake import directory

    paths = chosen.words or []
    if not (lake.endswith("/") or Path(lake).is_dir()):
        raise UsageError(
            "export parquet takes -o DIR for one recording, or a lake and recordings:"
            " iptrec export parquet LAKE/ A.db B.db"
        )
    if replace(chosen, words=None, utc=False) != which.NOTHING_TYPED:
        raise UsageError("a lake takes recordings whole; leave out the options that choose packets")
    if not paths:
        raise UsageError(f"no recording is named: iptrec export parquet {lake} A.db B.db")
    came: dict[str, str] = {}
    failed: list[IptrecError] = []
    try:
        with directory.Lake(Path(lake), mode_of(mode), schema) as into:
            for number, path in enumerate(paths, 1):
                title = f"{number}/{len(paths)} {Path(path).name}"[:40]
                try:
                    _put(
                        into,
                        path,
                        came,
                        schema,
                        force=force,
                        jobs=jobs,
                        title="" if quiet else title,
                    )
                except (RecordingError, UsageError) as error:
                    failed.append(error)
    except OSError as error:
        raise RecordingError(f"cannot write {lake}: {located(error)}") from None
    for one in failed[:-1]:
        complain(one.typed)
    if failed:
        raise failed[-1]
    return EXIT_DONE


def _put(
    into: Lake,
    path: str,
    came: dict[str, str],
    schema: Schema | None,
    *,
    force: bool,
    jobs: int,
    title: str,
) -> None:
    from iptrec.cli import recordings
    from iptrec.lake import rows

    if not Path(path).is_file():
        with recordings.opened(path):  # says what is wrong, if anything
            raise UsageError(
                f"{path}: a lake takes files, which can be compared with what is there"
            )
    with recordings.opened(path, bar=bool(title), jobs=jobs, title=title) as recording:
        facts = recording.facts
        own, now = rows.name(facts), _fingerprint(path, recording, schema)
        if own in came and came[own] != path and not into.has(facts, now):
            raise UsageError(
                f"{came[own]} and {path} are states of one recording; put only the later one into a lake"
            )
        came[own] = path
        if into.has(facts, now) and not force:
            return
        if into.has_whole(facts) and not force:
            raise UsageError(
                f"{path} is cut off, and the lake has that recording with its end; use --force to replace it"
            )
        packets = recording.packets().columns()
        into.add(recording.rows, packets, now)
        said = recordings.flaws(recording, packets.unjudged) if title else []
        if said:
            recordings.tell("export", [f"{path}: {'; '.join(said)}"])


def _fingerprint(path: str, recording: Recording, schema: Schema | None) -> str:
    """What differs where the rows may: the file, what its log holds beside it, and our own version."""
    from iptrec.lake.tables import FORMAT
    from iptrec.version import __version__

    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    source = recording.rows
    state = [__version__, FORMAT, source.newest_snapshot(), len(source.losses)]
    if schema is not None:
        state += [schema.name, schema.version]
    if not recording.facts.closed:
        state.append(recording.end_ns)
    digest.update(repr(state).encode())
    return digest.hexdigest()
