"""``record -o FILE.db.gz``: SQLite writes everywhere in a file, so what is compressed is made when it is whole.

Meanwhile it is a recording like others, FILE.part.db beside it. So whatever ends the recorder, all that was
committed can be read by every command as it lies there, and nothing has to be repaired.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
from typing import TYPE_CHECKING, Final, Self

from iptrec.cli.output import publish
from iptrec.errors import RecordingError, UsageError, strerror

if TYPE_CHECKING:
    from pathlib import Path

GZIP: Final = ".gz"
_LEVEL: Final = 6  # chunks are compressed already: 9 takes twice as long for a part in a thousand


def is_gzipped(output: Path) -> bool:
    """Whether such a file is asked for."""
    return output.suffix == GZIP


def require_plain(output: Path, command: str) -> None:
    """Raise `UsageError` for a compressed file, of a command that writes none."""
    if is_gzipped(output):
        raise UsageError(
            f"{output}: iptrec {command} does not compress; name a .db file, and gzip it, or iptrec pack it"
        )


def part_of(output: Path) -> Path:
    """What is recorded to meanwhile."""
    from iptrec.recording.compressed import PART

    return output.with_name(output.name.removesuffix(GZIP).removesuffix(".db") + PART)


class Gzipped:
    """A file that is to be made of a recording; a context manager.

    It is begun before anything is recorded: where it cannot be made that is known then, and later the rights to
    do so may be gone. Raises `UsageError` where it is there (without ``force``), or a recording that was not
    ended is.
    """

    def __init__(self, output: Path, *, force: bool) -> None:
        from iptrec.files import Draft, Place

        self._output, self._force = output, force
        self.part = part_of(output)
        if self.part.exists():
            raise UsageError(
                f"{self.part} exists: what was to be {output.name}, whose recorder was killed or is at work;"
                " iptrec info reads it; move it away or use another --output"
            )
        if output.exists() and not force:
            raise UsageError(f"{output} exists; use --force or another --output")
        if output.exists() and not output.is_file():
            raise UsageError(f"{output} is not a regular file; choose another --output")
        self._source = -1
        try:
            with contextlib.closing(Place(output)) as place:
                given = (
                    place.owner is not None
                )  # in the end root could not link what is another user's
            self._draft = Draft(output, named=given)
        except OSError as error:
            raise RecordingError(f"cannot create {output}: {strerror(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._draft.close()
        self._draft.place.close()
        if self._source >= 0:
            os.close(self._source)

    def begun(self, recording: int) -> None:
        """Hold on to the recording by its descriptor: by its name it may not be ours to read in the end."""
        self._source = os.dup(recording)

    def finish(self) -> int:
        """Compress the recording, give the file its name, and take the recording away; its bytes."""
        if self._source < 0:  # it ended before anything was recorded
            raise RecordingError(f"nothing was recorded to {self._output}")
        try:
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(open(self._source, "rb", closefd=False))
                source.seek(0)
                file = stack.enter_context(self._draft.stream())
                with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
                size = file.tell()
            publish(self._draft, replace=self._force)
        except FileExistsError:
            raise RecordingError(
                f"{self._output} exists by now: the recording is {self.part}"
            ) from None
        except OSError as error:
            raise RecordingError(
                f"cannot write {self._output}: {strerror(error)}; the recording is {self.part}, not compressed"
            ) from None
        except KeyboardInterrupt:
            print(
                f"iptrec record: not compressed: the recording is {self.part}",
                file=sys.stderr,
            )
            raise
        for suffix in ("", "-wal", "-shm"):  # of who still reads it
            self._draft.place.unlink(self.part.name + suffix)
        return size
