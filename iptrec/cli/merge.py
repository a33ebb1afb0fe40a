"""``iptrec merge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli.output import Mode
from iptrec.cli.record_options import Force
from iptrec.errors import EXIT_DONE, RecordingError, UsageError

if TYPE_CHECKING:
    from iptrec.recording.several import Several


def merge(
    recordings: Annotated[
        list[str], typer.Argument(metavar="TRACE.db...", help="The recordings, or '*.db'.")
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="The file to be made; - is stdout."),
    ],
    force: Force = False,
    mode: Mode = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks.")
    ] = False,
) -> int:
    """Make one file of several recordings.

    Of many hosts, or of one host at several times. Every command that reads answers of the file as it does of
    the recordings together; each stays what it was, with its own clock. Merged files can be merged again.
    An iptrec that does not know of such files says so.

    Examples:

      iptrec merge before.db after.db -o both.db

      iptrec merge '*.db' -o all.db
    """
    from iptrec.cli import gzipped
    from iptrec.cli.output import built
    from iptrec.cli.recordings import opened, several_of
    from iptrec.cli.several import split, wrong
    from iptrec.recording.rewrite import Rewrite

    gzipped.require_plain(Path(output), "merge")
    files, rest = split(recordings[0], recordings[1:])
    if rest:
        raise UsageError(wrong(rest[0]))
    if len(files) < 2:  # noqa: PLR2004
        raise UsageError("merge takes several recordings: iptrec merge a.db b.db -o all.db")
    with (
        opened(*files, bar=not quiet, title="merging", merged=True, remarks=not quiet) as source,
        built(output, files, force=force, mode=mode) as draft,
    ):
        with Rewrite(draft, merged=True) as rewrite:
            rewrite.merge(several_of(source))
        _check(draft.path, several_of(source))
    return EXIT_DONE


def _check(path: Path, source: Several) -> None:
    """Raise `RecordingError` for a file that could not be read, as that of very many recordings."""
    from iptrec.recording.reader import Reader
    from iptrec.recording.several import Several

    try:
        with Several([Reader(path)]) as made:
            next(iter(made.snapshots()), None)
    except RecordingError:
        raise RecordingError(
            f"{source.path}: together they have more than one file can hold"
        ) from None
